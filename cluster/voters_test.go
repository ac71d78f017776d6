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

// A node that has lost leadership stops waiting for a frozen member at once, both
// while it dials the member and while it waits for an answer.
func TestAwaitLogEndsWithItsContext(t *testing.T) {
	for name, after := range map[string]time.Duration{"while it dials": 5 * time.Millisecond, "while it waits for an answer": 65 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *fleet) {
				nodes := c.startThree()
				m, ok := nodes[0].gossip.member(nodes[1].id)
				require.True(t, ok)
				c.net.Faults(10*time.Millisecond, 0, 0)
				ctx, cancel := context.WithCancel(t.Context())
				result := make(chan error, 1)
				go func() { result <- nodes[0].voters.awaitLog(ctx, m, math.MaxUint64, func(string) bool { return true }) }()
				time.Sleep(after)
				c.net.Split([]string{ip(1)}, []string{ip(2)})
				time.Sleep(300 * time.Millisecond) // the call hangs
				synctest.Wait()
				assert.Empty(t, result)
				cancel()
				began := time.Now()
				assert.ErrorIs(t, <-result, context.Canceled)
				assert.Zero(t, time.Since(began))
			})
		})
	}
}

// A partition that is shorter than an election timeout does not end the leader's term.
func TestShortPartitionKeepsTheLeader(t *testing.T) {
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
		assert.NotNil(t, leader.queue.Load())
		assert.Equal(t, term, leader.raft.CurrentTerm())
	})
}

// A member that gossips but cannot be reached by Raft is passed over for others.
func TestUnreachableMemberDoesNotBlockPromotion(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		c.start(c.config(1))
		unreachable := c.start(c.config(2))
		c.await("a leader", func() bool { return c.leader() != nil })
		unreachable.raft.current().transport.CloseStreams()
		require.NoError(t, unreachable.raft.current().transport.Close())
		c.start(c.config(3))
		c.start(c.config(4))
		c.await("three voters", func() bool { return c.voters() == 3 })
		for _, s := range c.leader().raft.GetConfiguration().Configuration().Servers {
			assert.NotEqual(t, raft.ServerID(unreachable.id), s.ID)
		}
	})
}

// Two voters tolerate no failure. So a member that could vote is not promoted until
// another one can be promoted with it.
func TestMembersArePromotedInPairs(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		first := c.start(c.config(1))
		unreachable := c.start(c.config(2))
		c.await("a leader", func() bool { return first.queue.Load() != nil })
		unreachable.raft.current().transport.CloseStreams()
		require.NoError(t, unreachable.raft.current().transport.Close())
		third := c.start(c.config(3))
		c.await("the third node has the log", func() bool { return third.raft.AppliedIndex() > 0 })
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

// A voter is killed while it leaves: it has been removed from the voters, and has not
// told gossip that it leaves. When it restarts at once with its Dir, it is promoted.
func TestVoterKilledWhileLeavingIsPromotedAgain(t *testing.T) {
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

// A candidate that received a heartbeat of the old leader after it was told to take
// over still grants its vote to another candidate.
func TestStuckCandidateForgetsTheOldLeader(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		old := c.leader()
		others := besides(old, nodes)
		ahead, behind := others[0], others[1]
		c.net.Split([]string{host(behind)}, []string{host(old), host(ahead)})
		_, err := old.Lease(t.Context(), oneRequest("k", 1))
		require.NoError(t, err)
		c.await("one voter has a longer log", func() bool { return ahead.raft.LastIndex() > behind.raft.LastIndex() })

		// As a heartbeat does that arrives after the candidate has changed its state, and
		// before it has saved its term.
		to, self := raft.ServerID(behind.id), behind.raft.current().transport.LocalAddr()
		require.NoError(t, behind.raft.current().transport.TimeoutNow(to, self, &raft.TimeoutNowRequest{RPCHeader: raftHeader(to, behind.raft.current().transport)}, new(raft.TimeoutNowResponse)))
		synctest.Wait()
		late := &raft.AppendEntriesRequest{RPCHeader: raftHeader(raft.ServerID(old.id), old.raft.current().transport), Term: behind.raft.CurrentTerm()}
		require.NoError(t, behind.raft.current().transport.AppendEntries(to, self, late, new(raft.AppendEntriesResponse)))
		require.Equal(t, raft.Candidate, behind.raft.State())
		_, leader := behind.raft.LeaderWithID()
		require.Equal(t, raft.ServerID(old.id), leader)

		c.net.Split([]string{host(old)}, []string{host(ahead), host(behind)})
		c.net.Join([]string{host(behind)}, []string{host(ahead)})
		began := time.Now()
		c.await("a leader", func() bool { return ahead.queue.Load() != nil })
		assert.Less(t, time.Since(began), 5*time.Second)
	})
}

// A successor that was elected by the vote of the leaving leader removes that voter
// only when another voter follows it.
func TestSuccessorKeepsTheLeaversVoteUntilItHasAFollower(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		old := c.leader()
		others := besides(old, nodes)
		c.net.Faults(time.Millisecond, 0, 0)
		c.net.Split([]string{host(others[0])}, []string{host(others[1])})
		time.AfterFunc(1500*time.Millisecond, func() { c.net.Join([]string{host(others[0])}, []string{host(others[1])}) })
		c.leave(old)
		c.await("one voter, as two tolerate no more failures", func() bool { return c.voters() == 1 })
		successor := c.leader()
		require.NotNil(t, successor)
		assert.Equal(t, uint64(3), successor.raft.CurrentTerm(), "the founder led in term 2, and no further election was needed")
	})
}

// In an idle cluster a voter that has crashed has as much of the log as any other. A
// leaving leader does not try to transfer leadership to it.
func TestLeavingLeaderTransfersToAReachableVoter(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		old := c.leader()
		var dead *Node // the first of the others, which Raft would choose
		for _, s := range old.raft.GetConfiguration().Configuration().Servers {
			i := slices.IndexFunc(nodes, func(n *Node) bool { return n != old && n.id == string(s.ID) })
			if i >= 0 && dead == nil {
				dead = nodes[i]
			}
		}
		c.crash(dead)
		c.await("the leader knows of the crash", func() bool { return len(old.Members()) == 2 })
		time.Sleep(10 * time.Second)
		successor := besides(dead, besides(old, nodes))[0]
		began := time.Now()
		c.leave(old)
		assert.Less(t, time.Since(began), time.Second)
		c.await("the other node leads", func() bool { return c.leader() == successor })
		assert.Equal(t, 1, c.voters())
	})
}

// The only voter leaves when the member that it would promote has just crashed, and
// gossip has not noticed. It promotes another one.
func TestLeavingOnlyVoterPromotesAReachableMember(t *testing.T) {
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
		c.await("the other node leads", func() bool { return c.leader() == nodes[2] })
		assert.False(t, takeAll(t, nodes[2], 1), "the 60 of this hour were granted before")
	})
}

// A node of another cluster with the same secret tries to join and is refused. That
// does not keep members from leaving in good order.
func TestForeignClusterDoesNotBlockLeaving(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		cfg := c.config(4)
		cfg.Join = nil // it founds a cluster of its own
		foreign := c.start(cfg)
		_, err := foreign.gossip.list.Join([]string{nodes[0].Addr(), nodes[1].Addr(), nodes[2].Addr()})
		require.Error(t, err)
		for _, n := range nodes {
			require.True(t, n.health.metWithin(time.Second))
			require.NoError(t, n.Health(), "its own cluster has a leader")
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

// A voter returns at another address. A new node at its former address can be
// promoted as well.
func TestMemberAtTheFormerAddressOfAVoterIsPromoted(t *testing.T) {
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
		restarted := time.Now()
		c.await("the leader reaches it", func() bool { return moved.raft.current().LastContact().After(restarted) })
		replacement := c.start(c.config(2))
		c.await("the new node is a member", func() bool { return len(first.Members()) == 4 })
		c.leave(third)
		c.await("three voters, one of them the new node", func() bool { return c.voters() == 3 && replacement.voters.isVoter() })
	})
}
