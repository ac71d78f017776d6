package cluster

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/cluster/internal/wire"
)

const (
	lookEvery  = 100 * time.Millisecond // for the others, until there is a cluster
	lookLater  = 5 * time.Second        // for those cut off, once there is one
	lookAtMost = 500 * time.Millisecond // from look to look while there is none, and of a voter
	lookBeside = 16                     // seeds at a time

	// foundAfter is for how many looks in a row the founder has most of the seeds
	// in reach before it founds a cluster: 2 s, in which the voters of one that
	// lives on have looked at least three times, or one of their packets may be
	// lost and sent again. Looks are counted, for while a process is paused nobody
	// finds it.
	foundAfter = 5
)

// findOthers joins the members at the seed addresses, and founds the cluster if
// that is this node's part. Afterwards it goes on looking, so that two halves of
// a cluster that were cut off from each other for long find together again, and
// that seeds which start anew learn of a cluster that lives without them.
func (n *Node) findOthers() {
	wait := lookEvery
	said := ""
	looks := 0 // in a row at which this node could have founded the cluster
	for {
		began := n.clock.Now()
		seeds, unknown := n.resolve()
		away := n.join(seeds)
		if report := fmt.Sprint(unknown, away); len(unknown)+len(away) > 0 && report != said {
			n.log.Warn("seeds cannot be reached, trying again", "unreachable", away, "unresolved", unknown)
			said = report
		} else if len(unknown)+len(away) == 0 {
			said = ""
		}
		wait = min(2*wait, lookAtMost)
		there, led := n.gossip.cluster()
		if n.cluster() == "" && there == "" && n.mayFound(seeds, len(unknown)+len(away)) {
			looks++
			wait = lookAtMost
		} else {
			looks = 0
		}
		if looks >= foundAfter {
			if err := n.found(); err != nil {
				n.log.Error("cannot found the cluster", "error", err)
			}
		}
		// A cluster without a leader may have lost its log for good. Who has none
		// of it stays out, so that a new one is founded once all have started again.
		if n.cluster() == "" && led {
			if err := n.adopt(there); err != nil {
				n.log.Error("cannot join", "cluster", there, "error", err)
			}
		}
		n.gossip.say(func(m *meta) { m.Cluster = n.cluster() })
		if !n.lookAgain(began, wait) {
			return
		}
	}
}

// lookAgain returns when it is time for the next look, so long after the last
// one began. A member that does not vote looks less often. It returns false when
// the node ends.
func (n *Node) lookAgain(began int64, wait time.Duration) bool {
	for {
		select {
		case <-n.ctx.Done():
			return false
		case <-time.After(wait - n.clock.Since(began)):
		}
		if wait >= lookLater || n.cluster() == "" || n.votes() {
			return true
		}
		wait += lookAtMost // it may vote by then
	}
}

// seed is the addresses, host:port, that one entry of Config.Join stands for, in
// order.
type seed []string

// resolve looks the seeds up. Those that have no address are unknown.
func (n *Node) resolve() (seeds []seed, unknown []string) {
	seeds = make([]seed, len(n.cfg.Join))
	beside(len(seeds), func(i int) {
		host, port, _ := net.SplitHostPort(n.cfg.Join[i])
		ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
		defer cancel()
		ips, _ := n.cfg.network.LookupHost(ctx, host) // one without an address is unknown, for whatever reason
		for _, ip := range ips {
			seeds[i] = append(seeds[i], wire.CanonicalAddr(ip, port))
		}
		slices.Sort(seeds[i])
	})
	for i, s := range seeds {
		if len(s) == 0 {
			unknown = append(unknown, n.cfg.Join[i])
		}
	}
	return seeds, unknown
}

// founder returns the address that comes first among the seeds; empty: it is
// unknown.
func founder(seeds []seed) string {
	if len(seeds) == 0 || len(seeds[0]) == 0 {
		return ""
	}
	return seeds[0][0]
}

// join meets the seeds that are not members yet, and returns those that cannot
// be reached. Many are met at a time: who waits for a host that is gone would
// come too late to the founder that has come back.
func (n *Node) join(seeds []seed) (away []string) {
	known := map[string]bool{n.port.Addr(): true}
	for _, m := range n.gossip.members() {
		known[m.Addr] = known[m.Addr] || m.Self || m.Addr != founder(seeds) || !n.votes() || n.isThere(m)
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
	beside(len(addrs), func(i int) { _, errs[i] = n.gossip.list.Join(addrs[i : i+1]) })
	for i, err := range errs {
		if err != nil {
			n.log.Debug("join", "seed", addrs[i], "error", err)
			away = append(away, addrs[i])
		}
	}
	return away
}

// isThere reports whether m is still where gossip knows it. Another one may have
// come in its place, without its log: gossip takes seconds to notice, and the
// founder does not wait so long. In the place of one that votes it hears of the
// cluster by the leader, which dials that one all the time.
func (n *Node) isThere(m Member) bool { return m.Voter || n.gossip.answers(m) }

// beside calls f for each index below n, a few at a time.
func beside(n int, f func(i int)) {
	slots := make(chan struct{}, lookBeside)
	var all sync.WaitGroup
	for i := range n {
		slots <- struct{}{}
		all.Go(func() { f(i); <-slots })
	}
	all.Wait()
}

// mayFound reports whether this node is the one to found the cluster: its
// address comes first among the seeds, and it has reached more than half of
// them. None of those is of a cluster, or this node would be one of it. So no
// second cluster is founded beside one that lives on a majority of the seeds,
// even by a founder that has lost its disk. One may also live on without any of
// them, when they have left or lost what they kept. Its voters look for the
// seeds: the founder gives them the time.
func (n *Node) mayFound(seeds []seed, missing int) bool {
	if !n.disk.fresh || n.isSick() || founder(seeds) != n.port.Addr() {
		return false
	}
	all := missing
	members := n.gossip.members()
	for _, m := range members {
		if slices.ContainsFunc(seeds, func(s seed) bool { return slices.Contains(s, m.Addr) }) {
			all++
		}
	}
	return 2*(all-missing) > all
}

// found makes this node the first of a new cluster. Others hear of it only when
// it has a log.
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
	n.log.Info("founded a cluster", "cluster", id)
	return n.adopt(id)
}
