package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster/internal/memnet"
	"github.com/choked/choked/cluster/internal/wire"
)

// fleet is a set of workers on a network in memory, in a bubble.
type fleet struct {
	t     *testing.T
	net   *memnet.Net
	seeds []string
	nodes map[string]*Node // by IP address
	log   *slog.Logger
}

// inBubble runs f with an empty fleet in its own bubble, and closes the nodes that f
// leaves open.
func inBubble(t *testing.T, f func(t *testing.T, c *fleet)) {
	synctest.Test(t, func(t *testing.T) {
		level := slog.LevelError
		if os.Getenv("CHOKED_TEST_LOG") != "" {
			level = slog.LevelDebug
		}
		c := &fleet{
			t: t, net: memnet.New(1), nodes: make(map[string]*Node),
			log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})),
		}
		defer func() {
			for _, n := range c.nodes {
				assert.NoError(t, n.Close())
			}
			time.Sleep(time.Minute) // memberlist does not wait for its goroutines
		}()
		f(t, c)
	})
}

// tooSlowForRace skips the test under the race detector, where each TLS handshake takes
// 10 ms and the test a quarter of a minute or more. With CHOKED_LONG=1, as in .ci/more,
// the test runs there, too.
func tooSlowForRace(t *testing.T) {
	t.Helper()
	if raceDetector {
		long(t)
	}
}

// long skips a test that takes too long for each run of all tests. With CHOKED_LONG=1,
// as in .ci/more, it runs.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("CHOKED_LONG") != "1" {
		t.Skip("takes long: set CHOKED_LONG=1 to run it")
	}
}

// host returns the IP address of a worker.
func host(n *Node) string { return strings.TrimSuffix(n.port.Addr(), ":7946") }

// besides returns nodes without one.
func besides(one *Node, nodes []*Node) []*Node {
	return slices.DeleteFunc(slices.Clone(nodes), func(n *Node) bool { return n == one })
}

func ip(i int) string { return fmt.Sprintf("10.0.0.%d", i) }

// config returns the configuration of worker i, which joins by the fleet's seeds.
func (c *fleet) config(i int) Config {
	return Config{
		Name: fmt.Sprintf("worker-%d", i), Bind: ip(i) + ":7946", Join: c.seeds, Secret: "open sesame",
		Logger: c.log, network: c.net.Host(ip(i)), noSync: true,
	}
}

func (c *fleet) start(cfg Config) *Node {
	c.t.Helper()
	n, err := Start(cfg)
	require.NoError(c.t, err)
	c.nodes[n.port.Addr()] = n
	return n
}

// startIn starts worker i in a directory, or in memory if dir is empty.
func (c *fleet) startIn(i int, dir string) *Node {
	c.t.Helper()
	cfg := c.config(i)
	cfg.Dir = dir
	return c.start(cfg)
}

// startThree starts three workers, each of them a seed, and waits until all of
// them vote.
func (c *fleet) startThree() []*Node {
	c.t.Helper()
	return c.startThreeIn(make([]string, 3))
}

// startThreeIn is startThree in three directories.
func (c *fleet) startThreeIn(dirs []string) []*Node {
	c.t.Helper()
	c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
	var nodes []*Node
	for i, dir := range dirs {
		nodes = append(nodes, c.startIn(1+i, dir))
	}
	c.await("three voters", func() bool { return c.voters() == 3 })
	return nodes
}

// await waits until a condition holds, for at most a virtual minute.
func (c *fleet) await(what string, holds func() bool) {
	c.t.Helper()
	for range 6000 {
		if holds() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.Fail(c.t, "did not happen: "+what)
}

// leader returns the node that leads, or nil if there is none.
func (c *fleet) leader() *Node {
	for _, n := range c.nodes {
		if n.queue.Load() != nil {
			return n
		}
	}
	return nil
}

// voters returns the number of voters in the leader's configuration.
func (c *fleet) voters() int {
	n := c.leader()
	if n == nil {
		return 0
	}
	votes := 0
	for _, s := range n.raft.GetConfiguration().Configuration().Servers {
		if s.Suffrage == 0 {
			votes++
		}
	}
	return votes
}

// crash kills a worker: it does not leave the cluster.
func (c *fleet) crash(n *Node) {
	delete(c.nodes, n.port.Addr())
	c.net.Crash(host(n))
	n.cancel() // or Close would try to leave
	n.Close()
}

// leave closes a worker, which leaves the cluster.
func (c *fleet) leave(n *Node) {
	c.t.Helper()
	delete(c.nodes, n.port.Addr())
	require.NoError(c.t, n.Close())
}

// admissions collects the results of workers' calls, for checking.
type admissions struct {
	mu  sync.Mutex
	all []admission
}

type admission struct {
	at     time.Time
	worker string
	err    error
}

// spend starts callers of a worker on node, each of which spends single requests until
// ctx ends. The function returned waits for their end.
func (a *admissions) spend(ctx context.Context, t *testing.T, node *Node, limits choked.Limits, callers int) (stop func()) {
	c := choked.New(node)
	l, err := c.Limiter("openai", limits, nil)
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for ctx.Err() == nil {
				err := l.Wait(ctx, choked.Cost{Requests: 1})
				a.mu.Lock()
				a.all = append(a.all, admission{time.Now(), node.cfg.Name, err})
				a.mu.Unlock()
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	return func() {
		wg.Wait()
		c.Close()
	}
}

// since returns the number of admissions after an instant, by worker.
func (a *admissions) since(start time.Time) map[string]int {
	a.mu.Lock()
	defer a.mu.Unlock()
	by := make(map[string]int)
	for _, x := range a.all {
		if x.err == nil && x.at.After(start) {
			by[x.worker]++
		}
	}
	return by
}

// check asserts the bound over every window. It returns the number of admissions by
// worker, and the longest time without an admission.
func (a *admissions) check(t *testing.T, r choked.Rate) (by map[string]int, gap time.Duration) {
	t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	slices.SortFunc(a.all, func(x, y admission) int { return x.at.Compare(y.at) })
	by = make(map[string]int)
	var level float64
	var last time.Time
	for _, x := range a.all {
		if x.err != nil {
			continue
		}
		if !last.IsZero() {
			gap = max(gap, x.at.Sub(last))
			level = max(0, level-float64(x.at.Sub(last))*float64(r.N)/float64(r.Per))
		}
		level, last = level+1, x.at
		by[x.worker]++
		require.LessOrEqual(t, level, float64(r.Burst)+1e-6, "over the bound at %v", x.at)
	}
	return by, gap
}

func TestThreeWorkersShareOneLimit(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var adm admissions
		limits := choked.MustLimits("requests 50/s")
		var stops []func()
		for _, n := range nodes {
			stops = append(stops, adm.spend(ctx, t, n, limits, 8))
		}
		for _, stop := range stops {
			stop()
		}
		by, _ := adm.check(t, limits.Requests[0])
		all := by["worker-1"] + by["worker-2"] + by["worker-3"]
		assert.GreaterOrEqual(t, float64(all), 0.99*(50+20*50), "99% of the limit is used")
		for _, n := range by {
			assert.InDelta(t, all/3, n, float64(all)/50, "each worker has its share: %v", by)
		}
	})
}

func TestLeaderCrashes(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		var adm admissions
		limits := choked.MustLimits("requests 50/s")
		var stops []func()
		old := c.leader()
		for _, n := range nodes {
			if n != old {
				stops = append(stops, adm.spend(ctx, t, n, limits, 8))
			}
		}
		time.Sleep(5 * time.Second)
		c.crash(old)
		for _, stop := range stops {
			stop()
		}
		_, gap := adm.check(t, limits.Requests[0])
		assert.Less(t, gap, 3*time.Second, "time without an admission")
		assert.NotSame(t, old, c.leader(), "another node leads")
	})
}

func TestMinorityStopsAndHeals(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		old := c.leader()
		var rest []string
		for _, n := range nodes {
			if n != old {
				rest = append(rest, n.port.Addr()[:len(n.port.Addr())-5])
			}
		}
		limits := choked.MustLimits("requests 50/s")
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
		defer cancel()
		var adm admissions
		var stops []func()
		for _, n := range nodes {
			stops = append(stops, adm.spend(ctx, t, n, limits, 4))
		}
		time.Sleep(5 * time.Second)
		alone := []string{old.port.Addr()[:len(old.port.Addr())-5]}
		c.net.Split(alone, rest)
		time.Sleep(10 * time.Second)
		c.net.Join(alone, rest)
		for _, stop := range stops {
			stop()
		}
		by, _ := adm.check(t, limits.Requests[0])
		noQuorum := 0
		var last time.Time
		for _, a := range adm.all {
			if errors.Is(a.err, choked.ErrNoQuorum) {
				assert.Equal(t, old.cfg.Name, a.worker, "only the worker that is cut off fails")
				noQuorum++
			}
			if a.worker == old.cfg.Name && a.err == nil {
				last = a.at
			}
		}
		assert.Positive(t, noQuorum, "the worker that is cut off gets ErrNoQuorum")
		assert.Less(t, time.Since(last), 5*time.Second, "it is admitted again after the cut is healed: %v", by)
	})
}

func TestGrowsAndShrinksGracefully(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946"}
		first := c.start(c.config(1))
		ask := func(n *Node, seq uint64) {
			lease, err := n.Lease(t.Context(), bucket.Ask{
				Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: seq}, Limits: choked.MustLimits("requests 1000/s"),
				Need: choked.Cost{Requests: 1}, Want: choked.Cost{Requests: 1}, MaxWait: time.Second,
			})
			require.NoError(t, err)
			require.True(t, lease.OK)
		}
		ask(first, 1)
		c.await("one voter", func() bool { return c.voters() == 1 })
		for i := 2; i <= 6; i++ {
			n := c.start(c.config(i))
			ask(n, uint64(i))
		}
		c.await("three of six vote", func() bool { return c.voters() == 3 })
		for i := 1; i <= 5; i++ {
			addr := ip(i) + ":7946"
			n := c.nodes[addr]
			delete(c.nodes, addr)
			require.NoError(t, n.Close())
			ask(c.nodes[ip(6)+":7946"], uint64(10+i))
		}
		c.await("one voter again", func() bool { return c.voters() == 1 })
	})
}

// counted counts the streams that a host opens.
type counted struct {
	wire.Network
	dials *atomic.Int64
}

func (c counted) Dial(ctx context.Context, addr string) (net.Conn, error) {
	c.dials.Add(1)
	return c.Network.Dial(ctx, addr)
}

// startCounted starts n workers after the first three, and counts the streams that they
// open.
func (c *fleet) startCounted(n int) (nodes []*Node, dials *atomic.Int64) {
	c.t.Helper()
	dials = new(atomic.Int64)
	for i := range n {
		cfg := c.config(4 + i)
		cfg.network = counted{cfg.network, dials}
		n := c.start(cfg)
		c.await("a cluster", func() bool { return n.Health() == nil })
		nodes = append(nodes, n)
	}
	return nodes, dials
}

// Members that search for a leader open few streams: a hundred of them must not keep the
// voters from electing one.
func TestSearchesWithoutALeaderOpenFewStreams(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		voters := c.startThree()
		const clients = 9
		nodes, dials := c.startCounted(clients)
		c.crash(voters[0])
		c.crash(voters[1])
		c.await("no leader", func() bool { return c.leader() == nil })

		var searching sync.WaitGroup
		defer searching.Wait()
		search, stop := context.WithCancel(t.Context())
		defer stop()
		for _, n := range nodes {
			searching.Go(func() {
				for search.Err() == nil {
					_, err := n.router.leader(search, n.clock.Now()+int64(time.Second))
					assert.Error(t, err)
				}
			})
		}
		dials.Store(0)
		time.Sleep(10 * time.Second)
		assert.Less(t, dials.Load(), int64(10*clients*6), "six streams a second for each member, those of gossip included")
	})
}

// A leader that transfers leadership names its successor to its clients: each opens one
// stream, to the successor.
func TestClientsFollowALeadershipTransfer(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.startThree()
		const clients = 9
		nodes, dials := c.startCounted(clients)
		c.net.Faults(10*time.Millisecond, 0, 0)
		old := c.leader()
		for i, n := range nodes {
			_, err := n.Lease(t.Context(), oneRequest("k", uint64(i)))
			require.NoError(t, err)
		}
		dials.Store(0)
		var asking sync.WaitGroup
		ask, stop := context.WithCancel(t.Context())
		for i, n := range nodes {
			asking.Go(func() {
				for seq := uint64(100 * (i + 1)); ask.Err() == nil; seq++ {
					_, err := n.Lease(t.Context(), oneRequest("k", seq)) // most are refused: the limit is ten an hour
					assert.NotErrorIs(t, err, bucket.ErrNoQuorum)
					time.Sleep(time.Millisecond)
				}
			})
		}
		began := time.Now()
		c.leave(old)
		stop()
		asking.Wait()
		assert.Less(t, time.Since(began), time.Second)
		assert.LessOrEqual(t, dials.Load(), int64(clients+2), "one for each client, and those that gossip may open")
	})
}

func TestFrozenMemberDoesNotBlockASearch(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		client := c.start(c.config(4))
		old := c.leader()
		c.await("gossip knows the leader", func() bool {
			m, _ := client.gossip.member(old.id)
			return m.Leader
		})
		rest := []string{host(client)}
		for _, n := range besides(old, nodes) {
			rest = append(rest, host(n))
		}
		c.net.Split([]string{host(old)}, rest)
		c.await("another node leads", func() bool {
			return slices.ContainsFunc(nodes, func(n *Node) bool { return n != old && n.queue.Load() != nil })
		})
		m, _ := client.gossip.member(old.id)
		require.True(t, m.Leader, "gossip of the client still names the old leader")

		began := time.Now()
		found, err := client.router.find("")
		require.NoError(t, err)
		assert.NotEqual(t, old.port.Addr(), found.addr)
		assert.LessOrEqual(t, time.Since(began), 2*askNextAfter+10*time.Millisecond)
		found.conn.Close()
	})
}
