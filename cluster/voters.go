package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/fold"
)

const (
	changeWithin = 5 * time.Second // for one change of Raft's configuration
	catchUp      = 30 * time.Second
	reviewEvery  = 2 * time.Second // between plans of the voters, unless the members change

	pollEvery = 25 * time.Millisecond // between requests to a member for its progress

	// departedFor is how long a member that has announced its departure counts as
	// departed, whatever gossip says: until gossip has told all members. After that
	// the member has returned.
	departedFor = 2 * time.Second
)

// voterManager changes which members vote. All nodes have one, but only the leader
// changes anything.
type voterManager struct {
	id      string // of this node
	want    int    // Config.Voters
	raft    *consensus
	gossip  *gossip
	dialer  dialer
	queue   *atomic.Pointer[leaderQueue]
	roster  *roster
	changed signal // the members may have changed
	log     *slog.Logger
	events  *fold.Events

	termStart atomic.Uint64 // index of the last entry applied when this node became leader
}

// run brings the voters in line with the members, one change at a time, until ctx
// ends.
func (m *voterManager) run(ctx context.Context) {
	for {
		changed, err := m.changeVoters(ctx)
		if err != nil && ctx.Err() == nil {
			m.events.Warn(m.log, "failed to change voters", "failed to change voters, retrying", "error", err)
		}
		if changed && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-m.changed:
		case <-time.After(reviewEvery):
		}
	}
}

// changeVoters makes the next change that [plan] asks for, if any.
func (m *voterManager) changeVoters(ctx context.Context) (changed bool, err error) {
	servers, err := m.raft.servers()
	if err != nil {
		return false, err
	}
	v := view{self: m.id, want: m.want, servers: servers, able: m.able()}
	v.laggards = m.roster.laggardsAmong(v.able)
	a := plan(v)
	switch a.kind {
	case promoteMembers:
		return true, m.promote(ctx, a.promote...)
	case replaceVoter, removeVoter, removeNonvoter:
		if err := m.remove(ctx, raft.ServerID(a.server)); err != nil {
			return true, err
		}
		if a.kind == replaceVoter {
			m.log.Info("removed vanished voter", "voter", a.server)
		}
		return true, nil
	}
	return false, nil
}

// able returns the members that can vote, by id: their disks work, and they are not
// leaving.
func (m *voterManager) able() map[string]Member {
	members := m.gossip.members()
	able := make(map[string]Member, len(members))
	for _, x := range members {
		if !x.DiskFailed && !x.leaving && !m.roster.hasDeparted(x.ID) {
			able[x.ID] = x
		}
	}
	return able
}

func (m *voterManager) isAble(id string) bool {
	_, ok := m.able()[id]
	return ok
}

// responsive returns the member with an id if gossip knows it and its disk works. A
// member that is leaving is still responsive.
func (m *voterManager) responsive(id raft.ServerID) (Member, bool) {
	x, ok := m.gossip.member(string(id))
	return x, ok && !x.DiskFailed
}

// promote makes voters of members. First all of them get the log, then each gets
// its vote: a vote without the log would count in a majority that it cannot help to
// reach.
func (m *voterManager) promote(ctx context.Context, members ...Member) error {
	for _, x := range members {
		if err := m.addNonvoter(ctx, x); err != nil {
			return err
		}
	}
	// The members have received the whole log at once and take the time of its last
	// entry for the present. An entry of now corrects that.
	q := m.queue.Load()
	if q == nil {
		return errNotLeader
	}
	if _, err := q.do(ctx, clockEntry); err != nil {
		return fmt.Errorf("commit clock entry before promoting %s: %w", m.gossip.label(members[0]), err)
	}
	for _, x := range members {
		if err := m.raft.AddVoter(raft.ServerID(x.ID)); err != nil {
			return fmt.Errorf("promote %s: %w", m.gossip.label(x), err)
		}
		m.log.Info("promoted member to voter", "member", m.gossip.label(x), "addr", x.Addr)
	}
	return nil
}

// addNonvoter has a member follow the log and returns when it has caught up. If it
// does not catch up, it is removed again.
func (m *voterManager) addNonvoter(ctx context.Context, x Member) error {
	id := raft.ServerID(x.ID)
	if err := m.raft.AddNonvoter(id); err != nil {
		return fmt.Errorf("add %s as nonvoter: %w", m.gossip.label(x), err)
	}
	until := m.raft.CommitIndex()
	catching, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	err := m.awaitLog(catching, x, until, m.isAble)
	if err == nil {
		return nil
	}
	if errors.Is(catching.Err(), context.DeadlineExceeded) {
		m.roster.markLaggard(x.ID)
	}
	return errors.Join(fmt.Errorf("%s at %s did not catch up with the log: %w", m.gossip.label(x), x.Addr, err), m.remove(ctx, id))
}

// remove removes a server once a majority of the remaining voters follows this
// leader, which could not lead any more without one. A new leader may owe its
// election to the very voter being removed, and the other voters may not have heard
// from it yet.
func (m *voterManager) remove(ctx context.Context, id raft.ServerID) error {
	err := m.awaitFollowers(ctx, id)
	if err == nil {
		err = m.raft.RemoveServer(id)
	}
	if err != nil {
		return fmt.Errorf("remove server %q: %w", id, err)
	}
	return nil
}

// awaitFollowers waits until a majority of the voters other than except, this node
// included, has applied all entries up to termStart. It returns at once if except
// is no voter.
func (m *voterManager) awaitFollowers(ctx context.Context, except raft.ServerID) error {
	servers, err := m.raft.servers()
	if err != nil {
		return err
	}
	remaining, removesVote := 0, false
	var others []Member
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		if s.ID == except {
			removesVote = true
			continue
		}
		remaining++
		if x, ok := m.responsive(s.ID); ok && !x.Self {
			others = append(others, x)
		}
	}
	if !removesVote {
		return nil
	}
	need := remaining / 2 // and this node
	have, err := m.awaitLogs(ctx, others, m.termStart.Load(), need)
	if have < need {
		return errors.Join(err, fmt.Errorf("only %d of %d remaining voters have caught up, need %d", have+1, remaining, need+1))
	}
	return nil
}

// awaitLogs waits until need of the members have applied the log up to index, or
// until changeWithin has passed. It returns how many have, and why others have not.
func (m *voterManager) awaitLogs(ctx context.Context, members []Member, index uint64, need int) (have int, err error) {
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	isResponsive := func(id string) bool { _, ok := m.responsive(raft.ServerID(id)); return ok }
	results := make(chan error, len(members))
	for _, x := range members {
		asking.Go(func() { results <- m.awaitLog(ctx, x, index, isResponsive) })
	}
	var errs []error
	for range members {
		if have >= need {
			break
		}
		if err := <-results; err != nil {
			errs = append(errs, err)
		} else {
			have++
		}
	}
	return have, errors.Join(errs...)
}

// awaitLog returns when a member has applied the log up to index. It fails if the
// member has not by the end of ctx, or when it is not present any more. It asks more
// rarely the longer it takes, at least once a second: each time costs a handshake.
func (m *voterManager) awaitLog(ctx context.Context, x Member, index uint64, present func(id string) bool) error {
	var last error
	for pause := pollEvery; ; pause = min(pause+pause/4, time.Second) {
		applied, err := m.dialer.appliedIndex(ctx, x.Addr)
		if err == nil && applied >= index {
			return nil
		}
		last = err
		if err == nil {
			last = fmt.Errorf("applied entry %d, want %d", applied, index)
		}
		if !present(x.ID) {
			return errors.Join(errors.New("member has vanished"), last)
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), last)
		case <-time.After(pause):
		}
	}
}

// isVoter reports whether this node is a voter, as far as its own log says.
func (m *voterManager) isVoter() bool {
	servers, err := m.raft.servers()
	if err != nil {
		return false
	}
	for _, s := range servers {
		if s.ID == raft.ServerID(m.id) {
			return s.Suffrage == raft.Voter
		}
	}
	return false
}

// roster remembers for a while what gossip does not tell of members.
type roster struct {
	clock *boottime.Clock

	mu       sync.Mutex
	departed map[string]int64 // members that announced their departure to this node, and when
	laggards map[string]int64 // members that did not catch up with the log, and when
}

func newRoster(clock *boottime.Clock) *roster {
	return &roster{clock: clock, departed: make(map[string]int64), laggards: make(map[string]int64)}
}

func (r *roster) markDeparted(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.departed[id] = r.clock.Now()
}

// hasDeparted reports whether a member has announced its departure within
// departedFor.
func (r *roster) hasDeparted(id string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.departed, func(_ string, at int64) bool { return r.clock.Since(at) >= departedFor })
	_, departed := r.departed[id]
	return departed
}

func (r *roster) markLaggard(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.laggards[id] = r.clock.Now()
}

// laggardsAmong returns when those of members that did not catch up with the log
// failed to, and forgets the others.
func (r *roster) laggardsAmong(members map[string]Member) map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	maps.DeleteFunc(r.laggards, func(id string, _ int64) bool { _, ok := members[id]; return !ok })
	return maps.Clone(r.laggards)
}

// servers returns the servers of Raft's latest configuration.
func (c *consensus) servers() ([]raft.Server, error) {
	future := c.GetConfiguration()
	if err := future.Error(); err != nil {
		return nil, err
	}
	return future.Configuration().Servers, nil
}
