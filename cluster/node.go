// Package cluster is a choked.Store that the workers keep among themselves.
// They find each other by gossip, a few of them replicate the buckets by Raft,
// and the rest are clients of the leader. There is nothing else to run.
//
// Everything goes over one port, TCP and UDP, under one secret.
package cluster

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster/internal/wire"
	"github.com/choked/choked/fsm"
	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/ledger"
	"github.com/choked/choked/internal/waitqueue"
)

// Node is one worker's part of the cluster, and a choked.Store. Safe for
// concurrent use.
type Node struct {
	cfg   Config
	log   *slog.Logger
	clock *boottime.Clock
	id    string

	disk      *disk
	port      *wire.Port
	gossip    *gossip
	raft      *consensus
	transport *raft.NetworkTransport
	replica   *replica

	authority atomic.Pointer[leaderQueue] // not nil while this node leads
	began     atomic.Uint64               // entries that there were when it began to
	router    router
	news      chan struct{} // holds one when gossip, or Raft, has news
	returns   chan struct{} // holds one for each lease that is being given back
	leaving   chan struct{} // closed when what can be given back is to be, now

	ctx    context.Context // ends when the node closes
	cancel context.CancelFunc
	close  func() error

	mu   sync.Mutex
	of   string           // the id of the cluster; empty: none yet
	sick error            // the disk has failed
	gone map[string]int64 // members that said good-bye to this node, and when
	late map[string]int64 // members that were invited and did not catch up, and when

	stranger   error // of the last meeting with another cluster
	strangerAt int64
	led        int64 // when there was a leader last, or the node began
	closing    bool  // no work is begun any more
	work       sync.WaitGroup
}

// Start starts a node and returns when it listens, not when there is a leader:
// the store's methods wait for one. Seeds that cannot be reached are tried
// again until they can. What cfg asks for and cannot be had is an error: a port
// that is taken, a directory that cannot be written or is another's.
func Start(cfg Config) (*Node, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("cluster: %w", err)
	}
	n := &Node{cfg: cfg, clock: cfg.clock, news: make(chan struct{}, 1), returns: make(chan struct{}, maxReturns), leaving: make(chan struct{}), gone: make(map[string]int64), late: make(map[string]int64)}
	n.router.changed, n.router.pause = make(chan struct{}), searchAgain
	n.ctx, n.cancel = context.WithCancel(context.Background())
	n.close = sync.OnceValue(n.shutdown)
	if err := n.open(); err != nil {
		return nil, fmt.Errorf("cluster: %w", errors.Join(err, n.close()))
	}
	n.spawn(n.accept)           // ends when the port closes
	n.spawn(n.followLeadership) // these end with ctx
	n.spawn(n.followMembers)
	n.spawn(n.findOthers)
	return n, nil
}

// open brings up what a node stands on: disk, port, Raft, gossip.
func (n *Node) open() (err error) {
	hlog := hclogTo(n.cfg.Logger)
	var id identity
	if n.disk, id, err = openDisk(n.cfg.Dir, n.cfg.noSync, hlog, n.stepOut); err != nil {
		return err
	}
	known, err := raft.HasExistingState(n.disk.logs, n.disk.stable, n.disk.snapshots)
	if err != nil {
		return fmt.Errorf("dir %q: %w", n.cfg.Dir, err)
	}
	n.id, n.disk.fresh = id.Node, !known
	if known { // without a log it is of no cluster, whatever it once joined
		n.of = id.Cluster
	}
	n.log = n.cfg.Logger.With("node", n.cfg.Name, "id", n.id)

	previous := make([]wire.Secret, len(n.cfg.PreviousSecrets))
	for i, s := range n.cfg.PreviousSecrets {
		previous[i] = wire.Secret(s)
	}
	n.port, err = wire.Open(wire.Config{
		Network: n.cfg.network, Bind: n.cfg.Bind, Advertise: n.cfg.Advertise,
		Secret: wire.Secret(n.cfg.Secret), Previous: previous,
		Hello: n.hello, Admit: n.admit, Refused: n.refused, Logger: n.cfg.Logger,
	})
	n.cfg.Secret, n.cfg.PreviousSecrets = "", nil // the port has keys, and what prints a Node prints no secret
	if err != nil {
		return err
	}
	self := meta{Cluster: n.cluster(), Name: n.cfg.Name} // a leader may have invited it by now
	if n.gossip, err = startGossip(n.id, self, n.port, n.cfg, n.poke); err != nil {
		return err
	}
	n.replica = newReplica(n.clock)
	n.transport = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: n.port.Raft(), ServerAddressProvider: gossipAddrs{n.gossip}, MaxPool: 3, Timeout: 2 * time.Second, Logger: hlog,
		// One request at a time is no pipeline: in that, the sender and the receiver
		// of a follower's answers come to wait for each other for ever, in Raft
		// v1.8.0, when an answer fails while another request is to be sent. The
		// authority proposes one entry at a time, so there is nothing to gain by it.
		MaxRPCsInFlight: 1,
	})
	c := raft.DefaultConfig()
	c.LocalID = raft.ServerID(n.id)
	// At these the leader's death is noticed within a second, and no election
	// is held because of a garbage collection or a slow disk. A leader that hears
	// nobody gives up when the first of the others may take over: if it did before,
	// nobody would have one any sooner, and pauses would end its term that do not
	// now.
	c.HeartbeatTimeout, c.ElectionTimeout, c.LeaderLeaseTimeout = 500*time.Millisecond, 500*time.Millisecond, 500*time.Millisecond
	c.ShutdownOnRemove = false // a voter that is not needed goes on as a client
	c.NoLegacyTelemetry = true
	c.Logger = hlog
	err = recoverFault(func() (err error) { // Raft panics when it cannot read an entry
		r, err := raft.NewRaft(c, n.replica, n.disk.logs, n.disk.stable, n.disk.snapshots, n.transport)
		if err == nil {
			n.raft = &consensus{Raft: r}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("start raft from dir %q: %w", n.cfg.Dir, err)
	}
	if n.disk.guard != nil {
		n.disk.guard.armed.Store(true)
	}
	if len(n.cfg.Join) == 0 && n.disk.fresh {
		return n.found()
	}
	return nil
}

// spawn runs f on a goroutine that Close waits for, unless the node is closing.
func (n *Node) spawn(f func()) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closing {
		return false
	}
	n.work.Go(f)
	return true
}

// Close leaves the cluster: leadership and vote go to others, if there are any,
// and who asks this node's Store methods gets ErrClosed. Close a choked.Choke
// over this node before, so that it can return its leases. Close may be called
// twice, and returns when all of the node has ended, or with an error that says
// what has not.
func (n *Node) Close() error {
	if err := n.close(); err != nil {
		return fmt.Errorf("cluster: close: %w", err)
	}
	return nil
}

const (
	returnWithin = time.Second      // to give back leases that nobody waits for
	leaveWithin  = 3 * time.Second  // to hand over what this node does for others
	endWithin    = 10 * time.Second // for each part of it
)

func (n *Node) shutdown() error {
	var errs []error
	if n.raft != nil && n.wellKnown() {
		ctx, cancel := context.WithTimeout(n.ctx, leaveWithin)
		n.awaitReturns(ctx)
		if err := n.leave(ctx); err != nil {
			n.log.Warn("left without a word", "error", err)
		}
		cancel()
	}
	n.mu.Lock()
	n.closing = true
	n.mu.Unlock()
	n.cancel()
	if n.raft != nil && n.disk.bolt != nil && n.disk.guard.failed.Load() {
		n.raft.Shutdown() // one of its goroutines may hang in the disk
	} else if n.raft != nil {
		errs = append(errs, within(endWithin, "raft", func() error { return n.raft.Shutdown().Error() }))
	}
	if n.transport != nil {
		errs = append(errs, n.transport.Close())
	}
	if n.gossip != nil {
		errs = append(errs, n.gossip.stop(true))
	}
	if n.port != nil {
		errs = append(errs, n.port.Close())
	}
	errs = append(errs, within(endWithin, "work", func() error { n.work.Wait(); return nil }))
	if n.disk != nil {
		errs = append(errs, within(endWithin, "disk", n.disk.close))
	}
	return errors.Join(errs...)
}

// within returns what end returns, or an error if that takes longer than d.
func within(d time.Duration, what string, end func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- end() }()
	select {
	case err := <-ended:
		return err
	case <-time.After(d):
		return fmt.Errorf("%s has not ended within %v", what, d)
	}
}

// wellKnown reports whether there is somebody to say good-bye to. That another
// cluster was met changes nothing for the members of this one.
func (n *Node) wellKnown() bool {
	return n.gossip != nil && len(n.gossip.members()) > 1 && n.fit() == nil
}

// Addr returns the host:port at which others reach this node.
func (n *Node) Addr() string { return n.port.Addr() }

// ID returns the node's id, which it keeps as long as its Dir.
func (n *Node) ID() string { return n.id }

// Members returns the members that are alive, ordered by id.
func (n *Node) Members() []Member { return n.gossip.members() }

// Leader returns the member that leads, as far as this node knows: a voter
// knows from the log's own protocol, the others by gossip.
func (n *Node) Leader() (Member, bool) {
	id := n.id
	if n.authority.Load() == nil {
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

// Health returns nil, or what keeps this node from taking its full part: a disk
// that failed, another cluster that was met, no cluster yet, no leader any more.
func (n *Node) Health() error {
	err := n.fit()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stranger != nil && n.clock.Since(n.strangerAt) < strangersFor {
		return errors.Join(err, n.stranger)
	}
	return err
}

// fit is Health, but for other clusters.
func (n *Node) fit() error {
	n.mu.Lock()
	err := n.sick
	leaderless := n.clock.Since(n.led)
	n.mu.Unlock()
	if err == nil && n.cluster() == "" {
		err = errors.New("no cluster found yet")
	}
	if err == nil && leaderless > leaderlessFor {
		err = fmt.Errorf("no leader for %v: a majority of the voters must run, each with its Dir", leaderless.Round(time.Second))
	}
	if err == nil && n.ctx.Err() != nil {
		err = bucket.ErrClosed
	}
	return err
}

// Buckets describes the buckets that are not full, or are partly leased, as
// this member knows them: only a voter keeps them. Each is described as it is at
// a time during the call.
func (n *Node) Buckets() (list []bucket.Info) {
	var keys []string
	n.replica.View(func(t *ledger.Table) { keys = t.Keys() })
	slices.Sort(keys)
	for some := range slices.Chunk(keys, 256) { // nothing is decided meanwhile
		n.replica.View(func(t *ledger.Table) { list = append(list, t.Describe(some)...) })
	}
	return list
}

func (n *Node) isSick() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sick != nil
}

func (n *Node) cluster() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.of
}

// adopt makes this node one of the cluster id, for good.
func (n *Node) adopt(id string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.of == id {
		return nil
	}
	if n.of != "" {
		return fmt.Errorf("of cluster %q, not of %q", n.of, id)
	}
	if err := n.disk.identify(n.id, id); err != nil {
		return err
	}
	n.of = id
	return nil
}

// admit decides who may speak to this node, knowing the secret. Raft streams
// come from a leader or a candidate: one that knows no cluster is invited by
// them.
func (n *Node) admit(kind wire.Kind, peer wire.Hello) error {
	of := n.cluster()
	if of != "" && peer.Cluster != "" && of != peer.Cluster {
		err := fmt.Errorf("this node is of cluster %q, not of %q", of, peer.Cluster)
		n.met(err)
		return err
	}
	if kind == wire.Raft && of == "" {
		if peer.Cluster == "" {
			return errors.New("neither node is of a cluster")
		}
		return n.adopt(peer.Cluster)
	}
	return nil
}

// refused notes that another node does not welcome this one.
func (n *Node) refused(kind wire.Kind, err *wire.RefusedError) {
	if kind == wire.Gossip { // other kinds of stream go to members
		n.met(err)
	}
}

// met notes that another cluster was met.
func (n *Node) met(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stranger = fmt.Errorf("two clusters do not merge, empty Dir on the nodes of one of them: %w", err)
	n.strangerAt = n.clock.Now()
}

// leaderlessFor is how long there may be no leader before a node's health
// suffers. Elections take a second.
const leaderlessFor = 5 * time.Second

// strangersFor is how long a meeting with another cluster counts against a
// node's health.
const strangersFor = time.Minute

// gossipAddrs implements [raft.ServerAddressProvider]: the address of a server is
// the one that gossip knows, whatever it was when the server became a voter.
type gossipAddrs struct{ *gossip }

func (g gossipAddrs) ServerAddr(id raft.ServerID) (raft.ServerAddress, error) {
	if m, ok := g.member(string(id)); ok {
		return wire.RaftAddr(m.ID, m.Addr), nil
	}
	return "", fmt.Errorf("address of server %s: gossip knows no such member", id)
}

// poke says that there is news about members.
func (n *Node) poke() {
	select {
	case n.news <- struct{}{}:
	default:
	}
}

// stepOut ends this node's part in Raft, because its disk has failed: nothing
// that it has not saved may leave. It goes on as a client of the others.
func (n *Node) stepOut(err error) {
	n.transport.CloseStreams()
	n.transport.Close()
	n.mu.Lock()
	n.sick = fmt.Errorf("disk failed, this node takes no more part in Raft: %w", err)
	n.mu.Unlock()
	n.log.Error("disk failed, stepping out", "dir", n.cfg.Dir, "error", err)
	n.spawn(func() { n.raft.Shutdown() })
	n.spawn(func() { n.gossip.say(func(m *meta) { m.Sick, m.Voter, m.Leader = true, false, false }) })
}

// followLeadership decides while this node leads.
func (n *Node) followLeadership() {
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case <-n.ctx.Done():
			return
		case leads := <-n.raft.LeaderCh():
			stop()
			stop = func() {}
			if leads {
				stop = n.begin(n.lead)
			}
		}
	}
}

// begin runs f until the function returned is called, which waits for its end.
func (n *Node) begin(f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(n.ctx)
	var running sync.WaitGroup
	running.Go(func() { f(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// lead decides until ctx ends. An authority ends by itself when a proposal
// fails; if this node still leads then, as after a transfer of leadership that
// came to nothing, another one takes over.
func (n *Node) lead(ctx context.Context) {
	for ctx.Err() == nil && n.raft.State() == raft.Leader {
		term := n.raft.CurrentTerm()
		// All that earlier leaders have committed is applied here first.
		err := n.raft.Barrier()
		if err == nil && n.cfg.ColdStart == Empty && n.replica.last() == 0 { // nothing ever happened
			_, err = n.raft.Apply((&fsm.Entry{At: n.replica.now(), Ops: []ledger.Op{new(ledger.ColdStart)}}).Encode())
		}
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(lookEvery / 10):
			}
			continue
		}
		n.log.Info("leads")
		n.began.Store(n.raft.AppliedIndex())
		n.replica.lead(term)
		a := newLeaderQueue(n.raft, n.replica)
		n.authority.Store(a)
		n.router.rerouted()
		n.gossip.say(func(m *meta) { m.Leader, m.Voter = true, true })
		stopManaging := n.begin(n.manageVoters)
		a.run(ctx.Done())
		n.authority.Store(nil)
		n.replica.follow()
		n.gossip.say(func(m *meta) { m.Leader = false })
		n.log.Info("leads no more")
		stopManaging()
	}
}

// followMembers tells the others by gossip whether this node votes, and voters
// that were away the time, if this node leads: they may have started again.
func (n *Node) followMembers() {
	observations := make(chan raft.Observation, 16)
	observer := raft.NewObserver(observations, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.ResumedHeartbeatObservation:
			return true
		}
		return false
	})
	n.raft.RegisterObserver(observer)
	defer n.raft.DeregisterObserver(observer)
	tick := time.NewTicker(reviewEvery)
	defer tick.Stop()
	led := n.clock.Now()        // when Raft knew a leader last
	var doubts <-chan time.Time // when it will have been misled for long enough
	for {
		select {
		case <-n.ctx.Done():
			return
		case o := <-observations:
			if _, back := o.Data.(raft.ResumedHeartbeatObservation); !back {
				n.router.rerouted()
			} else if a := n.authority.Load(); a != nil {
				a.submit(clockEntry, func(waitqueue.Answer) {})
			}
		case <-tick.C:
		case <-doubts:
			if n.misled() {
				n.forgetLeader()
			}
			doubts = nil
		}
		if doubts == nil && n.misled() {
			doubts = time.After(misledFor)
		}
		if _, ok := n.Leader(); ok {
			n.mu.Lock()
			n.led = n.clock.Now()
			n.mu.Unlock()
		}
		votes := n.votes()
		// One that lost its vote while it was away is not told: its own log still
		// says that it votes. But Raft's leader does not speak to it.
		_, elsewhere := n.Leader()
		if _, leader := n.raft.LeaderWithID(); leader != "" {
			led = n.clock.Now()
		} else if elsewhere && n.clock.Since(led) > leaderlessFor {
			votes = false
		}
		n.gossip.say(func(m *meta) { m.Cluster, m.Voter = n.cluster(), votes && !m.Sick })
	}
}

// misledFor is how long a candidate may know a leader, which is what an election
// takes at most.
const misledFor = time.Second

// misled reports whether this node is a candidate that knows a leader. A follower
// forgets one that it does not hear, but a candidate does not, in Raft v1.8.0: if
// leadership is handed to it, and a heartbeat of the old leader comes while it
// saves its new term, it knows that one until it has won or lost an election.
// Should that come to nothing, it denies its vote to all others for ever.
func (n *Node) misled() bool {
	_, leader := n.raft.LeaderWithID()
	return leader != "" && n.raft.State() == raft.Candidate
}

// forgetLeader has Raft forget the leader, as a candidate, by what tells it to
// begin an election.
func (n *Node) forgetLeader() {
	n.log.Debug("a candidate that knows a leader, forgets it")
	begin := &raft.TimeoutNowRequest{RPCHeader: n.raftHeader()}
	if err := n.transport.TimeoutNow(raft.ServerID(n.id), n.transport.LocalAddr(), begin, new(raft.TimeoutNowResponse)); err != nil {
		n.log.Warn("cannot hold an election, trying again", "error", err)
	}
}

// raftHeader is that of a request as Raft makes it on this node.
func (n *Node) raftHeader() raft.RPCHeader {
	id := raft.ServerID(n.id)
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: n.transport.EncodePeer(id, n.transport.LocalAddr())}
}

// votes reports whether this node votes, as far as its log says.
func (n *Node) votes() bool {
	future := n.raft.GetConfiguration()
	return future.Error() == nil && slices.ContainsFunc(future.Configuration().Servers, func(s raft.Server) bool {
		return s.ID == raft.ServerID(n.id) && s.Suffrage == raft.Voter
	})
}

// accept serves the streams of clients.
func (n *Node) accept() {
	for {
		conn, err := n.port.RPC().Accept()
		if err != nil {
			return
		}
		if !n.spawn(func() { n.serve(conn.(*wire.Conn)) }) {
			conn.Close()
		}
	}
}

// serve says first whether this node leads, and where the leader is if it knows.
func (n *Node) serve(conn *wire.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(n.ctx, func() { conn.Close() })
	defer stop()
	a := n.awaitLeader(func() {
		conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		w := bufio.NewWriter(conn)
		writeFrame(w, frameWait, nil) //nolint:errcheck // who is gone is noticed by serve
		w.Flush()                     //nolint:errcheck
	})
	s := newRPCServerConn(conn, a, conn.Peer.Node)
	s.send(frameRole, n.role(a))
	if a == nil {
		conn.SetReadDeadline(time.Now().Add(changeWithin)) // for one question
	} else {
		ended := make(chan struct{})
		defer close(ended)
		n.spawn(func() {
			select {
			case <-ended:
			case <-a.ended:
				// Its answers are sent. The client goes to who leads next, as soon as
				// that is known; if it does not go, it is left.
				s.send(frameWait, nil)
				s.send(frameRole, n.role(n.awaitLeader(func() {})))
				conn.SetReadDeadline(time.Now().Add(lostAfter))
			}
		})
	}
	s.serve(n.answer)
}

// role is the body of a role frame of a node whose authority is a.
func (n *Node) role(a *leaderQueue) []byte {
	if a != nil {
		return []byte{1}
	}
	_, id := n.raft.LeaderWithID()
	if m, ok := n.gossip.member(string(id)); ok && !m.Self {
		return append([]byte{0}, m.Addr...)
	}
	return []byte{0}
}

// answer answers what members ask each other besides operations.
func (n *Node) answer(kind byte, body []byte) (reply byte, text []byte) {
	switch kind {
	case frameStatus:
		return frameState, binary.AppendUvarint(nil, n.raft.AppliedIndex())
	case frameLeave:
		if err := n.released(string(body)); err != nil {
			return frameLeft, []byte(err.Error())
		}
		return frameLeft, nil
	}
	return 0, nil
}
