package cluster

import (
	"cmp"
	"errors"
	"fmt"
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
	led, err := n.awaitNeedToRecover()
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
// error says why the cluster must not be recovered by this node: two clusters would
// admit the full limits each.
func (n *Node) awaitNeedToRecover() (led bool, err error) {
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
			return false, fmt.Errorf("%s at %s keeps cluster %q, too: stop one of the two and empty its Dir first", m.Name, m.Addr, n.cluster())
		}
	}
	if !votes {
		return false, fmt.Errorf("this node is no voter of cluster %q: start one with Recover that is", n.cluster())
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

// explain adds to err, which says that this node has no cluster or no leader, which
// node keeps a cluster without a leader, and what can be done about that.
func (n *Node) explain(err error) error {
	remedy := "if they are gone for good, empty its Dir or start it with Recover"
	own := n.cluster()
	if own == "" {
		if m, cluster, ok := n.gossip.keeper(); ok {
			return fmt.Errorf("%w: %s at %s keeps cluster %q, which has no leader as its other voters are gone: %s", err, m.Name, m.Addr, cluster, remedy)
		}
		return err
	}
	servers, failed := n.raft.servers()
	if failed != nil {
		return err
	}
	votes, voters, gone := false, 0, 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		m, alive := n.gossip.member(string(s.ID))
		votes = votes || m.Self
		voters++
		if !alive {
			gone++
		}
	}
	if !votes || gone == 0 {
		return err
	}
	if n.cfg.Dir == "" {
		return fmt.Errorf("%w: %d of its %d voters are gone: if they are gone for good, restart this node", err, gone, voters)
	}
	if n.recovered {
		remedy += ", which had its effect before: start it once without, then with it again"
	}
	return fmt.Errorf("%w: %s keeps cluster %q, and %d of its %d voters are gone: %s", err, n.cfg.Name, own, gone, voters, remedy)
}

// keeper returns another member that belongs to a cluster, a voter if there is one,
// and the id of that cluster, unless the cluster has a leader.
func (g *gossip) keeper() (keeper Member, cluster string, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, k := range g.alive {
		if k.meta.Cluster == "" || id == g.id {
			continue
		}
		m := g.describe(id, k)
		if m.Leader {
			return Member{}, "", false
		}
		if !ok || m.Voter && !keeper.Voter || m.Voter == keeper.Voter && cmp.Less(m.ID, keeper.ID) {
			keeper, cluster, ok = m, k.meta.Cluster, true
		}
	}
	return keeper, cluster, ok
}
