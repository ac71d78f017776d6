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

// takeAll leases the whole burst of a key that is limited to 60 an hour, and reports
// whether it was granted.
func takeAll(t *testing.T, n *Node, seq uint64) bool {
	t.Helper()
	all := choked.Cost{Requests: 60}
	lease, err := n.Lease(t.Context(), bucket.Ask{
		Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: seq}, Limits: choked.MustLimits("requests 60/h"),
		Need: all, Want: all, MaxWait: time.Second,
	})
	require.NoError(t, err)
	return lease.OK
}

// The only seed crashes and restarts without its log, as it does without a Dir. The
// cluster still runs on the other nodes, which the seed cannot find by itself.
func TestRestartedSoleSeedFoundsNoSecondCluster(t *testing.T) {
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
		assert.False(t, takeAll(t, seed, 2), "60 an hour were granted twice within a minute")
	})
}

// The same for a seed that is not a voter, as after an earlier restart. The other
// nodes have not noticed that it has crashed and take it for a member.
func TestRestartedNonvotingSeedFoundsNoSecondCluster(t *testing.T) {
	for delay := range 5 {
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
			time.Sleep(time.Duration(delay) * 200 * time.Millisecond)
			seed = c.start(c.config(1))
			assert.False(t, takeAll(t, seed, 2), "60 an hour were granted twice within seconds")
			c.await("both belong to one cluster", func() bool { return seed.cluster() == c.leader().cluster() })
		})
	}
}

// The same for a seed that was the only voter: its successor got the log and the vote
// only just now.
func TestRestartedSeedJoinsItsSuccessor(t *testing.T) {
	for delay := range 5 { // seconds after the last probe of the successor
		inBubble(t, func(t *testing.T, c *fleet) {
			c.seeds = []string{ip(1) + ":7946"}
			seed := c.start(c.config(1))
			successor := c.start(c.config(2))
			require.True(t, takeAll(t, successor, 1))
			time.Sleep(time.Duration(10+delay) * time.Second)
			c.leave(seed)
			seed = c.start(c.config(1))
			require.False(t, takeAll(t, seed, 2))
			c.await("both belong to one cluster", func() bool { return seed.cluster() == successor.cluster() })
		})
	}
}

// Five nodes are seeds and leave, so that the cluster runs on another node. When three
// of the five restart together, they are a majority of the seeds. The hosts of the
// other two have vanished, which does not keep the running node from finding the
// three in time.
func TestRestartedSeedsFoundNoSecondCluster(t *testing.T) {
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
		for delay := range 5 { // about as many seconds after the first probe of the running node
			for _, i := range []int{1, 4, 5} {
				c.leave(seeds[i])
			}
			c.await("the other node leads", func() bool { return c.leader() == other && c.voters() == 1 })
			time.Sleep(time.Duration(delay) * 900 * time.Millisecond)
			for _, i := range []int{1, 4, 5} {
				seeds[i] = c.start(c.config(i))
			}
			for _, i := range []int{1, 4, 5} {
				require.False(t, takeAll(t, seeds[i], uint64(10*delay+i)), "60 an hour were granted minutes ago")
				c.await("both belong to one cluster", func() bool { return seeds[i].cluster() == other.cluster() })
			}
		}
	})
}

// An IPv6 address can be written in several ways.
func TestFounderIsRecognizedByAnySpellingOfItsAddress(t *testing.T) {
	for _, written := range []string{"[fd00::1]:7946", "[FD00::1]:7946", "[fd00:0:0:0::1]:07946"} {
		inBubble(t, func(t *testing.T, c *fleet) {
			for _, advertised := range []string{"", written} {
				cfg := c.config(1)
				cfg.Bind, cfg.Advertise, cfg.Join, cfg.network = "[fd00::1]:7946", advertised, []string{written}, c.net.Host("fd00::1")
				n := c.start(cfg)
				assert.Equal(t, "[fd00::1]:7946", n.Addr())
				c.await("a cluster is founded at "+written, func() bool { return n.queue.Load() != nil })
				c.leave(n)
			}
		})
	}
}

// Before a cluster is found, operations fail after Timeout, with the reason; no member
// is asked who leads.
func TestLeaseReportsThatThereIsNoCluster(t *testing.T) {
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
		require.NoError(t, err, "a cluster is founded within that time")
	})
}

// Of two nodes one is a voter. It crashes and another node without its log takes its
// place. The log may be on its disk still, so the other node waits for it and reports
// that there is no leader. For a voter in memory see
// TestTwoNodesInMemoryFormAgainAfterTheVoterIsLost.
func TestHealthReportsTheLossOfAllVoters(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946"}
		a := c.startIn(1, dir)
		b := c.start(c.config(2))
		c.await("a leader", func() bool { return c.leader() != nil && b.cluster() != "" })
		time.Sleep(time.Minute)
		require.Same(t, a, c.leader())
		require.NoError(t, b.Health())
		c.crash(a)
		time.Sleep(time.Second)
		again := c.start(c.config(1))
		time.Sleep(90 * time.Second) // until gossip has noticed the crash
		require.ErrorContains(t, b.Health(), "no leader for 1m")
		require.ErrorContains(t, again.Health(), "no cluster found yet")
		require.ErrorContains(t, again.Health(), "worker-2 at 10.0.0.2:7946 is of cluster")
	})
}

// When the log is lost, it suffices to restart the nodes that report bad health, one
// after the other, as a supervisor does.
func TestRestartsFoundALostClusterAnew(t *testing.T) {
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

// With an empty cold start, a cluster that has lost its state does not admit another
// burst.
func TestEmptyColdStartAdmitsNoSecondBurst(t *testing.T) {
	admitted := func(t *testing.T, coldStart ColdStart) int {
		n := 0
		inBubble(t, func(t *testing.T, c *fleet) {
			for range 2 {
				cfg := c.config(1) // its host is another each time
				cfg.ColdStart = coldStart
				node := c.start(cfg)
				c.await("a leader", func() bool { return c.leader() != nil })
				choke := choked.New(node)
				l, err := choke.Limiter("k", choked.MustLimits("requests 60/m"), nil)
				require.NoError(t, err)
				for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
					v, err := l.Allow(t.Context(), choked.Cost{Requests: 1})
					require.NoError(t, err)
					if v.OK {
						n++
					}
				}
				c.crash(node) // without a Dir, the state is lost
				assert.ErrorIs(t, choke.Close(), choked.ErrClosed)
			}
		})
		return n
	}
	assert.Greater(t, admitted(t, Full), 120, "two bursts")
	assert.InDelta(t, 20, admitted(t, Empty), 4, "twice 10 s of 60/m")
}

// The cold start is committed by the first leader of a cluster, and not again by the
// next one.
func TestColdStartIsCommittedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		for i := 1; i <= 3; i++ {
			cfg := c.config(i)
			cfg.ColdStart = Empty
			c.start(cfg)
		}
		c.await("three voters", func() bool { return c.voters() == 3 })
		time.Sleep(2 * time.Minute) // until 60/m has refilled
		c.crash(c.leader())
		c.await("another leader", func() bool { return c.leader() != nil })
		choke := choked.New(c.leader())
		l, err := choke.Limiter("k", choked.MustLimits("requests 60/m"), nil)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.NoError(t, l.Wait(ctx, choked.Cost{Requests: 60}), "the bucket is full again")
		require.NoError(t, choke.Close())
	})
}

// Two nodes, each the first in its own list of seeds, meet when both are about to
// found a cluster. One joins the other's in time, or gives its own up.
func TestFoundersThatMeetBecomeOneCluster(t *testing.T) {
	for range 5 { // either may be first
		inBubble(t, func(t *testing.T, c *fleet) {
			var nodes []*Node
			for i := range 2 {
				cfg := c.config(1 + i)
				cfg.Join = []string{ip(1+i) + ":7946", ip(2-i) + ":7946"}
				nodes = append(nodes, c.start(cfg))
			}
			c.await("both have a cluster", func() bool { return nodes[0].cluster() != "" && nodes[1].cluster() != "" })
			c.within(15*time.Second, "one cluster", func() bool {
				return nodes[0].cluster() == nodes[1].cluster() && nodes[0].cluster() != "" && c.leader() != nil
			})
			time.Sleep(10 * time.Second)
			for i, n := range nodes {
				assert.Len(t, n.Members(), 2)
				assert.NoError(t, n.checkHealth())
				l, err := n.Lease(t.Context(), oneRequest("k", uint64(i)))
				assert.NoError(t, err)
				assert.True(t, l.OK)
			}
		})
	}
}
