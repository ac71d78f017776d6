package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/cluster/internal/wire"
	"github.com/choked/choked/internal/boottime"
)

const (
	// A probe resolves the seeds and joins the ones that are not members. Without a
	// cluster the time between probes doubles from probeMin to probeMax. Of the nodes
	// of a cluster, voters probe every probeMax, the others every probeNonvoter.
	probeMin      = 100 * time.Millisecond
	probeMax      = 500 * time.Millisecond
	probeNonvoter = 5 * time.Second

	probesInParallel = 16 // seeds dialled at a time

	// foundAfter is the number of consecutive probes in which the founder must reach a
	// majority of the seeds before it founds a cluster: 2 s. In that time the voters of
	// a cluster that is still running probe at least three times, or one of their
	// packets can be lost and sent again. Probes are counted, not seconds, because
	// other nodes cannot find a process while it is paused.
	foundAfter = 5
)

// discovery joins the members at the addresses of Config.Join and decides when this
// node founds the cluster. It continues when there is a cluster, so that two parts
// of a cluster that were separated for long join again, and so that seeds that
// start anew find a cluster that runs without them.
type discovery struct {
	join      []string // Config.Join
	network   wire.Network
	self      string // this node's address
	gossip    *gossip
	cluster   *clusterID
	isVoter   func() bool
	isFounder func() bool // this node has no log yet, and its disk works
	found     func() error
	clock     *boottime.Clock
	log       *slog.Logger

	reported string // the seeds of the last warning; empty: all were reached since
	ready    int    // consecutive probes in which this node could have founded the cluster
}

// run probes until ctx ends.
func (d *discovery) run(ctx context.Context) {
	wait := probeMin
	for {
		began := d.clock.Now()
		seeds, unresolved := d.resolve(ctx)
		unreachable := d.joinSeeds(seeds)
		d.report(unresolved, unreachable)
		wait = min(2*wait, probeMax)
		clusterNearby, hasLeader := d.gossip.cluster()
		if d.cluster.get() == "" && clusterNearby == "" && d.mayFound(seeds, len(unresolved)+len(unreachable)) {
			d.ready++
			wait = probeMax
		} else {
			d.ready = 0
		}
		if d.ready >= foundAfter {
			if err := d.found(); err != nil {
				d.log.Error("failed to found cluster", "error", err)
			}
		}
		// A cluster without a leader may have lost its log for good. A node without any
		// of that log stays out of it, so that a new cluster is founded once all nodes
		// have restarted.
		if hasLeader && d.cluster.get() == "" {
			if err := d.cluster.adopt(clusterNearby); err != nil {
				d.log.Error("failed to join cluster", "cluster", clusterNearby, "error", err)
			}
		}
		d.gossip.announce(func(m *meta) { m.Cluster = d.cluster.get() })
		if !d.awaitProbe(ctx, began, wait) {
			return
		}
	}
}

// awaitProbe returns when the next probe is due: wait after the last one began, or
// up to probeNonvoter for a node of a cluster that does not vote. It returns false
// when ctx ends.
func (d *discovery) awaitProbe(ctx context.Context, began int64, wait time.Duration) bool {
	for {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait - d.clock.Since(began)):
		}
		if wait >= probeNonvoter || d.cluster.get() == "" || d.isVoter() {
			return true
		}
		wait += probeMax // the node may have become a voter by then
	}
}

// report logs seeds that were not reached, once as long as they are the same.
func (d *discovery) report(unresolved, unreachable []string) {
	seeds := ""
	if len(unresolved)+len(unreachable) > 0 {
		seeds = fmt.Sprint(unresolved, unreachable)
	}
	if seeds != "" && seeds != d.reported {
		d.log.Warn("failed to reach seeds, retrying", "unreachable", unreachable, "unresolved", unresolved)
	}
	d.reported = seeds
}

// seed is the sorted addresses, host:port, of one entry of Config.Join.
type seed []string

// resolve looks up the addresses of the seeds. A seed without an address is
// returned as unresolved, whatever the reason.
func (d *discovery) resolve(ctx context.Context) (seeds []seed, unresolved []string) {
	seeds = make([]seed, len(d.join))
	inParallel(len(seeds), func(i int) {
		host, port, _ := net.SplitHostPort(d.join[i])
		ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		defer cancel()
		ips, _ := d.network.LookupHost(ctx, host)
		for _, ip := range ips {
			seeds[i] = append(seeds[i], wire.CanonicalAddr(ip, port))
		}
		slices.Sort(seeds[i])
	})
	for i, s := range seeds {
		if len(s) == 0 {
			unresolved = append(unresolved, d.join[i])
		}
	}
	return seeds, unresolved
}

// founder returns the first address of the first seed; empty: it is unresolved.
func founder(seeds []seed) string {
	if len(seeds) == 0 || len(seeds[0]) == 0 {
		return ""
	}
	return seeds[0][0]
}

// joinSeeds joins the seeds that are not members yet, and returns the addresses that
// it cannot reach. It dials many at a time: while it waits for a host that has vanished,
// a founder that has returned could found a second cluster.
func (d *discovery) joinSeeds(seeds []seed) (unreachable []string) {
	known := map[string]bool{d.self: true}
	for _, m := range d.gossip.members() {
		known[m.Addr] = known[m.Addr] || m.Self || m.Addr != founder(seeds) || !d.isVoter() || d.isPresent(m)
	}
	var addrs []string
	for _, s := range seeds {
		for _, addr := range s {
			if !known[addr] {
				known[addr] = true
				addrs = append(addrs, addr)
			}
		}
	}
	errs := make([]error, len(addrs))
	inParallel(len(addrs), func(i int) { _, errs[i] = d.gossip.list.Join(addrs[i : i+1]) })
	for i, err := range errs {
		if err != nil {
			d.log.Debug("failed to join seed", "seed", addrs[i], "error", err)
			unreachable = append(unreachable, addrs[i])
		}
	}
	return unreachable
}

// isPresent reports whether the founder m is still the node that gossip knows at its
// address. Another node may have started there without its log: gossip needs seconds
// to notice, and a founder does not wait that long. If m was a voter, its replacement
// learns of the cluster from the leader, which dials that address all the time.
func (d *discovery) isPresent(m Member) bool { return m.Voter || d.gossip.ping(m) }

// mayFound reports whether this node may found the cluster: its address is the
// founder's, and it has reached more than half of the seeds. All of these seeds
// are without a cluster, or this node would have joined it. So no second cluster is
// founded while one runs on a majority of the seeds, even by a founder that has lost
// its disk. A cluster may also run without any of the seeds, if they have left or
// have lost their logs; its voters probe the seeds, and foundAfter gives them the
// time.
func (d *discovery) mayFound(seeds []seed, missing int) bool {
	if !d.isFounder() || founder(seeds) != d.self {
		return false
	}
	reached := 0
	for _, m := range d.gossip.members() {
		if slices.ContainsFunc(seeds, func(s seed) bool { return slices.Contains(s, m.Addr) }) {
			reached++
		}
	}
	return 2*reached > reached+missing
}

// found makes this node the first of a new cluster. Other nodes learn of the cluster
// only when it has a log.
func (n *Node) found() error {
	id := newID()
	if err := n.disk.identify(n.id, id); err != nil {
		return err
	}
	if g := n.disk.guard; g != nil {
		g.founding.Store(true)
		defer g.founding.Store(false)
	}
	err := n.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{
		{Suffrage: raft.Voter, ID: raft.ServerID(n.id), Address: raftAddress(raft.ServerID(n.id))},
	}}).Error()
	if err != nil {
		return fmt.Errorf("found cluster: %w", err)
	}
	n.log.Info("founded cluster", "cluster", id)
	return n.joined.adopt(id)
}

// inParallel calls f for each index below n, at most probesInParallel at a time.
func inParallel(n int, f func(i int)) {
	slots := make(chan struct{}, probesInParallel)
	var all sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		all.Go(func() { f(i); <-slots })
	}
	all.Wait()
}
