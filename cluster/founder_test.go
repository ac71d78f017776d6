package cluster

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/cluster/internal/wire"
)

// within returns how long a condition takes to hold, and fails after most.
func (c *fleet) within(most time.Duration, what string, holds func() bool) {
	c.t.Helper()
	began := time.Now()
	for !holds() {
		require.Less(c.t, time.Since(began), most, "%s; the health of the nodes: %v", what, c.health())
		time.Sleep(10 * time.Millisecond)
	}
}

func (c *fleet) health() (all []error) {
	for _, n := range c.nodes {
		all = append(all, n.Health())
	}
	return all
}

// isOneCluster reports whether all nodes are of one cluster that has a leader.
func (c *fleet) isOneCluster(members int) bool {
	leader := c.leader()
	if leader == nil {
		return false
	}
	for _, n := range c.nodes {
		if n.cluster() != leader.cluster() || len(n.Members()) != members || n.Health() != nil {
			return false
		}
	}
	return true
}

// No node knows the address by which the entries of Join lead to it: they are names of
// this host, a second network, or one address in front of all nodes. Who founds the
// cluster is decided by the node that answers there.
func TestFounderIsTheNodeThatAnswersAtTheFirstSeed(t *testing.T) {
	tooSlowForRace(t)
	alias := func(i int) string { return fmt.Sprintf("10.9.0.%d", i) }
	for _, tt := range []struct {
		name  string
		nodes int
		join  func(c *fleet) []string
	}{
		{"one node, name of its loopback interface", 1, func(c *fleet) []string {
			c.net.Alias(ip(1), "127.0.0.1")
			c.net.Name("localhost", "127.0.0.1")
			return []string{"localhost:7946"}
		}},
		{"one node, name of its second address", 1, func(c *fleet) []string {
			c.net.Alias(ip(1), alias(1))
			c.net.Name("h1", alias(1))
			return []string{"h1:7946"}
		}},
		{"second network", 3, func(c *fleet) (join []string) {
			for i := 1; i <= 3; i++ {
				c.net.Alias(ip(i), alias(i))
				join = append(join, alias(i)+":7946")
			}
			return join
		}},
		{"one name for the addresses on a second network", 3, func(c *fleet) []string {
			for i := 1; i <= 3; i++ {
				c.net.Alias(ip(i), alias(4-i))
			}
			c.net.Name("workers", alias(1), alias(2), alias(3))
			return []string{"workers:7946"}
		}},
		{"an address translator in front of each node", 3, func(c *fleet) (join []string) {
			for i := 1; i <= 3; i++ {
				c.net.Virtual(alias(i), ip(4-i))
				join = append(join, alias(i)+":7946")
			}
			return join
		}},
		{"a load balancer in front of all nodes", 3, func(c *fleet) []string {
			c.net.Virtual("10.9.0.9", ip(1), ip(2), ip(3))
			return []string{"10.9.0.9:7946"}
		}},
		{"the first address of a name leads nowhere", 3, func(c *fleet) []string {
			c.net.Name("workers", "10.0.0.0", ip(1), ip(2), ip(3))
			return []string{"workers:7946"}
		}},
		{"two addresses for each name", 3, func(c *fleet) (join []string) {
			for i := 1; i <= 3; i++ {
				c.net.Name(fmt.Sprint("h", i), fmt.Sprintf("fd00::%d", i), ip(i))
				join = append(join, fmt.Sprintf("h%d:7946", i))
			}
			return join
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *fleet) {
				c.seeds = tt.join(c)
				for i := 1; i <= tt.nodes; i++ {
					c.start(c.config(i))
					time.Sleep(300 * time.Millisecond)
				}
				c.within(10*time.Second, "one cluster", func() bool { return c.isOneCluster(tt.nodes) })
				time.Sleep(20 * time.Second)
				assert.True(t, c.isOneCluster(tt.nodes), "it stays one: %v", c.health())
			})
		})
	}
}

// Nodes behind a load balancer that start one after the other, at random times, found
// no second cluster: a node that reaches itself alone there waits.
func TestNodesBehindOneAddressFoundOneCluster(t *testing.T) {
	for seed := range 10 {
		inBubble(t, func(t *testing.T, c *fleet) {
			var hosts []string
			for i := 1; i <= 4; i++ {
				hosts = append(hosts, ip(i))
			}
			c.net.Virtual("10.9.0.9", hosts...)
			c.seeds = []string{"10.9.0.9:7946"}
			for i := 1; i <= 4; i++ {
				c.start(c.config(i))
				time.Sleep(time.Duration(seed*137%1000) * time.Millisecond * time.Duration(i))
			}
			c.within(10*time.Second, "one cluster", func() bool { return c.isOneCluster(4) })
		})
	}
}

// Where no cluster can be founded, Health, one warning and the error of calls name the
// cause within 5 s.
func TestNodeWithoutAClusterNamesTheCause(t *testing.T) {
	for _, tt := range []struct {
		name  string
		nodes []int
		join  func(c *fleet) []string
		spoil func(cfg *Config)
		want  []string
	}{
		{
			name: "first host of the list down", nodes: []int{2, 3},
			join: func(*fleet) []string { return []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"} },
			want: []string{
				"no node of the cluster answers at the first of Join, 10.0.0.1:7946: connect: connection refused",
				"worker-2 at 10.0.0.2:7946", "worker-3 at 10.0.0.3:7946", "put a node that runs first in Join",
			},
		},
		{
			name: "first host of the list vanished", nodes: []int{2, 3},
			join: func(c *fleet) []string {
				c.net.Split([]string{ip(1)}, []string{ip(2), ip(3)})
				return []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
			},
			want: []string{"no node of the cluster answers at the first of Join, 10.0.0.1:7946: ", "deadline exceeded", "worker-2 at 10.0.0.2:7946"},
		},
		{
			name: "unknown name", nodes: []int{1},
			join: func(*fleet) []string { return []string{"nosuch.invalid:7946"} },
			want: []string{"the first of Join, nosuch.invalid:7946, has no address", "no such host"},
		},
		{
			name: "a majority down", nodes: []int{1},
			join: func(c *fleet) []string {
				c.net.Name("h2", ip(2))
				return []string{ip(1) + ":7946", "h2:7946", "h3:7946"}
			},
			want: []string{"only 1 of the nodes in Join answer", "h2:7946 (10.0.0.2:7946): connect: connection refused", "h3:7946 has no address"},
		},
		{
			name: "alone behind a load balancer", nodes: []int{1},
			join: func(c *fleet) []string {
				c.net.Virtual("10.9.0.9", ip(1))
				c.net.Name("workers", "10.9.0.9")
				return []string{"workers:7946"}
			},
			want: []string{"the first of Join, workers:7946, leads to this node by 10.9.0.9:7946, which is no address of this host", "set Expect to the number of nodes, or to 1 if there are no others"},
		},
		{
			name: "names that all lead to one node", nodes: []int{1},
			join: func(c *fleet) []string {
				c.net.Name("h1", ip(1))
				c.net.Name("h2", ip(1))
				return []string{"h1:7946", "h2:7946"}
			},
			want: []string{"all names in Join lead to this node: h1:7946 (10.0.0.1:7946), h2:7946 (10.0.0.1:7946)"},
		},
		{
			name: "fewer members than expected", nodes: []int{1, 2},
			join:  func(*fleet) []string { return []string{ip(1) + ":7946", ip(2) + ":7946"} },
			spoil: func(cfg *Config) { cfg.Expect = 3 },
			want:  []string{"2 of 3 members that Expect asks for are known: ", "worker-1 at 10.0.0.1:7946", "worker-2 at 10.0.0.2:7946"},
		},
		{
			name: "one address advertised by all", nodes: []int{1, 2},
			join:  func(*fleet) []string { return []string{ip(2) + ":7946", ip(1) + ":7946"} },
			spoil: func(cfg *Config) { cfg.Advertise = "172.17.0.1:7946" },
			want:  []string{" both advertise 172.17.0.1:7946: set Advertise"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *fleet) {
				c.seeds = tt.join(c)
				var nodes []*Node
				logs := make([]lockedBuffer, len(tt.nodes))
				for i, host := range tt.nodes {
					cfg := c.config(host)
					if tt.spoil != nil {
						tt.spoil(&cfg)
					}
					cfg.Logger = slog.New(slog.NewTextHandler(&logs[i], nil))
					n, err := Start(cfg)
					require.NoError(t, err)
					c.nodes[ip(host)] = n
					nodes = append(nodes, n)
				}
				began := time.Now()
				_, err := nodes[0].Lease(t.Context(), oneRequest("k", 1))
				assert.LessOrEqual(t, time.Since(began), 5*time.Second)
				require.ErrorIs(t, err, choked.ErrNoQuorum)
				require.ErrorIs(t, err, errNoCluster)
				require.ErrorIs(t, nodes[0].Health(), errNoCluster)
				for _, want := range tt.want {
					assert.ErrorContains(t, err, want)
					assert.ErrorContains(t, nodes[0].Health(), want)
					assert.Contains(t, logs[0].String(), want)
				}
				time.Sleep(30 * time.Second)
				assert.Equal(t, 1, strings.Count(logs[0].String(), "found no cluster"), "one warning: %s", logs[0].String())
				for _, n := range c.nodes {
					assert.Empty(t, n.cluster())
				}
			})
		})
	}
}

// With Expect, the others of a list found the cluster while its first host is down. The
// host joins them when it returns.
func TestExpectedMembersFoundWithoutTheFirstSeed(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		expect := func(i int) {
			cfg := c.config(i)
			cfg.Expect = 2
			c.start(cfg)
		}
		expect(2)
		time.Sleep(10 * time.Second)
		require.Nil(t, c.leader(), "one of two")
		expect(3)
		c.within(10*time.Second, "one cluster", func() bool { return c.isOneCluster(2) })
		expect(1)
		c.within(10*time.Second, "one cluster", func() bool { return c.isOneCluster(3) })
	})
}

// A name leads each node to itself alone at first. With Expect no cluster is founded
// before it leads to all of them.
func TestExpectedMembersFoundOneClusterBehindOneName(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{"workers:7946"}
		names := make(map[int]*ownNames)
		for i := 1; i <= 3; i++ {
			cfg := c.config(i)
			cfg.Expect = 3
			names[i] = &ownNames{Network: cfg.network, ips: []string{ip(i)}}
			cfg.network = names[i]
			c.start(cfg)
		}
		time.Sleep(6 * time.Second)
		require.Nil(t, c.leader())
		for _, n := range names {
			n.set(ip(1), ip(2), ip(3))
		}
		c.within(10*time.Second, "one cluster", func() bool { return c.isOneCluster(3) })
	})
}

// ownNames is a network on which every name has the same addresses.
type ownNames struct {
	wire.Network
	mu  sync.Mutex
	ips []string
}

func (n *ownNames) set(ips ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ips = ips
}

func (n *ownNames) LookupHost(context.Context, string) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.ips), nil
}

// rotating is a network on which streams to an address lead to one host after the other.
type rotating struct {
	wire.Network
	addr  string
	hosts []string
	next  *atomic.Int64
}

func (r rotating) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if addr == r.addr {
		addr = r.hosts[int(r.next.Add(1))%len(r.hosts)]
	}
	return r.Network.Dial(ctx, addr)
}

// A load balancer in front of all nodes takes turns. Nodes that probe in step would each
// reach themselves for ever.
func TestClusterBehindALoadBalancerThatTakesTurns(t *testing.T) {
	for first := range 3 {
		inBubble(t, func(t *testing.T, c *fleet) {
			c.seeds = []string{"10.9.0.9:7946"}
			var next atomic.Int64
			next.Store(int64(first))
			for i := 1; i <= 3; i++ {
				cfg := c.config(i)
				cfg.network = rotating{cfg.network, c.seeds[0], []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}, &next}
				c.start(cfg)
				time.Sleep(10 * time.Millisecond)
			}
			c.within(10*time.Second, "a cluster", func() bool { return c.isOneCluster(3) })
		})
	}
}
