package cluster

import (
	"context"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

const (
	lookEvery  = 100 * time.Millisecond // for the others, until there is a cluster
	lookLater  = 5 * time.Second        // for those cut off, once there is one
	lookAtMost = time.Second            // between two looks while there is none, and of a voter
	lookAlone  = 2 * lookAtMost         // before the only seed founds a cluster
)

// findOthers joins the members at the seed addresses, and founds the cluster if
// that is this node's part. Afterwards it goes on looking, so that two halves of
// a cluster that were cut off from each other for long find together again.
func (n *Node) findOthers() {
	begun := n.clock.Now()
	wait := lookEvery
	said := ""
	for {
		seeds, unknown := n.resolve()
		away := n.join(seeds)
		if report := fmt.Sprint(unknown, away); len(unknown)+len(away) > 0 && report != said {
			n.log.Warn("seeds cannot be reached, trying again", "unreachable", away, "unresolved", unknown)
			said = report
		} else if len(unknown)+len(away) == 0 {
			said = ""
		}
		there, led := n.gossip.cluster()
		if n.cluster() == "" && there == "" && n.mayFound(seeds, len(unknown)+len(away), n.clock.Since(begun)) {
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
		wait = min(2*wait, lookAtMost)
		if n.cluster() != "" && !n.gossip.said().Voter {
			wait = lookLater
		} else if left := lookAlone - n.clock.Since(begun); left > 0 {
			wait = min(wait, left)
		}
		select {
		case <-n.ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// seed is one entry of Config.Join and the addresses that it stands for.
type seed struct {
	entry string
	addrs []string // host:port, ordered
}

// resolve looks the seeds up. Those that have no address are unknown.
func (n *Node) resolve() (seeds []seed, unknown []string) {
	for _, entry := range n.cfg.Join {
		host, port, _ := net.SplitHostPort(entry)
		ctx, cancel := context.WithTimeout(n.ctx, 2*time.Second)
		ips, err := n.cfg.network.LookupHost(ctx, host)
		cancel()
		if err != nil || len(ips) == 0 {
			unknown = append(unknown, entry)
		}
		s := seed{entry: entry}
		for _, ip := range ips {
			s.addrs = append(s.addrs, net.JoinHostPort(ip, port))
		}
		slices.Sort(s.addrs)
		seeds = append(seeds, s)
	}
	return seeds, unknown
}

// join meets the seeds that are not members yet, and returns those that cannot
// be reached.
func (n *Node) join(seeds []seed) (away []string) {
	known := map[string]bool{n.port.Addr(): true}
	for _, m := range n.gossip.members() {
		known[m.Addr] = true
	}
	for _, s := range seeds {
		for _, addr := range s.addrs {
			if known[addr] {
				continue
			}
			known[addr] = true
			if _, err := n.gossip.list.Join([]string{addr}); err != nil {
				n.log.Debug("join", "seed", addr, "error", err)
				away = append(away, addr)
			}
		}
	}
	return away
}

// mayFound reports whether this node is the one to found the cluster, now: its
// address comes first among the seeds, and it has reached more than half of
// them. None of those was of a cluster, or this node would be one of it. So no
// second cluster is founded beside one that lives on a majority of the seeds,
// even by a founder that has lost its disk. An only seed has nobody to reach. If
// it comes back to a cluster that lives on, its voters look for it: it waits for
// that.
func (n *Node) mayFound(seeds []seed, missing int, looked time.Duration) bool {
	if !n.disk.fresh || n.isSick() || len(seeds) == 0 || len(seeds[0].addrs) == 0 || seeds[0].addrs[0] != n.port.Addr() {
		return false
	}
	all := missing
	members := n.gossip.members()
	for _, m := range members {
		if slices.ContainsFunc(seeds, func(s seed) bool { return slices.Contains(s.addrs, m.Addr) }) {
			all++
		}
	}
	return 2*(all-missing) > all && (all > 1 || looked >= lookAlone)
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
		{Suffrage: raft.Voter, ID: raft.ServerID(n.id), Address: raft.ServerAddress(n.port.Addr())},
	}}).Error()
	if err != nil {
		return fmt.Errorf("found cluster: %w", err)
	}
	n.log.Info("founded a cluster", "cluster", id)
	return n.adopt(id)
}
