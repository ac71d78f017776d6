package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
)

// takeAll takes what a key that grants 60 an hour grants at once, if it is there.
func takeAll(t *testing.T, n *Node, seq uint64) bool {
	t.Helper()
	all := choked.Cost{Requests: 60}
	lease, err := n.Lease(t.Context(), bucket.Ask{
		Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: seq}, Limits: choked.MustLimits("60/h", ""),
		Need: all, Want: all, MaxWait: time.Second,
	})
	require.NoError(t, err)
	return lease.OK
}

// The only seed crashes and comes back without its log, as it does when Dir is
// empty. The others live on, and have not been asked before it founds again.
func TestASoleSeedThatComesBackFoundsNoSecondCluster(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946"}
		seed := c.start(c.config(1))
		c.start(c.config(2))
		c.start(c.config(3))
		c.start(c.config(4))
		c.await("three voters", func() bool { return c.voters() == 3 })
		require.True(t, takeAll(t, seed, 1))
		time.Sleep(10 * time.Second)
		c.crash(seed)
		time.Sleep(time.Second) // as long as a supervisor takes to start it again
		seed = c.start(c.config(1))
		time.Sleep(time.Minute)
		assert.Equal(t, c.nodes[ip(2)+":7946"].cluster(), seed.cluster())
		assert.False(t, takeAll(t, seed, 2), "60 an hour, twice in a minute")
	})
}

// Nor if it does not vote, as after it was restarted once. To the others it is
// still there: they have not noticed that it has crashed.
func TestASoleSeedThatDoesNotVoteFoundsNoSecondCluster(t *testing.T) {
	for late := range 5 {
		inBubble(t, func(t *testing.T, c *fleet) {
			c.seeds = []string{ip(1) + ":7946"}
			seed := c.start(c.config(1))
			for i := 2; i <= 4; i++ {
				c.start(c.config(i))
			}
			c.await("three voters", func() bool { return c.voters() == 3 })
			c.leave(seed)
			seed = c.start(c.config(1))
			require.True(t, takeAll(t, seed, 1))
			time.Sleep(10 * time.Second)
			require.Equal(t, 3, c.voters())
			require.False(t, seed.voters.isVoter())
			c.crash(seed)
			time.Sleep(time.Duration(late) * 200 * time.Millisecond)
			seed = c.start(c.config(1))
			assert.False(t, takeAll(t, seed, 2), "60 an hour, twice in seconds")
			c.await("they are of one cluster", func() bool { return seed.cluster() == c.leader().cluster() })
		})
	}
}

// Nor if it was the only one that voted: the one that has its log and its vote
// now has only just got them.
func TestASoleSeedThatRestartsFindsItsHeir(t *testing.T) {
	for late := range 5 { // by as many seconds after the heir has looked for others
		inBubble(t, func(t *testing.T, c *fleet) {
			c.seeds = []string{ip(1) + ":7946"}
			seed := c.start(c.config(1))
			heir := c.start(c.config(2))
			require.True(t, takeAll(t, heir, 1))
			time.Sleep(time.Duration(10+late) * time.Second)
			c.leave(seed)
			seed = c.start(c.config(1))
			require.False(t, takeAll(t, seed, 2))
			c.await("they are of one cluster", func() bool { return seed.cluster() == heir.cluster() })
		})
	}
}

// Five workers are seeds, and leave, so that another one holds the cluster. When
// three of the five come back together, they are more than half. The two that do
// not, whose hosts are gone, do not keep the other one from finding them in time.
func TestSeedsThatComeBackFoundNoSecondCluster(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		for i := 1; i <= 5; i++ {
			c.seeds = append(c.seeds, ip(i)+":7946")
		}
		seeds := make(map[int]*Node)
		for i := 1; i <= 5; i++ {
			seeds[i] = c.start(c.config(i))
		}
		c.await("three voters", func() bool { return c.voters() == 3 })
		other := c.start(c.config(6))
		require.True(t, takeAll(t, other, 0))
		c.leave(seeds[2])
		c.leave(seeds[3])
		c.net.Split([]string{ip(2), ip(3)}, []string{ip(6)})
		for late := range 5 { // by about as many seconds after the other one has begun to look for them
			for _, i := range []int{1, 4, 5} {
				c.leave(seeds[i])
			}
			c.await("the other one leads", func() bool { return c.leader() == other && c.voters() == 1 })
			time.Sleep(time.Duration(late) * 900 * time.Millisecond)
			for _, i := range []int{1, 4, 5} {
				seeds[i] = c.start(c.config(i))
			}
			for _, i := range []int{1, 4, 5} {
				require.False(t, takeAll(t, seeds[i], uint64(10*late+i)), "60 an hour were granted already, within minutes")
				c.await("they are of one cluster", func() bool { return seeds[i].cluster() == other.cluster() })
			}
		}
	})
}

// An address of IPv6 is the same however it is written.
func TestASeedFoundsHoweverItsAddressIsWritten(t *testing.T) {
	for _, written := range []string{"[fd00::1]:7946", "[FD00::1]:7946", "[fd00:0:0:0::1]:07946"} {
		inBubble(t, func(t *testing.T, c *fleet) {
			for _, advertised := range []string{"", written} {
				cfg := c.config(1)
				cfg.Bind, cfg.Advertise, cfg.Join, cfg.network = "[fd00::1]:7946", advertised, []string{written}, c.net.Host("fd00::1")
				n := c.start(cfg)
				assert.Equal(t, "[fd00::1]:7946", n.Addr())
				c.await("it has founded a cluster at "+written, func() bool { return n.authority.Load() != nil })
				c.leave(n)
			}
		})
	}
}

// Before there is a cluster nobody is asked whether he leads it, and callers hear
// what is the matter.
func TestCallersHearThatThereIsNoCluster(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		n := c.start(c.config(2))
		c.start(c.config(3))
		began := time.Now()
		_, err := n.Lease(t.Context(), oneRequest("k", 1))
		require.ErrorIs(t, err, choked.ErrNoQuorum)
		assert.ErrorContains(t, err, "no cluster found yet")
		assert.Equal(t, n.cfg.Timeout, time.Since(began))
		c.start(c.config(1))
		_, err = n.Lease(t.Context(), oneRequest("k", 1))
		require.NoError(t, err, "there is one within that time")
	})
}

// Of two workers one votes. When it crashes, and comes back without its log,
// nobody has one, and the other cannot know that it is gone for good: it says so.
func TestTheLossOfAllThatVoteShowsInHealth(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946"}
		a := c.start(c.config(1))
		b := c.start(c.config(2))
		c.await("a leader", func() bool { return c.leader() != nil && b.cluster() != "" })
		time.Sleep(time.Minute)
		require.Same(t, a, c.leader())
		require.NoError(t, b.Health())
		c.crash(a)
		time.Sleep(time.Second)
		again := c.start(c.config(1))
		time.Sleep(90 * time.Second) // gossip takes a while to find that the leader is gone
		require.ErrorContains(t, b.Health(), "no leader for 1m")
		require.ErrorContains(t, again.Health(), "no cluster found yet")
	})
}

// When the log is lost, starting the workers again one after the other is
// enough, as whoever watches their health does.
func TestALostClusterIsFoundedAnewByRestarts(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		nodes := []*Node{nil, c.start(c.config(1)), c.start(c.config(2)), c.start(c.config(3)), c.start(c.config(4))}
		c.await("three voters", func() bool { return c.voters() == 3 })
		time.Sleep(10 * time.Second)
		lost := nodes[4].cluster()
		var crashed []int
		for i := 1; i <= 4 && len(crashed) < 2; i++ {
			if nodes[i].gossip.announced().Voter {
				crashed = append(crashed, i)
				c.net.Crash(ip(i)) // both at once
			}
		}
		for _, i := range crashed {
			c.crash(nodes[i])
			nodes[i] = c.start(c.config(i))
		}
		time.Sleep(time.Minute)
		for i := 1; i <= 4; i++ {
			if nodes[i].Health() != nil {
				c.crash(nodes[i])
				time.Sleep(5 * time.Second)
				nodes[i] = c.start(c.config(i))
				time.Sleep(20 * time.Second)
			}
		}
		c.await("a leader", func() bool { return c.leader() != nil })
		time.Sleep(10 * time.Second)
		for i := 1; i <= 4; i++ {
			require.NoError(t, nodes[i].Health())
			require.NotEqual(t, lost, nodes[i].cluster())
			require.Equal(t, nodes[1].cluster(), nodes[i].cluster())
		}
	})
}

// With a cold start, a cluster that lost all it knew does not admit a burst on
// top of what was spent before.
func TestAClusterThatKnowsNothingMayBeginEmpty(t *testing.T) {
	admitted := func(t *testing.T, how ColdStart) int {
		n := 0
		inBubble(t, func(t *testing.T, c *fleet) {
			for range 2 {
				cfg := c.config(1) // its host is another each time
				cfg.ColdStart = how
				node := c.start(cfg)
				c.await("a leader", func() bool { return c.leader() != nil })
				choke := choked.New(node)
				l, err := choke.Limiter("k", choked.MustLimits("60/m", ""), nil)
				require.NoError(t, err)
				for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
					v, err := l.Allow(t.Context(), choked.Cost{Requests: 1})
					require.NoError(t, err)
					if v.OK {
						n++
					}
				}
				c.crash(node) // and nothing is left: it has no Dir
				assert.ErrorIs(t, choke.Close(), choked.ErrClosed)
			}
		})
		return n
	}
	assert.Greater(t, admitted(t, Full), 120, "two bursts")
	assert.InDelta(t, 20, admitted(t, Empty), 4, "twice 10 s of 60/m")
}

// What is begun empty by one leader is not begun empty again by the next.
func TestAColdStartComesOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		for i := 1; i <= 3; i++ {
			cfg := c.config(i)
			cfg.ColdStart = Empty
			c.start(cfg)
		}
		c.await("three voters", func() bool { return c.voters() == 3 })
		time.Sleep(2 * time.Minute) // 60/m has been refilled
		c.crash(c.leader())
		c.await("another leader", func() bool { return c.leader() != nil })
		choke := choked.New(c.leader())
		l, err := choke.Limiter("k", choked.MustLimits("60/m", ""), nil)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.NoError(t, l.Wait(ctx, choked.Cost{Requests: 60}), "it is full by now")
		require.NoError(t, choke.Close())
	})
}

// Two that have different lists of seeds, each with itself first, meet when
// either is about to found a cluster. One may be in time to join the other. If
// not, neither takes the other for a member any longer.
func TestFoundersThatMeetWhenTheyFound(t *testing.T) {
	for range 5 { // who is first is not decided
		inBubble(t, func(t *testing.T, c *fleet) {
			var nodes []*Node
			for i := range 2 {
				cfg := c.config(1 + i)
				cfg.Join = []string{ip(1+i) + ":7946", ip(2-i) + ":7946"}
				nodes = append(nodes, c.start(cfg))
			}
			c.await("both are of a cluster", func() bool { return nodes[0].cluster() != "" && nodes[1].cluster() != "" })
			time.Sleep(10 * time.Second)
			for i, n := range nodes {
				if nodes[0].cluster() == nodes[1].cluster() {
					assert.Len(t, n.Members(), 2)
					assert.NoError(t, n.Health())
				} else {
					assert.Len(t, n.Members(), 1)
					assert.ErrorContains(t, n.Health(), "two clusters do not merge")
				}
				l, err := n.Lease(t.Context(), oneRequest("k", uint64(i)))
				assert.NoError(t, err)
				assert.True(t, l.OK)
			}
		})
	}
}
