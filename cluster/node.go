// Package cluster provides a choked.Store that the workers form among themselves:
// they find each other by gossip, a few of them replicate the buckets by Raft, and
// the others are clients of the leader. It needs no other service.
//
// All traffic uses one port, over TCP and UDP, and one secret.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster/internal/wire"
	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/fold"
	"github.com/choked/choked/internal/ledger"
)

// Node is one worker's part of the cluster, and a choked.Store. It is safe for
// concurrent use. [Start] starts one.
type Node struct {
	cfg    Config
	log    *slog.Logger
	events fold.Events // of log lines
	clock  *boottime.Clock
	id     string
	run    uint64 // random number of this process
	began  int64  // when Start was called

	recovered bool // Recover has had its effect on Dir, and no start since was without it

	// Opened by open, in this order. A run of Raft has a disk and a transport.
	port    *wire.Port
	gossip  *gossip
	replica *replica
	raft    *consensus

	// Its state. Each of these has its own lock.
	opened    atomic.Bool // the parts are set
	joined    clusterID
	health    health
	duplicate duplicate
	absence   absence
	rival     atomic.Pointer[departedCluster] // the own cluster as of when it met an older one
	yielded   atomic.Pointer[error]           // why this node decides nothing any more, if its cluster gave way and it has a Dir
	tasks     tasks
	queue     atomic.Pointer[leaderQueue] // not nil while this node leads

	// Its parts: see their types.
	router    *router
	voters    *voterManager
	departure *leave
	discovery *discovery
	server    *rpcServer

	membersChanged signal
	clusterNews    signal               // this node may have to leave its cluster
	leaving        chan departedCluster // to leave now
	reopening      chan struct{}        // semaphore: the disk is being opened again
	returnSlots    chan struct{}        // semaphore: leases that are being returned
	flush          chan struct{}        // closed by Close: return all leases now

	ctx         context.Context // ends when the node closes
	cancel      context.CancelFunc
	active      context.Context // ends when the node closes or steps out
	leaveActive context.CancelFunc
	close       func() error
}

// Start starts a node. It returns when the node listens, not when there is a leader:
// the methods of the store wait for one. Seeds that cannot be reached are tried again
// until they can. Start fails if cfg is not valid, if the port is taken, or if Dir
// cannot be written, is damaged or is in use.
func Start(cfg Config) (*Node, error) {
	cfg, err := cfg.withDefaults()
	if err == nil {
		err = cfg.finishRecovery()
	}
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	begin := start
	if cfg.Recover {
		begin = startWithRecover
	}
	n, err := begin(cfg)
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	return n, nil
}

// start starts a node of a configuration that is valid and complete.
func start(cfg Config) (*Node, error) {
	n := &Node{
		cfg: cfg, clock: cfg.clock, health: health{clock: cfg.clock}, duplicate: duplicate{due: make(chan struct{})},
		run: rand.Uint64(), began: cfg.clock.Now(), raft: new(consensus), replica: newReplica(cfg.clock),
		membersChanged: newSignal(), clusterNews: newSignal(), leaving: make(chan departedCluster), reopening: make(chan struct{}, 1), returnSlots: make(chan struct{}, maxReturns), flush: make(chan struct{}),
	}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.active, n.leaveActive = context.WithCancel(n.ctx)
	n.close = sync.OnceValue(n.shutdown)
	if err := n.open(); err != nil {
		return nil, errors.Join(err, n.close())
	}
	n.tasks.spawn(n.server.accept) // ends when the port closes
	n.tasks.spawn(n.keepRaft)      // these end with ctx
	n.tasks.spawn(n.awaitDuplicate)
	n.tasks.spawn(n.meetCopies) // these end with active
	n.tasks.spawn(func() { n.discovery.run(n.active) })
	n.tasks.spawn(func() { n.reviewClusters(n.active) })
	return n, nil
}

// open opens the disk, the port, gossip and Raft, and connects the parts of the node.
func (n *Node) open() error {
	run, err := n.openDisk()
	if err != nil {
		return err
	}
	if err := n.openPort(); err != nil {
		return err
	}
	self := meta{Cluster: n.cluster(), Name: n.cfg.Name, Memory: n.cfg.Dir == ""} // a leader may have added this node by now
	changed := func() {
		n.membersChanged.set()
		n.clusterNews.set()
	}
	if n.gossip, err = startGossip(n.id, self, n.port, stdlogTo(n.log, &n.events), changed); err != nil {
		return err
	}
	if err := n.startRaft(run); err != nil {
		return err
	}
	n.connect()
	n.opened.Store(true)
	if len(n.cfg.Join) == 0 && run.disk.fresh {
		return n.found()
	}
	return nil
}

// openDisk opens the disk for the first run of Raft.
func (n *Node) openDisk() (*raftRun, error) {
	d, id, err := openDisk(n.cfg.disk())
	if err != nil {
		return nil, err
	}
	run := newRaftRun(d)
	n.raft.run.Store(run)
	n.id = id.Node
	n.joined.clock = n.clock
	n.joined.save = func(cluster string) error { return n.raft.current().disk.identify(n.id, cluster) }
	n.recovered = id.Recovered != ""
	if !d.fresh { // without a log a node belongs to no cluster, whatever it once joined
		n.joined.id = id.Cluster
	}
	n.log = n.cfg.Logger.With("node", n.cfg.Name, "id", n.id)
	return run, nil
}

func (n *Node) openPort() (err error) {
	previous := make([]wire.Secret, len(n.cfg.PreviousSecrets))
	for i, s := range n.cfg.PreviousSecrets {
		previous[i] = wire.Secret(s)
	}
	n.port, err = wire.Open(wire.Config{
		Network: n.cfg.network, Bind: n.cfg.Bind, Advertise: n.cfg.Advertise, Join: n.cfg.Join,
		Secret: wire.Secret(n.cfg.Secret), Previous: previous,
		Hello: n.hello, Admit: n.admit, Copied: n.copied, IsMember: n.isMember, Refused: n.refused, Logger: n.log,
	})
	n.warnOfShortSecrets()
	n.cfg.Secret, n.cfg.PreviousSecrets = "", nil // the port has the keys, and a Node that is printed shows no secret
	return err
}

// warnOfShortSecrets warns if a secret is so short that it could be guessed.
func (n *Node) warnOfShortSecrets() {
	for _, s := range append([]string{n.cfg.Secret}, n.cfg.PreviousSecrets...) {
		if len(s) > 0 && len(s) < minSecret {
			n.log.Warn("secret is short and could be guessed, use 32 random bytes", "bytes", len(s), "want", minSecret)
			return
		}
	}
}

// startRaft begins a run of Raft.
func (n *Node) startRaft(run *raftRun) error {
	run.transport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: n.port.Raft(), ServerAddressProvider: gossipAddrs{n.gossip}, MaxPool: 3, Timeout: 2 * time.Second, Logger: hclogTo(n.log, &n.events),
		// One request at a time is no pipeline. In a pipeline of Raft v1.8.0 the sender
		// and the receiver of a follower's answers wait for each other for ever if an
		// answer fails while another request is being sent. It would not be
		// faster either, as this node proposes one entry at a time.
		MaxRPCsInFlight: 1,
	})
	d := run.disk
	err := recoverFault(func() (err error) { // Raft panics when it cannot read an entry
		run.Raft, err = raft.NewRaft(raftConfig(n.id, hclogTo(n.log, &n.events)), n.replica, d.logs, d.stable, d.snapshots, run.transport)
		return err
	})
	if err != nil {
		return fmt.Errorf("start raft from dir %q: %w", n.cfg.Dir, err)
	}
	if d.guard != nil {
		d.guard.onFailure = func(err error) { n.stopRaft(run, err) }
		d.guard.armed.Store(true)
	}
	return nil
}

// raftConfig returns the configuration of Raft for a node.
func raftConfig(node string, log hclog.Logger) *raft.Config {
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(node)
	// With these timeouts the failure of a leader is detected within a second, and a
	// garbage collection or a slow disk causes no election. A leader that has lost
	// contact steps down when the first of the others may take over. If it stepped down
	// earlier, there would be no leader any sooner, and short pauses would end its term.
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = 500*time.Millisecond, 500*time.Millisecond, 500*time.Millisecond
	c.ShutdownOnRemove = false // a voter that is removed continues as a client
	c.NoLegacyTelemetry = true
	c.Logger = log
	return c
}

// connect makes the parts of the node, and gives each its inputs.
func (n *Node) connect() {
	dialer := dialer{n.port}
	n.router = &router{
		ctx: n.ctx, tasks: &n.tasks, clock: n.clock, self: n.port.Addr(), queue: &n.queue,
		candidates: n.leaderCandidates, ask: dialer.dial,
		changed: make(chan struct{}), pause: searchPauseMin, unavailable: n.unavailable, health: n.checkHealth,
	}
	n.voters = &voterManager{
		id: n.id, want: n.cfg.Voters, raft: n.raft, gossip: n.gossip, dialer: dialer, queue: &n.queue,
		roster: newRoster(n.clock), changed: n.membersChanged, log: n.log, events: &n.events,
	}
	n.departure = &leave{id: n.id, self: n.port.Addr(), raft: n.raft, gossip: n.gossip, dialer: dialer, voters: n.voters}
	n.discovery = &discovery{
		join: n.cfg.Join, expect: n.cfg.Expect, network: n.cfg.network, id: n.id, self: n.port.Addr(), ask: n.port.Probe,
		gossip: n.gossip, cluster: &n.joined, health: &n.health,
		isVoter: n.voters.isVoter, isFounder: func() bool { return n.raft.current().disk.fresh && n.health.hasDisk() }, found: n.found, why: n.whyNoCluster,
		clock: n.clock, log: n.log,
	}
	n.server = &rpcServer{
		ctx: n.ctx, tasks: &n.tasks, id: n.id, port: n.port, raft: n.raft, gossip: n.gossip,
		router: n.router, voters: n.voters, queue: &n.queue,
	}
}

// leaderCandidates returns the members to ask who leads, the most likely leader
// first.
func (n *Node) leaderCandidates() ([]string, error) {
	if _, leader := n.gossip.cluster(n.joined.hasLeft); n.cluster() == "" && leader.ID == "" {
		return nil, n.noCluster()
	}
	return likelyLeaders(n.raft, n.gossip), nil
}

// Close leaves the cluster: leadership and vote go to other members, if there are
// any, and operations that wait get ErrClosed. Close a choked.Choke over this node
// first, so that it can return its leases. Close returns when all parts of the node
// have ended, or with an error that names the parts that have not. A second call
// waits for the first and returns its error.
func (n *Node) Close() error {
	if err := n.close(); err != nil {
		return fmt.Errorf("cluster: close: %w", err)
	}
	return nil
}

const (
	returnWithin = time.Second      // to return leases whose callers have given up
	leaveWithin  = 3 * time.Second  // to hand over leadership and vote
	endWithin    = 10 * time.Second // for each part of the node
)

func (n *Node) shutdown() error {
	var errs []error
	if n.server != nil && n.hasPeers() {
		ctx, cancel := context.WithTimeout(n.ctx, leaveWithin)
		n.awaitReturns(ctx)
		if err := n.departure.run(ctx); err != nil {
			n.log.Warn("failed to leave the voters, peers will time this node out", "error", err)
		}
		cancel()
	}
	n.tasks.close()
	n.cancel()
	errs = append(errs, withTimeout(endWithin, "opening the disk", func() error { n.reopening <- struct{}{}; return nil }))
	run := n.raft.current()
	if run != nil && run.Raft != nil {
		if run.hasFailed() {
			run.Shutdown() // one of its goroutines may hang in the disk
		} else {
			errs = append(errs, withTimeout(endWithin, "raft", func() error { return run.Shutdown().Error() }))
		}
	}
	if run != nil && run.transport != nil {
		errs = append(errs, run.transport.Close())
	}
	if n.gossip != nil {
		errs = append(errs, n.gossip.stop())
	}
	if n.port != nil {
		errs = append(errs, n.port.Close())
	}
	errs = append(errs, withTimeout(endWithin, "work", func() error { n.tasks.wait(); return nil }))
	if run != nil {
		errs = append(errs, withTimeout(endWithin, "disk", run.disk.close))
	}
	return errors.Join(errs...)
}

// withTimeout returns the error of end, or another one if end takes longer than d.
// In that case the goroutine that runs end is left behind.
func withTimeout(d time.Duration, what string, end func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- end() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(d):
		return fmt.Errorf("%s has not ended within %v", what, d)
	}
}

// hasPeers reports whether there are members that this node should tell that it
// leaves. Contact with another cluster does not matter to the members of this one.
func (n *Node) hasPeers() bool {
	return n.gossip != nil && len(n.gossip.members()) > 1 && n.checkHealth() == nil
}

// Addr returns the host:port at which other nodes reach this one.
func (n *Node) Addr() string { return n.port.Addr() }

// ID returns the node's id. A node with a Dir keeps its id over restarts.
func (n *Node) ID() string { return n.id }

// Members returns the members that are alive, this node included, ordered by id.
func (n *Node) Members() []Member { return n.gossip.members() }

// Leader returns the member that leads, as far as this node knows: a voter knows it
// by Raft, the other members by gossip.
func (n *Node) Leader() (Member, bool) {
	id := n.id
	if n.queue.Load() == nil {
		_, leader := n.raft.LeaderWithID()
		id = string(leader)
	}
	if m, ok := n.gossip.member(id); ok {
		m.Leader = true
		return m, true
	}
	for _, m := range n.gossip.members() {
		if m.Leader && !m.Self {
			return m, true
		}
	}
	return Member{}, false
}

// Health returns nil, or what keeps this node from its full part in the cluster: its
// Dir was copied and it has stepped out in favor of the other process, its disk has
// failed, it has found no cluster yet, there has been no leader for 5 s, it is closed,
// or it met another cluster within the last minute while its own had no leader. Voters that are missing while there
// is a leader do not count: see [Node.Quorum].
func (n *Node) Health() error {
	err := n.checkHealth()
	if _, led := n.Leader(); led {
		return err
	}
	if foreign := n.health.recentForeignCluster(); foreign != nil {
		return errors.Join(err, foreign)
	}
	return err
}

// checkHealth is Health, but for other clusters.
func (n *Node) checkHealth() error {
	if err := n.duplicate.err(); err != nil {
		return err
	}
	if err := n.yieldedErr(); err != nil {
		return err
	}
	if err := n.health.check(n.cluster()); err == errNoCluster {
		return n.noCluster()
	} else if err != nil {
		if n.health.hasDisk() {
			err = n.explain(err)
		}
		return n.withMissingVoters(err)
	}
	if n.ctx.Err() != nil {
		return bucket.ErrClosed
	}
	return nil
}

// withMissingVoters adds to the error of a node without a leader which voters are
// missing.
func (n *Node) withMissingVoters(err error) error {
	if q := n.Quorum(); n.health.hasDisk() && len(q.Missing) > 0 {
		return fmt.Errorf("%w: %s (%s)", err, q, q.names())
	}
	return err
}

// SteppedOut returns why this node takes no part in its cluster until it is started
// again, or nil: another process has its id, or its disk has failed for good. In the
// second case operations succeed as long as the other members have a leader. A disk
// that is full is no reason: the node rejoins by itself.
func (n *Node) SteppedOut() error {
	if err := n.duplicate.err(); err != nil {
		return err
	}
	return n.health.finalDiskFault()
}

// Buckets describes the buckets that are not full, or are partly leased, as this
// member knows them: only voters keep them. Each bucket is described as of some time
// during the call.
func (n *Node) Buckets() (list []bucket.Info) {
	var keys []string
	n.replica.View(func(t *ledger.Table) { keys = t.Keys() })
	slices.Sort(keys)
	for chunk := range slices.Chunk(keys, 256) { // a chunk at a time, as no operation is decided meanwhile
		n.replica.View(func(t *ledger.Table) { list = append(list, t.Describe(chunk)...) })
	}
	return list
}

// cluster returns the id of the cluster of this node; empty: it has none yet.
func (n *Node) cluster() string { return n.joined.get() }

// hello is the first message of this node on each stream.
func (n *Node) hello() wire.Hello {
	h := wire.Hello{Node: n.id, Cluster: n.cluster(), Run: n.run, Up: n.clock.Since(n.began), SteppedOut: n.duplicate.err() != nil || n.yieldedErr() != nil}
	if h.Cluster != "" && n.opened.Load() {
		h.Age = n.age()
	}
	return h
}

// admit decides whether a node that knows the secret may open a stream to this one.
// Raft streams come from a leader or a candidate: by one of them, a node without a
// cluster joins theirs.
func (n *Node) admit(kind wire.Kind, peer wire.Hello) error {
	if err := n.duplicate.err(); err != nil {
		return errSteppedOut
	}
	if kind == wire.Raft && n.opened.Load() {
		if addr, elsewhere := n.gossip.isElsewhere(peer); elsewhere { // it might vote twice
			return fmt.Errorf("node %s runs at %s: %s has a copy of its directory", peer.Node, addr, peer.Addr)
		}
	}
	own := n.cluster()
	if own != "" && peer.Cluster != "" && own != peer.Cluster {
		n.meet(peer)
		return fmt.Errorf("this node is of cluster %q, not of %q", own, peer.Cluster)
	}
	if kind == wire.Raft && own == "" {
		if peer.Cluster == "" {
			return errors.New("neither node is of a cluster")
		}
		return n.joined.adopt(peer.Cluster)
	}
	return nil
}

// isMember reports whether a member has an IP address.
func (n *Node) isMember(ip netip.Addr) bool { return n.opened.Load() && n.gossip.hasIP(ip) }

// refused records that another node does not admit this one.
func (n *Node) refused(kind wire.Kind, err *wire.RefusedError) {
	if (kind == wire.Gossip || kind == wire.Probe) && !err.Peer.SteppedOut { // other kinds of stream go to members only
		n.meet(err.Peer)
	}
}

// gossipAddrs implements [raft.ServerAddressProvider]: gossip knows the
// present address of a server, which may have changed since it became a voter.
type gossipAddrs struct{ *gossip }

func (g gossipAddrs) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	if m, ok := g.member(string(id)); ok {
		return wire.RaftAddr(m.ID, m.Addr), nil
	}
	return "", fmt.Errorf("address of server %s: gossip knows no such member", id)
}
