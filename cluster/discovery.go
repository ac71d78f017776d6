package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/choked/choked/cluster/internal/wire"
	"github.com/choked/choked/internal/boottime"
)

const (
	// A probe resolves the seeds and joins the ones that are not members. Without a
	// cluster the time between probes doubles from probeMin to probeMax. Of the nodes
	// of a cluster, voters probe every probeMax, the others every probeNonvoter.
	probeMin      = 100 * time.Millisecond
	probeMax      = 500 * time.Millisecond
	probeNonvoter = 2 * time.Second

	probesInParallel = 16 // seeds dialled at a time

	// foundAfter is the number of consecutive probes in which the founder must reach a
	// majority of the seeds before it founds a cluster: 2 s. In that time the voters of
	// a cluster that is still running probe at least three times, or one of their
	// packets can be lost and sent again. Probes are counted, not seconds, because
	// other nodes cannot find a process while it is paused.
	foundAfter = 5

	// explainAfter is how long a node is without a cluster before it logs why.
	explainAfter = 4 * time.Second

	dialSeedWithin = 2 * time.Second // for the lookup of a seed, and again for its handshake
	pingsInProbe   = 3               // members to which a probe sends a ping at most
)

// discovery joins the members at the addresses of Config.Join and decides when this
// node founds the cluster. It continues when there is a cluster, so that two parts
// of a cluster that were separated for long join again, and so that seeds that
// start anew find a cluster that runs without them.
type discovery struct {
	join      []string // Config.Join
	expect    int      // Config.Expect
	network   wire.Network
	id        string // of this node
	self      string // its address
	gossip    *gossip
	cluster   *clusterID
	health    *health
	isVoter   func() bool
	isFounder func() bool // this node has no log yet, and its disk works
	found     func() error
	ask       func(ctx context.Context, addr string) (wire.Hello, error) // who answers at an address
	why       func() error                                               // why this node has no cluster
	clock     *boottime.Clock
	log       *slog.Logger

	invited atomic.Pointer[string] // address of a node of the cluster for which this one left its own

	reported  string          // the seeds of the last warning; empty: all were reached since
	ready     int             // consecutive probes in which this node could have founded the cluster
	began     int64           // when this node began to be without a cluster
	explained bool            // why it has none was logged
	behind    map[string]bool // ids of nodes that answered at the first seed, if it is an address of none of them
}

// run probes until ctx ends.
func (d *discovery) run(ctx context.Context) {
	wait := probeMin
	d.began = d.clock.Now()
	for {
		began := d.clock.Now()
		s := d.probe(ctx)
		wait = min(2*wait, probeMax)
		obstacle := s.mayFound(d.expect)
		mayFound := d.foundOrJoin(ctx, obstacle)
		if mayFound {
			wait = probeMax
		}
		d.gossip.announce(func(m *meta) {
			if m.Cluster = d.cluster.announced(); d.cluster.get() != "" {
				m.First = ""
			}
		})
		d.report(s)
		d.reportNoCluster(s.explain(obstacle, d.expect), mayFound, d.clock.Since(began)+wait)
		if !d.awaitProbe(ctx, began, wait) {
			return
		}
	}
}

// foundOrJoin founds a cluster, or joins the one of other members. It returns true if
// this node could found one in a later probe.
func (d *discovery) foundOrJoin(ctx context.Context, o obstacle) (mayFound bool) {
	clusterNearby, leader := d.gossip.cluster(d.cluster.hasLeft)
	_, kept := d.gossip.keeper(d.cluster.hasLeft)
	mayFound = o == none && clusterNearby == "" && !kept && d.cluster.get() == "" && d.cluster.mayFound() && d.isFounder()
	if mayFound {
		d.ready++
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
	// have restarted, or keptFor after the last node with a part of the log has stopped.
	if d.cluster.get() == "" && d.leads(ctx, leader) {
		if err := d.cluster.adopt(clusterNearby); err != nil {
			d.log.Error("failed to join cluster", "cluster", clusterNearby, "error", err)
		}
	}
	return mayFound
}

// leads reports whether a member that leads by gossip still runs and is of its cluster.
func (d *discovery) leads(ctx context.Context, m Member) bool {
	if m.ID == "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, dialSeedWithin)
	defer cancel()
	hello, err := d.ask(ctx, m.Addr)
	return err == nil && hello.Node == m.ID && hello.Cluster == m.cluster
}

// probe resolves the seeds, finds out who answers at their addresses, and joins the
// nodes that are no members yet.
func (d *discovery) probe(ctx context.Context) *survey {
	s := &survey{self: d.id, entries: d.resolve(ctx)}
	d.visit(ctx, s)
	s.members = d.gossip.members()
	if d.cluster.get() != "" {
		return s
	}
	first := d.look(s)
	d.gossip.announce(func(m *meta) { m.First = first })
	s.members = d.gossip.members()
	return s
}

// look returns the id of the node that this one has found at the first seed; empty:
// none. Behind an address that no node advertises there may be several nodes. Of those
// that have answered there it is the smallest id, so that all members find the same one
// after some probes.
func (d *discovery) look(s *survey) string {
	first, ok := s.first(d.expect > 0)
	if !ok || s.isOwnAddress(first) {
		clear(d.behind)
		return first.node
	}
	if d.behind == nil {
		d.behind = make(map[string]bool)
	}
	d.behind[first.node] = true
	smallest := first.node
	for id := range d.behind {
		if _, alive := s.member(id); !alive {
			delete(d.behind, id)
		} else {
			smallest = min(smallest, id)
		}
	}
	return smallest
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
		if wait >= probeNonvoter || d.cluster.get() == "" || d.isVoter() || d.health.metWithin(metFor) {
			return true
		}
		wait += probeMax // the node may have become a voter by then, or have met another cluster
	}
}

// report logs seeds that were not reached, once as long as they are the same.
func (d *discovery) report(s *survey) {
	addrs, names := s.missing()
	seeds := ""
	if len(addrs)+len(names) > 0 {
		seeds = fmt.Sprint(addrs, names)
	}
	if seeds != "" && seeds != d.reported {
		d.log.Warn("failed to reach seeds, retrying", "unreachable", addrs, "unresolved", names)
	}
	d.reported = seeds
}

// reportNoCluster tells health why this node has no cluster. Unless the node may found one
// itself, it logs that once: explainAfter after it began to search or, if the next probe
// ends only after the given time, before.
func (d *discovery) reportNoCluster(why error, mayFound bool, next time.Duration) {
	if d.cluster.get() != "" {
		d.began, d.explained = d.clock.Now(), false
		return
	}
	d.health.explainNoCluster(why)
	if !mayFound && !d.explained && d.clock.Since(d.began)+next >= explainAfter {
		d.explained = true
		d.log.Warn("found no cluster, retrying", "reason", d.why())
	}
}

// resolve looks up the addresses of the seeds. A node without any, which founded a
// cluster by itself, has one after it gave its cluster up for an older one.
func (d *discovery) resolve(ctx context.Context) []entry {
	seeds := d.join
	if addr := d.invited.Load(); addr != nil && len(seeds) == 0 {
		seeds = []string{*addr}
	}
	entries := make([]entry, len(seeds))
	inParallel(len(entries), func(i int) {
		e := &entries[i]
		e.name = seeds[i]
		host, port, _ := net.SplitHostPort(e.name)
		ctx, cancel := context.WithTimeout(ctx, dialSeedWithin)
		defer cancel()
		var ips []string
		ips, e.err = d.network.LookupHost(ctx, host)
		for _, ip := range ips {
			e.addrs = append(e.addrs, place{addr: wire.CanonicalAddr(ip, port)})
		}
		slices.SortFunc(e.addrs, func(a, b place) int { return cmp.Compare(a.addr, b.addr) })
		e.addrs = slices.CompactFunc(e.addrs, func(a, b place) bool { return a.addr == b.addr })
	})
	return entries
}

// visit finds out which member answers at each address of the seeds. It dials those that
// no member is known to advertise, many at a time: while it waits for a host that has
// vanished, a founder that has returned could found a second cluster.
func (d *discovery) visit(ctx context.Context, s *survey) {
	s.members = d.gossip.members()
	host, _ := d.network.Addrs() // without them, this node knows its advertised address only
	found := d.advertisers(s, host)
	var addrs []string
	for _, e := range s.entries {
		for _, p := range e.addrs {
			if _, ok := found[p.addr]; !ok {
				found[p.addr] = place{}
				addrs = append(addrs, p.addr)
			}
		}
	}
	places := make([]place, len(addrs))
	inParallel(len(addrs), func(i int) { places[i] = d.dial(ctx, addrs[i]) })
	for i, p := range places {
		if p.err != nil {
			d.log.Debug("failed to join seed", "seed", addrs[i], "error", p.err)
		}
		p.local = addrs[i] == d.self || isLocal(addrs[i], host)
		found[addrs[i]] = p
	}
	for _, e := range s.entries {
		for i, p := range e.addrs {
			e.addrs[i] = found[p.addr]
			e.addrs[i].addr = p.addr
		}
	}
}

// advertisers returns the members at the addresses that they advertise, unless another
// node may answer there.
func (d *discovery) advertisers(s *survey, host []netip.Addr) map[string]place {
	found := make(map[string]place)
	shared := make(map[string]bool)
	for _, m := range s.members {
		_, twice := found[m.Addr]
		shared[m.Addr] = shared[m.Addr] || twice
		found[m.Addr] = place{node: m.ID}
	}
	for addr := range shared {
		if shared[addr] {
			delete(found, addr)
		}
	}
	if isLocal(d.self, host) {
		found[d.self] = place{node: d.id, local: true}
	} else if d.cluster.get() == "" { // perhaps it is the address of a load balancer
		delete(found, d.self)
	}
	if d.isVoter() {
		d.dropAbsentFounder(s, found)
	}
	return found
}

// dropAbsentFounder deletes the members from found that do not answer at the address at
// which a founder would be, since another node may have started there without its log:
// gossip needs seconds to notice, and a founder does not wait that long.
func (d *discovery) dropAbsentFounder(s *survey, found map[string]place) {
	pings := 0
	for i, e := range s.entries {
		for _, p := range e.addrs {
			m, known := s.member(found[p.addr].node)
			if !known || m.Self {
				continue
			}
			if d.isPresent(m) || pings == pingsInProbe {
				return
			}
			pings++
			delete(found, p.addr)
		}
		if d.expect == 0 && i == 0 {
			return
		}
	}
}

// dial returns the node that answers at addr. It joins the node if it is no member yet.
func (d *discovery) dial(ctx context.Context, addr string) place {
	ctx, cancel := context.WithTimeout(ctx, dialSeedWithin)
	defer cancel()
	hello, err := d.ask(ctx, addr)
	if hello.Node == d.id && addr != d.self { // perhaps by a load balancer that takes turns
		hello, err = d.ask(ctx, addr)
	}
	if err != nil && addr == d.self && !errors.As(err, new(*wire.RefusedError)) {
		return place{node: d.id} // many networks have no way back from a host to itself
	}
	if err != nil {
		return place{err: dialError(err)}
	}
	if _, member := d.gossip.member(hello.Node); member {
		return place{node: hello.Node}
	}
	for _, at := range []string{addr, hello.Addr} { // a virtual address may lead to another node
		if _, err := d.gossip.list.Join([]string{at}); err != nil {
			return place{err: err}
		}
		if _, member := d.gossip.member(hello.Node); member {
			return place{node: hello.Node}
		}
	}
	return place{err: fmt.Errorf("node %s answers, and is no member yet", hello.Node)}
}

// isPresent reports whether the founder m is still the node that gossip knows at its
// address. If m was a voter, its replacement learns of the cluster from the leader,
// which dials that address all the time.
func (d *discovery) isPresent(m Member) bool { return m.Voter || d.gossip.ping(m) }

// found makes this node the first of a new cluster. Other nodes learn of the cluster
// only when it has a log.
func (n *Node) found() error {
	id := newID()
	d := n.raft.current().disk
	if err := d.identify(n.id, id); err != nil {
		return err
	}
	if g := d.guard; g != nil {
		g.founding.Store(true)
		defer g.founding.Store(false)
	}
	err := n.raft.BootstrapCluster(onlyVoter(n.id)).Error()
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
