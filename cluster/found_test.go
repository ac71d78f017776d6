package cluster

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
)

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
		take := func(n *Node, seq uint64) bool {
			l, err := n.Lease(t.Context(), bucket.Ask{
				Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: seq}, Limits: choked.MustLimits("60/h", ""),
				Need: choked.Cost{Requests: 60}, Want: choked.Cost{Requests: 60}, MaxWait: time.Second,
			})
			require.NoError(t, err)
			return l.OK
		}
		require.True(t, take(seed, 1))
		time.Sleep(10 * time.Second)
		c.crash(seed)
		time.Sleep(time.Second) // as long as a supervisor takes to start it again
		seed = c.start(c.config(1))
		time.Sleep(time.Minute)
		assert.Equal(t, c.nodes[ip(2)+":7946"].cluster(), seed.cluster())
		assert.False(t, take(seed, 2), "60 an hour, twice in a minute")
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
		time.Sleep(time.Minute)
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
			if nodes[i].gossip.said().Voter {
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
