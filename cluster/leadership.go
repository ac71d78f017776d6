package cluster

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/fsm"
	"github.com/choked/choked/internal/ledger"
	"github.com/choked/choked/internal/waitqueue"
)

// followLeadership runs lead whenever this node is the leader, until ctx ends.
func (n *Node) followLeadership(ctx context.Context, run *raftRun) {
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-run.LeaderCh():
			stop()
			stop = func() {}
			if leads {
				stop = startUntil(ctx, func(ctx context.Context) { n.lead(ctx, run) })
			}
		}
	}
}

// startUntil runs f until the function returned is called, which waits for its end,
// or until ctx ends.
func startUntil(ctx context.Context, f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { f(ctx) })
	return func() {
		cancel()
		running.Wait()
	}
}

// lead decides operations until ctx ends. A leaderQueue ends by itself when a proposal
// fails; if this node still leads then, as after a transfer of leadership that failed,
// the next one begins.
func (n *Node) lead(ctx context.Context, run *raftRun) {
	for ctx.Err() == nil && run.State() == raft.Leader {
		term := run.CurrentTerm()
		if err := n.catchUp(run); err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(10 * time.Millisecond):
			}
			continue
		}
		n.log.Info("became leader", "term", term)
		n.voters.termStart.Store(run.AppliedIndex())
		n.replica.lead(term)
		q := newLeaderQueue(run, n.replica)
		n.queue.Store(q)
		n.router.reroute()
		voters := strings.Join(n.voterIDs(), ",") // before the first review: this node may die at once
		n.gossip.announce(func(m *meta) { m.Leader, m.Voter, m.VoterIDs = true, true, voters })
		stopVoterManager := startUntil(n.ctx, n.voters.run)
		q.run(ctx.Done())
		n.queue.Store(nil)
		n.replica.follow()
		n.gossip.announce(func(m *meta) { m.Leader = false })
		n.log.Info("lost leadership", "term", term)
		stopVoterManager()
	}
}

// catchUp applies all entries that earlier leaders have committed. The first leader
// of a cluster commits the cold start, if buckets are to start empty.
func (n *Node) catchUp(run *raftRun) error {
	err := run.Barrier()
	if err == nil && n.cfg.ColdStart == Empty && n.replica.last() == 0 { // no operation was ever decided
		_, err = run.Apply((&fsm.Entry{At: n.replica.now(), Ops: []ledger.Op{new(ledger.ColdStart)}}).Encode())
	}
	return err
}

// followRaft passes on what Raft knows, until ctx ends: to operations, that
// the leader has changed; to gossip, whether this node votes; and to voters that
// return, the time. It also frees a candidate that is stuck.
func (n *Node) followRaft(ctx context.Context, run *raftRun) {
	observations := make(chan raft.Observation, 16)
	observer := raft.NewObserver(observations, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.ResumedHeartbeatObservation:
			return true
		}
		return false
	})
	run.RegisterObserver(observer)
	defer run.DeregisterObserver(observer)
	tick := time.NewTicker(reviewEvery)
	defer tick.Stop()
	stuck := stuckCandidate{id: raft.ServerID(n.id), raft: run, transport: run.transport, log: n.log}
	contactAt := n.clock.Now() // when Raft knew a leader last
	for {
		stuck.watch()
		_, leaderKnown := n.Leader()
		if leaderKnown {
			n.health.leaderKnown()
		}
		if _, leader := run.LeaderWithID(); leader != "" {
			contactAt = n.clock.Now()
		}
		// A voter that was removed while it was away is not told so, and is a voter by
		// its own log. But Raft's leader does not contact it.
		removed := leaderKnown && n.clock.Since(contactAt) > leaderlessFor
		votes := n.voters.isVoter() && !removed
		n.gossip.announce(func(m *meta) {
			m.Cluster, m.Voter = n.joined.announced(), votes && !m.DiskFailed
			n.announceQuorum(m)
		})
		select {
		case <-ctx.Done():
			return
		case o := <-observations:
			n.observe(o)
		case <-tick.C:
		case <-stuck.due:
			stuck.free()
		}
	}
}

// observe handles an event of Raft. A voter that returns may have restarted, and
// learns the time by an entry.
func (n *Node) observe(o raft.Observation) {
	if _, returned := o.Data.(raft.ResumedHeartbeatObservation); !returned {
		n.router.reroute()
	} else if q := n.queue.Load(); q != nil {
		q.submit(clockEntry, func(waitqueue.Answer) {})
	}
}

// stuckFor is how long a candidate may know a leader before it is stuck: the longest
// that an election takes.
const stuckFor = time.Second

// stuckCandidate finds out that this node is a candidate that still knows a leader,
// and makes it forget that leader. In Raft v1.8.0 a follower forgets a leader whose
// heartbeats stop, but a candidate does not: if leadership is transferred to it, and
// a heartbeat of the old leader arrives while it saves its new term, it knows the
// old leader until it has won or lost an election. If its election fails, it refuses
// its vote to all other candidates for ever.
type stuckCandidate struct {
	id        raft.ServerID
	raft      *raftRun
	transport *raft.NetworkTransport
	log       *slog.Logger

	due <-chan time.Time // fires when the candidate has known a leader for stuckFor; nil: it knows none
}

// watch sets due if this node is a candidate that knows a leader.
func (s *stuckCandidate) watch() {
	if s.due == nil && s.knowsLeader() {
		s.due = time.After(stuckFor)
	}
}

// free makes the candidate forget the leader by a request to begin an election. It
// is called when due has fired.
func (s *stuckCandidate) free() {
	s.due = nil
	if !s.knowsLeader() {
		return
	}
	begin := &raft.TimeoutNowRequest{RPCHeader: raftHeader(s.id, s.transport)}
	if err := s.transport.TimeoutNow(s.id, s.transport.LocalAddr(), begin, new(raft.TimeoutNowResponse)); err != nil {
		s.log.Warn("failed to restart election, retrying", "error", err)
		return
	}
	s.log.Debug("restarted election, as the candidate still knew a leader")
}

func (s *stuckCandidate) knowsLeader() bool {
	_, leader := s.raft.LeaderWithID()
	return leader != "" && s.raft.State() == raft.Candidate
}

// raftHeader returns the header that Raft puts on the requests of node id.
func raftHeader(id raft.ServerID, transport *raft.NetworkTransport) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(id), Addr: transport.EncodePeer(id, transport.LocalAddr())}
}
