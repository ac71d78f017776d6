package cluster

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/cluster/internal/wire"
)

const (
	changeWithin = 5 * time.Second // for one change of the configuration
	catchUp      = 30 * time.Second
	reviewEvery  = 2 * time.Second // besides when gossip has news

	// goneFor is how long one that said good-bye is gone, whatever gossip says:
	// until that has told everybody. Later it has come back.
	goneFor = 2 * time.Second
)

// manageVoters brings the voters in line with the members, one change at a time,
// until ctx ends.
func (n *Node) manageVoters(ctx context.Context) {
	for {
		changed, err := n.changeVoters(ctx)
		if err != nil && ctx.Err() == nil {
			n.log.Warn("cannot change the voters, trying again", "error", err)
		}
		if changed && err == nil {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-n.news:
		case <-time.After(reviewEvery):
		}
	}
}

// changeVoters makes the next change that is due, if any.
func (n *Node) changeVoters(ctx context.Context) (changed bool, err error) {
	future := n.raft.GetConfiguration()
	if err := future.Error(); err != nil {
		return false, err
	}
	v := view{self: n.id, want: n.cfg.Voters, servers: future.Configuration().Servers, able: n.able()}
	v.laggards = n.laggardsAmong(v.able)
	a := plan(v)
	switch a.kind {
	case promoteMembers:
		return true, n.promote(ctx, a.promote...)
	case replaceVoter, removeVoter, removeNonvoter:
		if err := n.remove(ctx, raft.ServerID(a.server)); err != nil {
			return true, err
		}
		if a.kind == replaceVoter {
			n.log.Info("removed vanished voter", "voter", a.server)
		}
		return true, nil
	}
	return false, nil
}

// laggardsAmong returns when those of members that did not catch up with the log
// failed to, and forgets the others.
func (n *Node) laggardsAmong(members map[string]Member) map[string]int64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.late, func(id string, _ int64) bool { _, ok := members[id]; return !ok })
	return maps.Clone(n.late)
}

// able returns the members that can vote, by id.
func (n *Node) able() map[string]Member {
	members := n.gossip.members()
	able := make(map[string]Member)
	n.mu.Lock()
	defer n.mu.Unlock()
	maps.DeleteFunc(n.gone, func(_ string, at int64) bool { return n.clock.Since(at) >= goneFor })
	for _, m := range members {
		if _, gone := n.gone[m.ID]; !gone && !m.Sick && !m.leaving {
			able[m.ID] = m
		}
	}
	return able
}

// answering returns the member with an id, if it is there and its disk has not
// failed. One that is about to leave still answers.
func (n *Node) answering(id raft.ServerID) (Member, bool) {
	m, ok := n.gossip.member(string(id))
	return m, ok && !m.Sick
}

// promote makes voters of members: all get the log first, then each the vote. A
// vote without the log would count in a majority that it cannot help to reach.
func (n *Node) promote(ctx context.Context, members ...Member) error {
	for _, m := range members {
		if err := n.invite(ctx, m); err != nil {
			return err
		}
	}
	// All of the log has come to them at once, so they take the last entry for one
	// of this instant.
	a := n.authority.Load()
	if a == nil {
		return errNotLeader
	}
	if _, err := a.do(ctx, clockEntry); err != nil {
		return fmt.Errorf("tell who is to vote the time: %w", err)
	}
	for _, m := range members {
		if err := n.raft.AddVoter(raft.ServerID(m.ID)); err != nil {
			return fmt.Errorf("give %s a vote: %w", m.Name, err)
		}
		n.log.Info("a member votes", "member", m.Name, "addr", m.Addr)
	}
	return nil
}

// invite has m follow the log, and returns when it has caught up.
func (n *Node) invite(ctx context.Context, m Member) error {
	id := raft.ServerID(m.ID)
	if err := n.raft.AddNonvoter(id); err != nil {
		return fmt.Errorf("invite %s: %w", m.Name, err)
	}
	until := n.raft.CommitIndex()
	catching, cancel := context.WithTimeout(ctx, catchUp)
	defer cancel()
	err := n.awaitLog(catching, m, until, n.isAble)
	if err == nil {
		return nil
	}
	if errors.Is(catching.Err(), context.DeadlineExceeded) {
		n.mu.Lock()
		n.late[m.ID] = n.clock.Now()
		n.mu.Unlock()
	}
	return errors.Join(fmt.Errorf("%s at %s does not catch up: %w", m.Name, m.Addr, err), n.remove(ctx, id))
}

func (n *Node) isAble(id string) bool {
	_, ok := n.able()[id]
	return ok
}

// remove takes away a vote, or an invitation, once a majority of the voters that
// stay follows this leader: without one it leads no more. One that has just been
// elected may have been by the very voter that leaves, and the others do not
// know it yet.
func (n *Node) remove(ctx context.Context, id raft.ServerID) error {
	err := n.awaitFollowers(ctx, id)
	if err == nil {
		err = n.raft.RemoveServer(id)
	}
	if err != nil {
		return fmt.Errorf("take the vote from %q: %w", id, err)
	}
	return nil
}

// awaitFollowers returns when of the voters besides one a majority, with this
// node, has applied what was there when this node began to lead.
func (n *Node) awaitFollowers(ctx context.Context, besides raft.ServerID) error {
	future := n.raft.GetConfiguration()
	if err := future.Error(); err != nil {
		return err
	}
	stay, votes := 0, false
	var others []Member
	for _, s := range future.Configuration().Servers {
		switch m, ok := n.answering(s.ID); {
		case s.Suffrage != raft.Voter:
		case s.ID == besides:
			votes = true
		default:
			stay++
			if ok && !m.Self {
				others = append(others, m)
			}
		}
	}
	if !votes {
		return nil
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	there := func(id string) bool { _, ok := n.answering(raft.ServerID(id)); return ok }
	found := make(chan error, len(others))
	for _, m := range others {
		asking.Go(func() { found <- n.awaitLog(ctx, m, n.began.Load(), there) })
	}
	need := stay / 2 // and this node
	var errs []error
	for range others {
		if need == 0 {
			break
		}
		if err := <-found; err != nil {
			errs = append(errs, err)
		} else {
			need--
		}
	}
	if need > 0 {
		return errors.Join(append(errs, fmt.Errorf("of the %d voters that stay, %d too few follow", stay, need))...)
	}
	return nil
}

// awaitLog returns when m has applied the log up to index. It gives up on one that
// is not there any more.
func (n *Node) awaitLog(ctx context.Context, m Member, index uint64, there func(id string) bool) error {
	var last error
	for {
		applied, err := n.appliedAt(ctx, m.Addr)
		if err == nil && applied >= index {
			return nil
		}
		last = err
		if err == nil {
			last = fmt.Errorf("it has entry %d of %d", applied, index)
		}
		if !there(m.ID) {
			return errors.Join(errors.New("it is gone"), last)
		}
		select {
		case <-ctx.Done():
			return errors.Join(context.Cause(ctx), last)
		case <-time.After(lookEvery / 4):
		}
	}
}

// appliedAt asks the member at addr which entry it has applied last.
func (n *Node) appliedAt(ctx context.Context, addr string) (uint64, error) {
	body, err := n.call(ctx, addr, frameStatus, nil, frameState)
	if err != nil {
		return 0, err
	}
	index, size := binary.Uvarint(body)
	if size <= 0 {
		return 0, fmt.Errorf("ask %s: no index in its answer", addr)
	}
	return index, nil
}

// call sends one frame to the member at addr and returns the body of the
// answer, which is to be of the given kind.
func (n *Node) call(ctx context.Context, addr string, kind byte, body []byte, answer byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	conn, r, _, _, err := n.dialRPC(ctx, addr, func() {})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })()
	w := bufio.NewWriter(conn)
	if err := errors.Join(writeFrame(w, kind, body), w.Flush()); err != nil {
		return nil, fmt.Errorf("ask %s: %w", addr, err)
	}
	var buf []byte
	got, body, err := readFrame(r, &buf)
	if err == nil && got != answer {
		err = fmt.Errorf("frame of kind %q where %q is expected", got, answer)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", addr, err)
	}
	return body, nil
}

// leave gives up this node's vote before it stops: leadership goes to another
// voter, which takes it out of the configuration. It tries until ctx ends, for
// who is to lead may need this very vote, and a node that stops with a vote
// keeps a majority of two from the other one.
func (n *Node) leave(ctx context.Context) error {
	n.gossip.say(func(m *meta) { m.Leaving = true })
	for {
		err := n.tryToLeave(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(lookEvery / 4):
		}
	}
}

func (n *Node) tryToLeave(ctx context.Context) error {
	future := n.raft.GetConfiguration()
	if err := future.Error(); err != nil {
		return err
	}
	votes := false
	var heirs []Member
	able := n.able()
	for _, s := range future.Configuration().Servers {
		votes = votes || s.ID == raft.ServerID(n.id)
		if m, ok := able[string(s.ID)]; ok && s.Suffrage == raft.Voter {
			heirs = append(heirs, m)
		}
	}
	if !votes || len(able) == 0 {
		return nil
	}
	if n.raft.State() == raft.Leader {
		if len(heirs) == 0 { // the only voter hands the log to somebody first
			heir := n.heir(able)
			if err := n.promote(ctx, heir); err != nil {
				return err
			}
			heirs = append(heirs, heir)
		}
		if err := n.handOver(ctx, heirs); err != nil {
			return fmt.Errorf("hand over leadership: %w", err)
		}
	}
	var errs []error
	for _, addr := range n.whereToAsk() {
		if addr == n.port.Addr() || ctx.Err() != nil {
			continue
		}
		text, err := n.call(ctx, addr, frameLeave, []byte(n.id), frameLeft)
		if err == nil && len(text) == 0 {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%s: %q", addr, text)
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("leave the voters: %w", errors.Join(errs...))
}

// heir returns which of the members able to vote is to have the log: of the first
// few one that answers, as gossip takes seconds to notice who is gone. Where packets
// do not pass none does, and all may be there.
func (n *Node) heir(able map[string]Member) Member {
	members := slices.SortedFunc(maps.Values(able), compareMembers)
	for _, m := range members[:min(len(members), 4)] {
		if n.gossip.answers(m) {
			return m
		}
	}
	return members[0]
}

// handOver gives leadership to the first of the heirs that takes it, of those that
// get an entry written now. Raft would choose by what it knows of their logs, and
// as long as nothing is decided a voter that is gone has as much as any. One that
// it cannot reach, or tries to only now and then, it would go on to bring up to
// date, and turn to no other.
func (n *Node) handOver(ctx context.Context, heirs []Member) error {
	if err := n.raft.Barrier(); err != nil {
		return err
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type answer struct {
		id  string
		err error
	}
	until := n.raft.LastIndex()
	answers := make(chan answer, len(heirs))
	for _, m := range heirs {
		asking.Go(func() { answers <- answer{m.ID, n.awaitLog(ctx, m, until, n.isAble)} })
	}
	var errs []error
	for range heirs {
		a := <-answers
		if a.err == nil {
			a.err = n.raft.LeadershipTransferToServer(raft.ServerID(a.id), raftAddress(raft.ServerID(a.id))).Error()
		}
		if a.err == nil {
			return nil
		}
		errs = append(errs, a.err)
	}
	return errors.Join(errs...)
}

// released is the leader's part of leave.
func (n *Node) released(id string) error {
	ctx, cancel := context.WithTimeout(n.ctx, leaveWithin)
	defer cancel()
	if n.raft.State() != raft.Leader {
		return errNotLeader
	}
	n.mu.Lock()
	n.gone[id] = n.clock.Now()
	n.mu.Unlock()
	// One that vanished cannot stand in for one that leaves, nor can one whose
	// disk has failed.
	future := n.raft.GetConfiguration()
	if err := future.Error(); err != nil {
		return err
	}
	for _, s := range future.Configuration().Servers {
		if _, ok := n.answering(s.ID); !ok && s.ID != raft.ServerID(id) {
			if err := n.remove(ctx, s.ID); err != nil {
				return err
			}
		}
	}
	return n.remove(ctx, raft.ServerID(id))
}

// hello is what this node says first on each stream.
func (n *Node) hello() wire.Hello {
	return wire.Hello{Node: n.id, Cluster: n.cluster()}
}
