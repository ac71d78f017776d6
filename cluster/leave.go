package cluster

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// leave is this node's departure from the cluster. Three parties take part: the node
// that leaves, the leader (after step 3, if the leader leaves, its successor), and
// the other voters.
//
//  1. The node announces by gossip that it is leaving. From then on all members
//     regard it as unable to vote, so no leader promotes it again.
//  2. If the node is the only voter, it promotes a successor: another member gets
//     the log, then a vote.
//  3. If the node leads, it transfers leadership to a voter that can commit entries.
//  4. The node asks the leader to remove it from Raft's configuration (frameLeave).
//     The leader first removes servers that have vanished or whose disks have
//     failed, because they cannot make up for the vote that is lost, and then the
//     node; each only when a majority of the remaining voters follows the leader.
//     From then on, and until gossip has told all members, it treats the node as
//     departed.
//
// A step that fails is tried again until the context ends: the next leader may need
// this node's vote to be elected, and a node that stops while it is one of two
// voters takes the majority with it. The next step is chosen by the present state,
// so a retry continues where the last try stopped, also if leadership has moved
// meanwhile.
type leave struct {
	id     string // of this node
	self   string // its address
	raft   *consensus
	gossip *gossip
	dialer dialer
	voters *voterManager
}

// leaveView is the state by which a node that is leaving chooses its next step.
type leaveView struct {
	listed     bool // the node is in Raft's configuration
	leads      bool
	able       int // other members that can vote
	successors int // of these the ones that do vote
}

type leaveStep int

const (
	hasLeft            leaveStep = iota // the node is in no configuration, or no other member could take over
	promoteSuccessor                    // step 2
	transferLeadership                  // step 3
	askToBeRemoved                      // step 4, which is the last
)

// next returns the step that is due.
func (v leaveView) next() leaveStep {
	switch {
	case !v.listed || v.able == 0:
		return hasLeft
	case !v.leads:
		return askToBeRemoved
	case v.successors == 0:
		return promoteSuccessor
	}
	return transferLeadership
}

// run leaves the cluster. It returns the error of the last try if ctx ends before.
func (l *leave) run(ctx context.Context) error {
	l.gossip.announce(func(m *meta) { m.Leaving = true })
	for {
		err := l.try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pollEvery):
		}
	}
}

// try takes one step after the other until the node has left or a step fails.
func (l *leave) try(ctx context.Context) error {
	for {
		servers, err := l.raft.servers()
		if err != nil {
			return err
		}
		able := l.voters.able()
		v := leaveView{leads: l.raft.State() == raft.Leader, able: len(able)}
		var successors []Member
		for _, s := range servers {
			v.listed = v.listed || s.ID == raft.ServerID(l.id)
			if m, ok := able[string(s.ID)]; ok && s.Suffrage == raft.Voter {
				successors = append(successors, m)
			}
		}
		v.successors = len(successors)
		switch v.next() {
		case hasLeft:
			return nil
		case promoteSuccessor:
			err = l.voters.promote(ctx, l.chooseSuccessor(able))
		case transferLeadership:
			err = l.transferLeadership(ctx, successors)
		case askToBeRemoved:
			return l.askToBeRemoved(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// chooseSuccessor returns the first member in the order of names that answers a
// packet, as gossip needs seconds to notice that a member has vanished. If none of
// the first few answers, packets may not pass at all: then it returns the first.
func (l *leave) chooseSuccessor(able map[string]Member) Member {
	members := slices.SortedFunc(maps.Values(able), compareMembers)
	for _, m := range members[:min(len(members), 4)] {
		if l.gossip.ping(m) {
			return m
		}
	}
	return members[0]
}

// transferLeadership makes a leader of the first of the successors that applies a
// new entry and accepts. Raft would choose by the last index that it knows of each;
// in an idle cluster a dead voter's is as good as any, and Raft would keep trying
// that voter.
func (l *leave) transferLeadership(ctx context.Context, successors []Member) error {
	if err := l.raft.Barrier(); err != nil {
		return fmt.Errorf("transfer leadership: %w", err)
	}
	var asking sync.WaitGroup
	defer asking.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		id  raft.ServerID
		err error
	}
	index := l.raft.LastIndex()
	results := make(chan result, len(successors))
	for _, m := range successors {
		asking.Go(func() { results <- result{raft.ServerID(m.ID), l.voters.awaitLog(ctx, m, index, l.voters.isAble)} })
	}
	var errs []error
	for range successors {
		r := <-results
		if r.err == nil {
			r.err = l.raft.LeadershipTransferToServer(r.id, raftAddress(r.id)).Error()
		}
		if r.err == nil {
			return nil
		}
		errs = append(errs, r.err)
	}
	return fmt.Errorf("transfer leadership: %w", errors.Join(errs...))
}

// askToBeRemoved asks members to remove this node, the most likely leader first,
// until one of them has.
func (l *leave) askToBeRemoved(ctx context.Context) error {
	var errs []error
	for _, addr := range likelyLeaders(l.raft, l.gossip) {
		if addr == l.self || ctx.Err() != nil {
			continue
		}
		refusal, err := l.dialer.call(ctx, addr, frameLeave, []byte(l.id), frameLeft)
		if err == nil && len(refusal) == 0 {
			return nil
		}
		if err == nil {
			err = fmt.Errorf("%s: %q", addr, refusal)
		}
		errs = append(errs, err)
	}
	return fmt.Errorf("ask to be removed from the voters: %w", errors.Join(errs...))
}

// removeDeparting is the leader's part in step 4 of another node's [leave].
func (m *voterManager) removeDeparting(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, leaveWithin)
	defer cancel()
	if m.raft.State() != raft.Leader {
		return errNotLeader
	}
	m.roster.markDeparted(id)
	servers, err := m.raft.servers()
	if err != nil {
		return err
	}
	for _, s := range servers {
		if _, ok := m.responsive(s.ID); !ok && s.ID != raft.ServerID(id) {
			if err := m.remove(ctx, s.ID); err != nil {
				return err
			}
		}
	}
	return m.remove(ctx, raft.ServerID(id))
}
