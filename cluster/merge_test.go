package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster/internal/wire"
)

func TestExactlyOneOfTwoClustersGivesWay(t *testing.T) {
	for _, tt := range []struct {
		a, b wire.Hello
		gone string
	}{
		{wire.Hello{Cluster: "a", Age: time.Hour}, wire.Hello{Cluster: "b", Age: time.Minute}, "b"},
		{wire.Hello{Cluster: "a", Age: time.Minute}, wire.Hello{Cluster: "b", Age: time.Hour}, "a"},
		{wire.Hello{Cluster: "a", Age: time.Minute}, wire.Hello{Cluster: "b", Age: time.Minute}, "b"},
		{wire.Hello{Cluster: "a", Age: time.Minute}, wire.Hello{Cluster: "b", Age: time.Minute + foundedAlike}, "b"},
		{wire.Hello{Cluster: "a", Age: time.Minute}, wire.Hello{Cluster: "b", Age: time.Minute + foundedAlike + 1}, "a"},
	} {
		assert.Equal(t, tt.gone == "a", givesWay(tt.a, tt.b), "%v", tt)
		assert.Equal(t, tt.gone == "b", givesWay(tt.b, tt.a), "%v", tt)
	}
}

// split starts nodes in two parts of a network, which found a cluster each: the second
// after a delay. It returns the nodes of both parts.
func (c *fleet) split(first, second []int, delay time.Duration, change func(i int, cfg *Config)) (a, b []*Node) {
	c.t.Helper()
	hosts := func(is []int) (all []string) {
		for _, i := range is {
			all = append(all, ip(i))
		}
		return all
	}
	c.net.Split(hosts(first), hosts(second))
	start := func(is []int) (nodes []*Node) {
		for _, i := range is {
			cfg := c.config(i)
			cfg.network = &ownNames{Network: cfg.network, ips: hosts(is)}
			if change != nil {
				change(i, &cfg)
			}
			nodes = append(nodes, c.start(cfg))
		}
		c.within(10*time.Second, "a cluster", func() bool {
			for _, n := range nodes {
				if n.Health() != nil || n.cluster() != nodes[0].cluster() || n.cluster() == "" {
					return false
				}
			}
			return true
		})
		return nodes
	}
	c.seeds = []string{"workers:7946"}
	a = start(first)
	time.Sleep(delay)
	b = start(second)
	require.NotEqual(c.t, a[0].cluster(), b[0].cluster())
	return a, b
}

// heal ends the split, and has the name of the seeds stand for all nodes.
func (c *fleet) heal(a, b []*Node) {
	var left, right, all []string
	for _, n := range a {
		left = append(left, host(n))
	}
	for _, n := range b {
		right = append(right, host(n))
	}
	all = append(append(all, left...), right...)
	for _, n := range append(append([]*Node{}, a...), b...) {
		n.cfg.network.(*ownNames).set(all...)
	}
	c.net.Join(left, right)
}

// Two clusters meet. The members of the younger one, all in memory, join the older one,
// and no more is admitted than by one cluster once they have met for 5 s.
func TestYoungerClusterJoinsTheOlderOne(t *testing.T) {
	tooSlowForRace(t)
	for _, tt := range []struct {
		name          string
		first, second []int
	}{
		{"three and three", []int{1, 2, 3}, []int{4, 5, 6}},
		{"one and three", []int{4}, []int{1, 2, 3}},
		{"three and one", []int{2, 3, 4}, []int{1}},
		{"five and five", []int{1, 2, 3, 4, 5}, []int{6, 7, 8, 9, 10}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *fleet) {
				var log lockedBuffer
				c.log = slog.New(slog.NewTextHandler(&log, nil))
				a, b := c.split(tt.first, tt.second, 30*time.Second, nil)
				older := a[0].cluster()
				c.heal(a, b)
				healed := time.Now()
				both := func() bool {
					return len(leaders(a)) > 0 && len(leaders(b)) > 0 && leaders(a)[0].cluster() != leaders(b)[0].cluster()
				}
				for both() {
					require.Less(t, time.Since(healed), 5*time.Second, "both decide")
					time.Sleep(10 * time.Millisecond)
				}
				c.within(15*time.Second, "one cluster", func() bool {
					for _, n := range append(append([]*Node{}, a...), b...) {
						if n.cluster() != older || len(n.Members()) != len(a)+len(b) || n.Health() != nil {
							return false
						}
					}
					return true
				})
				for i, n := range append(append([]*Node{}, a...), b...) {
					_, err := n.Lease(t.Context(), oneRequest("k", uint64(i)))
					assert.NoError(t, err)
				}
				time.Sleep(5 * time.Second)
				for _, n := range c.nodes {
					assert.NoError(t, n.Health())
				}
				assert.Equal(t, len(b), strings.Count(log.String(), `msg="left cluster"`), "each member of the younger one, once")
			})
		})
	}
}

func leaders(nodes []*Node) (leading []*Node) {
	for _, n := range nodes {
		if n.queue.Load() != nil {
			leading = append(leading, n)
		}
	}
	return leading
}

// Only one node of each cluster can reach one of the other, packets are lost, and some
// nodes have a Dir. CHOKED_SEEDS=200 CHOKED_FIRST=0 runs more of them.
func TestClustersThatMeetOnlyPartlyDoNotBothDecide(t *testing.T) {
	long(t)
	first := number(t, "CHOKED_FIRST", 0)
	for seed := first; seed < first+number(t, "CHOKED_SEEDS", 12); seed++ {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(uint64(seed), 9))
			dirs := make(map[int]string)
			for i := 1; i <= 8 && seed%2 == 1; i++ {
				if rnd.IntN(2) == 0 {
					dirs[i] = t.TempDir()
				}
			}
			inBubble(t, func(t *testing.T, c *fleet) {
				a, b := c.split([]int{1, 2, 3, 4}, []int{5, 6, 7, 8}, time.Duration(rnd.IntN(40))*time.Second, func(i int, cfg *Config) {
					cfg.Dir = dirs[i]
				})
				c.net.Faults(time.Millisecond, 0.05, 0.05)
				x, y := a[rnd.IntN(len(a))], b[rnd.IntN(len(b))]
				all := make([]string, 0, 8)
				for _, n := range append(append([]*Node{}, a...), b...) {
					all = append(all, host(n))
				}
				for _, n := range append(append([]*Node{}, a...), b...) {
					n.cfg.network.(*ownNames).set(all...)
				}
				c.net.Join([]string{host(x)}, []string{host(y)})
				healed := time.Now()
				for {
					ids := make(map[string]bool)
					for _, n := range append(leaders(a), leaders(b)...) {
						ids[n.cluster()] = true
					}
					if len(ids) < 2 {
						break
					}
					require.Less(t, time.Since(healed), 5*time.Second, "both decide")
					time.Sleep(10 * time.Millisecond)
				}
				end := time.Now().Add(time.Minute)
				for time.Now().Before(end) {
					ids := make(map[string]bool)
					for _, n := range append(leaders(a), leaders(b)...) {
						ids[n.cluster()] = true
					}
					require.LessOrEqual(t, len(ids), 1, "clusters that decide, %v after they met", time.Since(healed))
					time.Sleep(50 * time.Millisecond)
				}
			})
		})
	}
}

// Members of the younger cluster with a Dir stop deciding, and name the directory.
func TestYoungerClusterWithDirsStopsDeciding(t *testing.T) {
	tooSlowForRace(t)
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	inBubble(t, func(t *testing.T, c *fleet) {
		a, b := c.split([]int{1, 2, 3}, []int{4, 5, 6, 7}, 30*time.Second, func(i int, cfg *Config) {
			if i >= 4 && i <= 6 {
				cfg.Dir = dirs[i-4]
			}
		})
		older := a[0].cluster()
		c.heal(a, b)
		healed := time.Now()
		for len(leaders(b)) > 0 {
			require.Less(t, time.Since(healed), 5*time.Second, "both decide")
			time.Sleep(10 * time.Millisecond)
		}
		for i, n := range b[:3] {
			c.await("it says which directory to empty", func() bool { return n.yieldedErr() != nil })
			for _, want := range []string{"two clusters do not merge", fmt.Sprintf("%q", dirs[i]), "empty its directory"} {
				assert.ErrorContains(t, n.Health(), want)
				_, err := n.Lease(t.Context(), oneRequest("k", 1))
				assert.ErrorIs(t, err, bucket.ErrUnavailable)
				assert.ErrorContains(t, err, want)
			}
		}
		c.within(20*time.Second, "the member in memory joins", func() bool { return b[3].cluster() == older && b[3].checkHealth() == nil })
		_, err := b[3].Lease(t.Context(), oneRequest("k", 2))
		assert.NoError(t, err)
		time.Sleep(time.Minute)
		assert.Empty(t, leaders(b[:3]))
		for _, n := range b[:3] {
			assert.Zero(t, n.Quorum(), "its voters are no voters any more")
		}
		for _, n := range a {
			assert.NoError(t, n.Health(), "the older cluster is well")
			_, err := n.Lease(t.Context(), oneRequest("k", 3))
			assert.NoError(t, err)
		}
	})
}

// One name leads each node to itself alone for some seconds. Each founds a cluster, and
// they become one as soon as they can.
func TestNameThatLeadsToItselfAtFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{"workers:7946"}
		var nodes []*Node
		var names []*ownNames
		for i := 1; i <= 3; i++ {
			cfg := c.config(i)
			own := &ownNames{Network: cfg.network, ips: []string{ip(i)}}
			cfg.network = own
			names, nodes = append(names, own), append(nodes, c.start(cfg))
		}
		time.Sleep(6 * time.Second)
		require.Len(t, leaders(nodes), 3, "three clusters")
		for _, n := range names {
			n.set(ip(1), ip(2), ip(3))
		}
		began := time.Now()
		for len(leaders(nodes)) > 1 {
			require.Less(t, time.Since(began), 5*time.Second)
			time.Sleep(10 * time.Millisecond)
		}
		c.within(15*time.Second, "one cluster", func() bool {
			for _, n := range nodes {
				if n.cluster() != nodes[0].cluster() || n.cluster() == "" || len(n.Members()) != 3 || n.Health() != nil {
					return false
				}
			}
			return true
		})
	})
}

// Of two nodes in memory one votes. It is killed and returns without its log: the other
// one gives up the cluster, and both form another one.
func TestTwoNodesInMemoryFormAgainAfterTheVoterIsLost(t *testing.T) {
	for voter := 1; voter <= 2; voter++ {
		for _, pause := range []time.Duration{0, time.Second, 20 * time.Second} {
			inBubble(t, func(t *testing.T, c *fleet) {
				c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946"}
				nodes := map[int]*Node{1: c.start(c.config(1)), 2: c.start(c.config(2))}
				c.await("a cluster", func() bool { return c.isOneCluster(2) })
				if voter == 2 { // the leader is the founder, until it leaves
					c.leave(nodes[1])
					nodes[1] = c.start(c.config(1))
					c.await("a cluster", func() bool { return c.isOneCluster(2) })
				}
				require.Same(t, nodes[voter], c.leader())
				time.Sleep(10 * time.Second)
				lost := nodes[1].cluster()
				c.crash(nodes[voter])
				time.Sleep(pause)
				nodes[voter] = c.start(c.config(voter))
				c.within(10*time.Second, "one cluster", func() bool { return c.isOneCluster(2) })
				assert.NotEqual(t, lost, nodes[1].cluster())
				for i, n := range nodes {
					_, err := n.Lease(t.Context(), oneRequest("k", uint64(i)))
					assert.NoError(t, err)
				}
			})
		}
	}
}

// The founder has died before the other node had its log, and before it told that it
// votes: the other one knows nothing of the cluster but its id.
func TestNodeThatKnowsOnlyTheIDOfItsClusterGivesItUp(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946"}
		other := c.start(c.config(2))
		require.NoError(t, other.joined.adopt("0123456789abcdef"))
		c.start(c.config(1))
		c.within(12*time.Second, "one cluster", func() bool { return c.isOneCluster(2) })
	})
}

// The survivor does not give up as long as the voter may return with its log.
func TestSurvivorWaitsForVotersThatMayReturn(t *testing.T) {
	for name, lose := range map[string]func(c *fleet, voter *Node, dir string){
		"silent": func(c *fleet, voter *Node, _ string) {
			c.net.Split([]string{host(voter)}, []string{ip(2)})
		},
		"with a Dir, another node at its address": func(c *fleet, voter *Node, _ string) {
			c.crash(voter)
			c.start(c.config(1))
		},
		"crashed": func(c *fleet, voter *Node, _ string) { c.crash(voter) },
	} {
		dir := t.TempDir()
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *fleet) {
				c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946"}
				keeps := name == "with a Dir, another node at its address"
				if !keeps {
					dir = ""
				}
				voter, survivor := c.startIn(1, dir), c.start(c.config(2))
				c.await("a cluster", func() bool { return c.isOneCluster(2) })
				time.Sleep(10 * time.Second)
				own := survivor.cluster()
				lose(c, voter, dir)
				time.Sleep(time.Minute)
				assert.Equal(t, own, survivor.cluster())
				assert.ErrorContains(t, survivor.Health(), "no leader for")
			})
		})
	}
}

// The empty cold start holds for the cluster that is founded after the loss.
func TestClusterAfterALossFollowsColdStart(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946"}
		start := func(i int) *Node {
			cfg := c.config(i)
			cfg.ColdStart = Empty
			return c.start(cfg)
		}
		voter, survivor := start(1), start(2)
		c.await("a cluster", func() bool { return c.isOneCluster(2) })
		time.Sleep(10 * time.Second)
		c.crash(voter)
		start(1)
		c.within(10*time.Second, "one cluster", func() bool { return c.isOneCluster(2) })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		lease, err := survivor.Lease(ctx, bucket.Ask{
			Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: 1}, Limits: choked.MustLimits("requests 60/h"),
			Need: choked.Cost{Requests: 60}, Want: choked.Cost{Requests: 60},
		})
		require.NoError(t, err)
		assert.False(t, lease.OK, "buckets are empty")
	})
}
