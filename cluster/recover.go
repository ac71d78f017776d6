package cluster

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/fsm"
	"github.com/choked/choked/internal/fold"
)

// recoverAfter is how long a node with [Config.Recover] looks for a leader of its
// cluster, and for other nodes that keep the cluster, before it recovers.
const recoverAfter = 10 * time.Second

// startWithRecover is Start for a node that is to recover its cluster. It starts the
// node, which takes its part in the cluster if that has a leader. Otherwise it stops
// the node again, recovers its directory, and starts it anew.
func startWithRecover(cfg Config) (*Node, error) {
	fail := func(err error) (*Node, error) { return nil, fmt.Errorf("recover dir %q: %w", cfg.Dir, err) }
	id, exists, err := readIdentity(cfg.Dir)
	if err != nil {
		return fail(err)
	}
	if !exists || id.Cluster == "" {
		return fail(errors.New("it keeps no cluster: start this node without Recover, and with Recover the node that keeps one"))
	}
	if id.Recovered != "" {
		cfg.Logger.Warn("did not recover, as this was done before: remove Recover from the configuration", "dir", cfg.Dir, "cluster", id.Cluster, "recovered", id.Recovered)
		return start(cfg)
	}
	n, err := start(cfg)
	if err != nil {
		return nil, err
	}
	led, err := n.awaitNeedToRecover(id.Cluster)
	if led {
		n.log.Warn("did not recover, as the cluster has a leader: remove Recover from the configuration", "cluster", id.Cluster)
		return n, nil
	}
	if err := errors.Join(err, n.Close()); err != nil {
		return fail(err)
	}
	if err := recoverDir(cfg); err != nil {
		return fail(err)
	}
	return start(cfg)
}

// awaitNeedToRecover returns after recoverAfter, or when the cluster has a leader. An
// error says why the cluster, that of its Dir, must not be recovered by this node: two
// clusters would admit the full limits each.
func (n *Node) awaitNeedToRecover(cluster string) (led bool, err error) {
	for began := n.clock.Now(); n.clock.Since(began) < recoverAfter; time.Sleep(100 * time.Millisecond) {
		if _, led := n.Leader(); led {
			return true, nil
		}
	}
	if foreign := n.health.recentForeignCluster(); foreign != nil {
		return false, foreign
	}
	servers, err := n.raft.servers()
	if err != nil {
		return false, err
	}
	votes := false
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		m, alive := n.gossip.member(string(s.ID))
		votes = votes || m.Self
		if alive && !m.Self {
			return false, fmt.Errorf("%s at %s keeps cluster %q, too: stop one of the two and empty its Dir first", m.Name, m.Addr, cluster)
		}
	}
	if !votes {
		return false, fmt.Errorf("this node is no voter of cluster %q: start it without Recover, and with Recover a node that is one", cluster)
	}
	return false, nil
}

// recoverDir makes the node of a directory the only voter of a new cluster, with the
// state of the old one as far as the directory has it. The cluster is a new one, so
// that the voters that were lost are refused if they return. If the process ends
// meanwhile, the next start goes on: see [Config.finishRecovery].
func recoverDir(cfg Config) error {
	d, id, err := openDir(cfg.disk())
	if err != nil {
		return err
	}
	defer d.close() //nolint:errcheck // it is opened again
	if d.fresh {
		return fmt.Errorf("it has no log of cluster %q", id.Cluster)
	}
	if id.Recovers == "" {
		id = identity{Node: id.Node, Cluster: newID(), Recovers: id.Cluster}
	}
	// Under the id of the old cluster this node and the voters that were lost could
	// both lead, so the new id is saved first.
	if err := writeIdentity(cfg.Dir, id); err != nil {
		return err
	}
	_, transport := raft.NewInmemTransport("") // Raft takes the form of addresses from it
	err = recoverFault(func() error {
		return raft.RecoverCluster(raftConfig(id.Node, hclogTo(cfg.Logger, new(fold.Events))), fsm.New(), d.logs, d.stable, d.snapshots, transport, onlyVoter(id.Node))
	})
	if err != nil {
		return err
	}
	old := id.Recovers
	id.Recovers, id.Recovered = "", old
	if err := writeIdentity(cfg.Dir, id); err != nil {
		return err
	}
	cfg.Logger.Warn("recovered cluster: what its other voters had decided and this one had not received is lost", "dir", cfg.Dir, "cluster", id.Cluster, "recovered", old)
	return d.close()
}

// finishRecovery completes a recovery that was interrupted. A start without Recover
// also forgets one that is complete, so that Recover has an effect again later.
func (cfg Config) finishRecovery() error {
	if cfg.Dir == "" {
		return nil
	}
	id, exists, err := readIdentity(cfg.Dir)
	if err != nil || !exists {
		return nil // openDisk reports it
	}
	if id.Recovers != "" {
		if err := recoverDir(cfg); err != nil {
			return fmt.Errorf("finish to recover dir %q: %w", cfg.Dir, err)
		}
		return nil
	}
	if id.Recovered != "" && !cfg.Recover {
		id.Recovered = ""
		return writeIdentity(cfg.Dir, id)
	}
	return nil
}

// onlyVoter is the configuration of Raft in which a node votes alone.
func onlyVoter(node string) raft.Configuration {
	id := raft.ServerID(node)
	return raft.Configuration{Servers: []raft.Server{{Suffrage: raft.Voter, ID: id, Address: raftAddress(id)}}}
}

const remedy = "if they are gone for good, empty its Dir or start it with Recover"

// explain adds to err, which says that this node's cluster has no leader, which node keeps
// the cluster, and what can be done about that. A node that does not vote names another one.
func (n *Node) explain(err error) error {
	if !n.voters.isVoter() {
		if k, ok := n.gossip.keeper(n.joined.hasLeft); ok {
			return fmt.Errorf("%w: %w", err, k.explain())
		} else if !slices.ContainsFunc(n.gossip.members(), func(m Member) bool { return m.Voter }) {
			return fmt.Errorf("%w: none of them is known to run: if all are gone for good, restart this node", err)
		}
		return err
	}
	voters, gone := n.voterIDs(), 0
	for _, id := range voters {
		if _, alive := n.gossip.member(id); !alive {
			gone++
		}
	}
	if gone == 0 {
		return err
	}
	if n.cfg.Dir == "" {
		return fmt.Errorf("%w: %d of its %d voters are gone: if they are gone for good, restart this node", err, gone, len(voters))
	}
	remedy := remedy
	if n.recovered {
		remedy += ", which had its effect before: start it once without, then with it again"
	}
	return fmt.Errorf("%w: %s keeps cluster %q, and %d of its %d voters are gone: %s", err, n.cfg.Name, n.cluster(), gone, len(voters), remedy)
}

// keptFor is how long a node without a cluster founds none after a keeper has stopped: its
// machine reboots, or a human starts it with Recover.
const keptFor = 5 * time.Minute

// keeper is a voter that keeps the log of a cluster without a leader in its Dir.
type keeper struct {
	Member
	gone time.Duration // since it stopped; 0: it runs
}

// explain says what keeps a node without a log from founding a cluster beside that of k.
func (k keeper) explain() error {
	if k.gone != 0 {
		return fmt.Errorf("waits for %s at %s, which kept cluster %q and stopped %v ago: start it again; if it is gone for good, restart this node", k.Name, k.Addr, k.cluster, k.gone.Round(time.Second))
	}
	return fmt.Errorf("%s at %s keeps cluster %q, which has no leader as its other voters are gone: %s", k.Name, k.Addr, k.cluster, remedy)
}

// keeper returns another member that is a keeper of a cluster, or the one that has stopped
// last, within keptFor. One at whose address another node runs has lost its Dir. There is
// none while a cluster has a leader; clusters that this node has left do not count.
func (g *gossip) keeper(hasLeft func(id string) bool) (found keeper, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	taken := make(map[string]bool)
	consider := func(id string, k known, gone time.Duration) {
		if !k.meta.Voter || k.meta.Memory || k.meta.Cluster == "" || hasLeft(k.meta.Cluster) || id == g.id || gone >= keptFor || gone > 0 && taken[k.addr] {
			return
		}
		if !ok || gone < found.gone || gone == found.gone && id < found.ID {
			found, ok = keeper{g.describe(id, k), gone}, true
		}
	}
	for id, k := range g.alive {
		if id != g.id && k.meta.Leader && k.meta.Cluster != "" {
			return keeper{}, false
		}
		taken[k.addr] = true
		consider(id, k, 0)
	}
	for id, s := range g.former {
		consider(id, s.known, max(time.Since(s.at), 1))
	}
	return found, ok
}
