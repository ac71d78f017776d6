package cluster

import (
	"context"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Who leads no more does not wait for a member that does not answer: not while
// it dials it, and not while it waits for what it says.
func TestManagingMembersEndsAtOnce(t *testing.T) {
	for name, after := range map[string]time.Duration{"it is dialled": 5 * time.Millisecond, "it is asked": 65 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *fleet) {
				nodes := c.startThree()
				m, ok := nodes[0].gossip.member(nodes[1].id)
				require.True(t, ok)
				c.net.Faults(10*time.Millisecond, 0, 0)
				ctx, cancel := context.WithCancel(t.Context())
				over := make(chan error, 1)
				go func() { over <- nodes[0].voters.awaitLog(ctx, m, math.MaxUint64, func(string) bool { return true }) }()
				time.Sleep(after)
				c.net.Split([]string{ip(1)}, []string{ip(2)})
				time.Sleep(300 * time.Millisecond) // now it is stuck
				synctest.Wait()
				assert.Empty(t, over)
				cancel()
				began := time.Now()
				assert.ErrorIs(t, <-over, context.Canceled)
				assert.Zero(t, time.Since(began))
			})
		})
	}
}

// Before the others look for a new leader, the old one does not give up.
func TestAPauseOfTheNetworkCostsNoLeader(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		leader := c.leader()
		at := 1 + slices.Index(nodes, leader)
		alone, others := []string{ip(at)}, []string{ip(1 + at%3), ip(1 + (at+1)%3)}
		time.Sleep(10 * time.Second)
		term := leader.raft.CurrentTerm()
		for range 10 {
			c.net.Split(alone, others)
			time.Sleep(350 * time.Millisecond)
			c.net.Join(alone, others)
			time.Sleep(5 * time.Second)
		}
		assert.NotNil(t, leader.authority.Load())
		assert.Equal(t, term, leader.raft.CurrentTerm())
	})
}

// A member that gossips, and that no leader reaches, keeps nobody else from a vote.
func TestAMemberOutOfReachKeepsNobodyFromAVote(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		c.start(c.config(1))
		deaf := c.start(c.config(2))
		c.await("a leader", func() bool { return c.leader() != nil })
		deaf.transport.CloseStreams()
		require.NoError(t, deaf.transport.Close())
		c.start(c.config(3))
		c.start(c.config(4))
		c.await("three voters", func() bool { return c.voters() == 3 })
		for _, s := range c.leader().raft.GetConfiguration().Configuration().Servers {
			assert.NotEqual(t, raft.ServerID(deaf.id), s.ID)
		}
	})
}

// Of two voters none may fail. So one that could vote does not, as long as there is
// no other to vote with it.
func TestNobodyVotesBeforeThereAreTwoMore(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		first := c.start(c.config(1))
		deaf := c.start(c.config(2))
		c.await("a leader", func() bool { return first.authority.Load() != nil })
		deaf.transport.CloseStreams()
		require.NoError(t, deaf.transport.Close())
		third := c.start(c.config(3))
		c.await("the third has the log", func() bool { return third.raft.AppliedIndex() > 0 })
		for range 600 {
			require.Equal(t, 1, c.voters())
			time.Sleep(100 * time.Millisecond)
		}
		c.crash(third)
		lease, err := first.Lease(t.Context(), oneRequest("k", 1))
		require.NoError(t, err)
		assert.True(t, lease.OK)
	})
}

// A voter leaves, and is killed when it has given up its vote but has not said
// good-bye. It starts again at once, with its Dir, and votes again.
func TestAVoterThatIsKilledWhileItLeavesVotesAgain(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThreeIn(dirs)
		i := slices.IndexFunc(nodes, func(n *Node) bool { return n != c.leader() })
		require.NoError(t, nodes[i].departure.try(t.Context()))
		require.Equal(t, 2, c.voters())
		c.crash(nodes[i])
		again := c.startIn(1+i, dirs[i])
		require.Equal(t, nodes[i].id, again.id)
		c.await("three voters", func() bool { return c.voters() == 3 })
	})
}

// A candidate that has heard the old leader once more, after it was told to take
// over, still lets another win.
func TestACandidateForgetsALeader(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		old := c.leader()
		others := besides(old, nodes)
		ahead, behind := others[0], others[1]
		c.net.Split([]string{host(behind)}, []string{host(old), host(ahead)})
		_, err := old.Lease(t.Context(), oneRequest("k", 1))
		require.NoError(t, err)
		c.await("the other has a longer log", func() bool { return ahead.raft.LastIndex() > behind.raft.LastIndex() })

		// What a heartbeat does that comes between a candidate's state and its term.
		to, self := raft.ServerID(behind.id), behind.transport.LocalAddr()
		require.NoError(t, behind.transport.TimeoutNow(to, self, &raft.TimeoutNowRequest{RPCHeader: raftHeader(to, behind.transport)}, new(raft.TimeoutNowResponse)))
		synctest.Wait()
		late := &raft.AppendEntriesRequest{RPCHeader: raftHeader(raft.ServerID(old.id), old.transport), Term: behind.raft.CurrentTerm()}
		require.NoError(t, behind.transport.AppendEntries(to, self, late, new(raft.AppendEntriesResponse)))
		require.Equal(t, raft.Candidate, behind.raft.State())
		_, leader := behind.raft.LeaderWithID()
		require.Equal(t, raft.ServerID(old.id), leader)

		c.net.Split([]string{host(old)}, []string{host(ahead), host(behind)})
		c.net.Join([]string{host(behind)}, []string{host(ahead)})
		began := time.Now()
		c.await("a leader", func() bool { return ahead.authority.Load() != nil })
		assert.Less(t, time.Since(began), 5*time.Second)
	})
}

// One that was elected by the vote of the leader that leaves takes that vote only
// when it has another to follow it.
func TestAnHeirFirstHasAFollower(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		old := c.leader()
		others := besides(old, nodes)
		c.net.Faults(time.Millisecond, 0, 0)
		c.net.Split([]string{host(others[0])}, []string{host(others[1])})
		time.AfterFunc(1500*time.Millisecond, func() { c.net.Join([]string{host(others[0])}, []string{host(others[1])}) })
		c.leave(old)
		c.await("one voter, as two are no better", func() bool { return c.voters() == 1 })
		heir := c.leader()
		require.NotNil(t, heir)
		assert.Equal(t, uint64(3), heir.raft.CurrentTerm(), "the founder's was the second")
	})
}

// As long as nothing is decided, a voter that has crashed has as much of the log as
// any. The leader that leaves does not wait for it to lead.
func TestALeaderThatLeavesHandsOverToWhoIsThere(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		old := c.leader()
		var dead *Node // of the others the one that Raft would choose: the first
		for _, s := range old.raft.GetConfiguration().Configuration().Servers {
			i := slices.IndexFunc(nodes, func(n *Node) bool { return n != old && n.id == string(s.ID) })
			if i >= 0 && dead == nil {
				dead = nodes[i]
			}
		}
		c.crash(dead)
		c.await("the leader knows that it is gone", func() bool { return len(old.Members()) == 2 })
		time.Sleep(10 * time.Second)
		heir := besides(dead, besides(old, nodes))[0]
		began := time.Now()
		c.leave(old)
		assert.Less(t, time.Since(began), time.Second)
		c.await("the other one leads", func() bool { return c.leader() == heir })
		assert.Equal(t, 1, c.voters())
	})
}

// The only voter leaves just when the member that would come next has crashed, which
// gossip does not know yet. Another one takes over.
func TestTheOnlyVoterThatLeavesHandsOverToWhoIsThere(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946"}
		var nodes []*Node
		for i := range 3 {
			cfg := c.config(1 + i)
			cfg.Voters = 1
			nodes = append(nodes, c.start(cfg))
		}
		require.True(t, takeAll(t, nodes[2], 0))
		c.await("all are members", func() bool { return len(nodes[0].Members()) == 3 })
		require.Same(t, nodes[0], c.leader())
		c.crash(nodes[1])
		c.leave(nodes[0])
		c.await("the other one leads", func() bool { return c.leader() == nodes[2] })
		assert.False(t, takeAll(t, nodes[2], 1), "60 an hour were granted already")
	})
}

// A worker of another cluster that has the same secret knocks and is refused. Who
// leaves gives up its vote all the same.
func TestAStrangerKeepsNobodyFromLeaving(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		cfg := c.config(4)
		cfg.Join = nil // it founds its own
		stranger := c.start(cfg)
		_, err := stranger.gossip.list.Join([]string{nodes[0].Addr(), nodes[1].Addr(), nodes[2].Addr()})
		require.Error(t, err)
		for _, n := range nodes {
			require.ErrorContains(t, n.Health(), "two clusters do not merge")
		}
		last := besides(c.leader(), nodes)[0]
		for _, n := range besides(last, nodes) {
			c.leave(n)
		}
		lease, err := last.Lease(t.Context(), oneRequest("k", 1))
		require.NoError(t, err, "it leads alone")
		assert.True(t, lease.OK)
	})
}

// A voter that has moved leaves its address to others, and one of them is to vote.
func TestWhoHasTheFormerAddressOfAVoterCanVote(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		first := c.start(c.config(1))
		cfg := c.config(2)
		cfg.Dir = dir
		moving := c.start(cfg)
		third := c.start(c.config(3))
		c.await("three voters", func() bool { return c.voters() == 3 })
		require.Same(t, first, c.leader())
		c.crash(moving)
		cfg = c.config(10)
		cfg.Dir = dir
		moved := c.start(cfg)
		require.Equal(t, moving.id, moved.id)
		came := time.Now()
		c.await("the leader reaches it", func() bool { return moved.raft.LastContact().After(came) })
		next := c.start(c.config(2))
		c.await("the next one is a member", func() bool { return len(first.Members()) == 4 })
		c.leave(third)
		c.await("three voters, of which the next one is one", func() bool { return c.voters() == 3 && next.voters.isVoter() })
	})
}
