package redisstore_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/testkit/redisserver"
	"github.com/choked/choked/redisstore"
)

// slow is a limit under which no unit refills during a test.
var slow = choked.MustLimits("requests 10/h")

var holders atomic.Uint64

func ask(key string, limits choked.Limits, need int64, wait time.Duration) choked.Ask {
	n := bucket.Cost{Requests: need}
	return choked.Ask{Key: key, ID: bucket.LeaseID{Holder: holders.Add(1), Seq: 1}, Limits: limits, Defined: 1, Need: n, Want: n, MaxWait: wait}
}

func lease(t *testing.T, s choked.Store, a choked.Ask) choked.Lease {
	t.Helper()
	l, err := s.Lease(t.Context(), a)
	require.NoError(t, err)
	return l
}

// ownServer returns a server that the test does not share.
func ownServer(t *testing.T, options ...string) (*redisserver.Server, *redis.Client) {
	t.Helper()
	s, err := redisserver.Start(options...)
	installed(t, err)
	client := redis.NewClient(&redis.Options{Addr: s.Addr})
	t.Cleanup(func() {
		client.Close()
		s.Stop()
	})
	return s, client
}

// ownCluster returns three servers, each with a third of the slots, in order.
func ownCluster(t *testing.T, o *redis.ClusterOptions, options ...string) (servers []*redisserver.Server, client *redis.ClusterClient) {
	t.Helper()
	ctx := t.Context()
	for i := range 3 {
		server, node := ownServer(t, append(options, "--cluster-enabled", "yes")...)
		require.NoError(t, node.ClusterAddSlotsRange(ctx, i*16384/3, (i+1)*16384/3-1).Err())
		if i > 0 {
			host, port, _ := net.SplitHostPort(o.Addrs[0])
			require.NoError(t, node.ClusterMeet(ctx, host, port).Err())
		}
		servers, o.Addrs = append(servers, server), append(o.Addrs, server.Addr)
	}
	client = redis.NewClusterClient(o)
	t.Cleanup(func() { client.Close() })
	require.Eventually(t, func() bool {
		info, err := client.ClusterInfo(ctx).Result()
		return err == nil && strings.Contains(info, "cluster_state:ok") && strings.Contains(info, "cluster_known_nodes:3")
	}, 20*time.Second, 10*time.Millisecond)
	return servers, client
}

func openOn(t *testing.T, url string, timeout time.Duration) *redisstore.Store {
	t.Helper()
	s, err := redisstore.Open(url, redisstore.Config{Timeout: timeout})
	require.NoError(t, err)
	t.Cleanup(func() { s.Close() })
	return s
}

func TestFlushedScriptIsLoadedAgain(t *testing.T) {
	server, client := ownServer(t)
	s := openOn(t, server.URL(), 0)
	require.True(t, lease(t, s, ask("k", slow, 4, 0)).OK)
	require.NoError(t, client.ScriptFlush(t.Context()).Err())
	assert.True(t, lease(t, s, ask("k", slow, 6, 0)).OK)
	assert.False(t, lease(t, s, ask("k", slow, 1, 0)).OK)
}

func TestPermanentErrorFailsAtOnce(t *testing.T) {
	server, client := ownServer(t)
	s := openOn(t, server.URL(), time.Minute)
	require.NoError(t, client.LPush(t.Context(), "choked:taken", "x").Err())
	_, err := s.Lease(t.Context(), ask("taken", slow, 1, time.Hour))
	assert.ErrorContains(t, err, "WRONGTYPE")
	assert.ErrorContains(t, s.Settle(t.Context(), []choked.Settlement{{Key: "taken"}}), "WRONGTYPE")

	require.NoError(t, client.HSet(t.Context(), "choked:newer", "b", "3 what a later release has written", "l", "").Err())
	_, err = s.Lease(t.Context(), ask("newer", slow, 1, time.Hour))
	assert.ErrorContains(t, err, `"choked:newer" has format 3, and this release reads 2: delete it`)

	assert.NotErrorIs(t, err, bucket.ErrUnavailable, "a retry does not change it")

	wrong := openOn(t, strings.Replace(server.URL(), "redis://", "redis://user:hunter2@", 1), time.Minute)
	_, err = wrong.Lease(t.Context(), ask("k", slow, 1, time.Hour))
	require.ErrorContains(t, err, "WRONGPASS")
	assert.NotContains(t, err.Error(), "hunter2")
}

// A full server refuses grants at once. Nothing is spent, and settlements go on.
func TestFullServerIsUnavailableAtOnce(t *testing.T) {
	server, client := ownServer(t)
	s := openOn(t, server.URL(), time.Minute)
	a := ask("leased", slow, 10, 0)
	require.True(t, lease(t, s, a).OK)
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory", "1").Err())
	begun := time.Now()
	_, err := s.Lease(t.Context(), ask("k", slow, 1, time.Hour))
	require.ErrorIs(t, err, bucket.ErrUnavailable)
	assert.ErrorContains(t, err, "store unavailable: redis: OOM command not allowed")
	assert.Less(t, time.Since(begun), 30*time.Second)
	require.NoError(t, s.Settle(t.Context(), []choked.Settlement{{Key: "leased", ID: a.ID, Spent: bucket.Cost{Requests: 3}}}))
	require.NoError(t, client.ConfigSet(t.Context(), "maxmemory", "0").Err())
	assert.True(t, lease(t, s, ask("k", slow, 10, 0)).OK, "the refused ask spent nothing")
	assert.True(t, lease(t, s, ask("leased", slow, 7, 0)).OK, "it was settled")
}

func TestBadURLIsShownWithoutItsPassword(t *testing.T) {
	for _, url := range []string{"", "http://user:hunter2@host", "redis://user:hunter2@host:port/0", "redis://user:hunter2@host/zero"} {
		_, err := redisstore.Open(url, redisstore.Config{})
		require.ErrorContains(t, err, `want "redis://user:password@host:6379/0"`, url)
		assert.NotContains(t, err.Error(), "hunter2")
	}
	_, err := redisstore.Open("localhost:6379", redisstore.Config{})
	assert.EqualError(t, err, `redisstore: URL "localhost:6379": want "redis://user:password@host:6379/0"`)
	_, err = redisstore.Open("redis://user:hunter2@host/zero", redisstore.Config{})
	assert.EqualError(t, err, `redisstore: URL "redis://***@host/zero": want "redis://user:password@host:6379/0"`)
}

func TestBadOptionOfTheURLIsNamed(t *testing.T) {
	for query, name := range map[string]string{"nonsense=1": "nonsense", "pool_size=many": "pool_size", "read_timeout=1s&db=x": "db"} {
		_, err := redisstore.Open("redis://user:hunter2@host/0?"+query, redisstore.Config{})
		require.ErrorContains(t, err, fmt.Sprintf(`redisstore: URL "redis://***@host/0?***": option %q: want one`, name))
	}
	_, err := redisstore.Open("redis://user:hun?ter2@host/0", redisstore.Config{})
	require.Error(t, err)
	assert.NotContains(t, err.Error(), "ter2")
}

// Options of the client library in the URL take precedence over the timeouts that
// Timeout implies.
func TestOptionsOfTheURLTakePrecedence(t *testing.T) {
	server, _ := ownServer(t)
	s := openOn(t, server.URL()+"?read_timeout=50ms", 2*time.Second)
	require.True(t, lease(t, s, ask("k", slow, 1, 0)).OK)
	thaw := freeze(t, server)
	defer thaw()
	_, err := s.Lease(t.Context(), ask("k", slow, 1, 0))
	assert.ErrorContains(t, err, "store unavailable: redis: no answer within 2s: ")
	assert.ErrorContains(t, err, "i/o timeout")
}

func TestNewWithoutAClient(t *testing.T) {
	s := redisstore.New(nil, redisstore.Config{})
	_, err := s.Lease(t.Context(), ask("k", slow, 1, 0))
	assert.ErrorContains(t, err, "redisstore: the client given to New is nil")
	assert.NoError(t, s.Close())
}

func TestWindowOfNanosecondsIsRefused(t *testing.T) {
	s := openOn(t, "redis://127.0.0.1:1", 0)
	odd := choked.Limits{Requests: bucket.Rates{{N: 1, Per: time.Second + 1, Burst: 1}}}
	_, err := s.Lease(t.Context(), ask("k", odd, 1, 0))
	assert.ErrorContains(t, err, "want a window of whole microseconds")
	assert.ErrorContains(t, s.Adjust(t.Context(), choked.Adjustment{Key: "k", Limits: odd}), "want a window of whole microseconds")
}

// A call retries until its replica has become the master.
func TestReadOnlyReplicaIsRetried(t *testing.T) {
	server, client := ownServer(t)
	s := openOn(t, server.URL(), 20*time.Second)
	require.NoError(t, client.ReplicaOf(t.Context(), "127.0.0.1", "1").Err())
	hasty := openOn(t, server.URL(), time.Second)
	_, err := hasty.Lease(t.Context(), ask("k", slow, 1, time.Hour))
	require.ErrorIs(t, err, bucket.ErrUnavailable)
	require.ErrorContains(t, err, "store unavailable: redis: no answer within 1s: READONLY")

	granted := make(chan choked.Lease)
	go func() { granted <- lease(t, s, ask("k", slow, 10, 0)) }()
	require.NoError(t, client.ReplicaOf(t.Context(), "NO", "ONE").Err())
	assert.True(t, (<-granted).OK)
}

func TestPassingErrorsAreRetried(t *testing.T) {
	mini := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: mini.Addr(), MaxRetries: -1})
	defer client.Close()
	var trips atomic.Int64
	client.AddHook(tripCounter{&trips})
	s := redisstore.New(client, redisstore.Config{Timeout: time.Minute})
	defer s.Close()
	require.True(t, lease(t, s, ask("warm", slow, 1, 0)).OK)
	for _, e := range []string{
		"LOADING Redis is loading the dataset in memory",
		"READONLY You can't write against a read only replica.",
		"MASTERDOWN Link with MASTER is down",
		"NOREPLICAS Not enough good replicas to write.",
		"BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
		"ERR max number of clients reached",
		"ERR Error running script (call to f_12ab): @user_script:7: @user_script: 7: -NOREPLICAS Not enough good replicas to write.",
		"CLUSTERDOWN The cluster is down",
		"TRYAGAIN Multiple keys request during rehashing of slot",
		"MOVED 3999 127.0.0.1:6381",
		"ASK 3999 127.0.0.1:6381",
	} {
		mini.SetError(e)
		before := trips.Load()
		answer := make(chan error, 1)
		go func() {
			_, err := s.Lease(t.Context(), ask(e, slow, 10, 0))
			answer <- err
		}()
		require.Eventually(t, func() bool { return trips.Load() > before+1 }, 20*time.Second, time.Millisecond, "a retry after %q", e)
		mini.SetError("")
		require.NoError(t, <-answer, e)
	}
	mini.SetError("NOPERM No permissions to run the command")
	_, err := s.Lease(t.Context(), ask("k", slow, 1, 0))
	require.ErrorContains(t, err, "NOPERM")
	require.NotErrorIs(t, err, bucket.ErrUnavailable, "it fails at once")
}

func TestServerThatIsAwayIsABoundedWait(t *testing.T) {
	server, _ := ownServer(t)
	s, patient := openOn(t, server.URL(), 100*time.Millisecond), openOn(t, server.URL(), time.Minute)
	require.True(t, lease(t, patient, ask("k", slow, 1, 0)).OK)
	for name, fault := range map[string]func() (end func()){
		"killed": func() func() {
			server.Kill()
			return func() { require.NoError(t, server.Restart()) }
		},
		"frozen": func() func() { return freeze(t, server) },
	} {
		end := fault()
		_, err := s.Lease(t.Context(), ask(name, slow, 1, time.Hour))
		require.ErrorIs(t, err, bucket.ErrUnavailable, name)
		require.ErrorContains(t, err, "store unavailable: redis: no answer within 100ms", name)
		require.NotErrorIs(t, err, context.DeadlineExceeded, "that is the caller's")
		if name == "killed" {
			require.ErrorIs(t, err, syscall.ECONNREFUSED)
			require.ErrorContains(t, err, ": dial tcp "+server.Addr+": connect: connection refused")
		}
		err = s.Adjust(t.Context(), choked.Adjustment{Key: name, Limits: slow})
		require.ErrorContains(t, err, "no answer within 100ms", name)
		require.ErrorIs(t, err, bucket.ErrUnavailable, name)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err = patient.Lease(ctx, ask(name, slow, 1, time.Hour))
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded, name)

		granted := make(chan choked.Lease)
		a := ask(name, slow, 7, 0)
		go func() { granted <- lease(t, patient, a) }()
		end()
		require.True(t, (<-granted).OK, "%s: a retry succeeds", name)
	}
}

// An ask that was given up may still reach Redis.
func TestAskThatWasGivenUpIsWithdrawn(t *testing.T) {
	server, _ := ownServer(t)
	s := openOn(t, server.URL(), time.Minute)
	require.True(t, lease(t, s, ask("warm", slow, 1, 0)).OK)
	thaw := freeze(t, server)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.Lease(ctx, ask("k", slow, 10, 0))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	thaw()
	require.Eventually(t, func() bool { return lease(t, s, ask("k", slow, 10, 0)).OK }, 20*time.Second, time.Millisecond)
}

func TestWaiterThatEndsLeavesTheQueue(t *testing.T) {
	url := realServer(t)
	opt, err := redis.ParseURL(url)
	require.NoError(t, err)
	client := redis.NewClient(opt)
	defer client.Close()
	limits := choked.MustLimits("requests 1/s burst 10")
	for _, end := range []string{"by its context", "by Close"} {
		s := openOn(t, url, 0)
		key := fmt.Sprint("leave", holders.Add(1), time.Now().UnixNano())
		require.NoError(t, s.Adjust(t.Context(), choked.Adjustment{Key: key, Limits: limits, Defined: 1, Charge: bucket.Cost{Requests: 20}}))
		queued := func() bool { return client.HExists(t.Context(), "choked:"+key, "q").Val() }
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := s.Lease(ctx, ask(key, limits, 1, time.Minute))
			left <- err
		}()
		require.Eventually(t, queued, 20*time.Second, time.Millisecond)
		if end == "by Close" {
			require.NoError(t, s.Close())
			require.False(t, queued(), "Close waits until it has left")
		}
		cancel()
		require.Error(t, <-left)
		require.Eventually(t, func() bool { return !queued() }, 20*time.Second, time.Millisecond, end)
	}
}

// A lease that is granted after a long outage is valid long enough to be spent.
func TestLeaseIsValidFromTheAnsweredAttempt(t *testing.T) {
	const outage = 3 * time.Second // longer than any lease is valid
	server, _ := ownServer(t)
	clock := boottime.New()
	s := openOn(t, server.URL(), time.Minute)
	require.True(t, lease(t, s, ask("warm", slow, 1, 0)).OK)
	server.Kill()
	begun := clock.Now()
	granted := make(chan choked.Lease)
	go func() { granted <- lease(t, s, ask("k", slow, 10, 0)) }()
	time.Sleep(outage) // not a wait for an event: the outage itself
	require.NoError(t, server.Restart())
	l := <-granted
	require.True(t, l.OK)
	assert.Greater(t, l.ValidFor, outage, "granted after %v", clock.Since(begun))
}

// Close waits for calls under way to a server that does not answer.
func TestCloseLeavesNoGoroutines(t *testing.T) {
	server, client := ownServer(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	given := redis.NewClient(&redis.Options{Addr: client.Options().Addr, ReadTimeout: 500 * time.Millisecond})
	defer given.Close()
	for name, s := range map[string]*redisstore.Store{
		"given":  redisstore.New(given, redisstore.Config{}),
		"opened": openOn(t, server.URL(), time.Minute),
	} {
		require.True(t, lease(t, s, ask(name, slow, 1, 0)).OK)
		thaw := freeze(t, server)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := s.Lease(ctx, ask(name, slow, 1, 0))
		cancel()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		begun := time.Now()
		require.NoError(t, s.Close(), name)
		assert.Less(t, time.Since(begun), 30*time.Second, name)
		assert.NotContains(t, stacks(), "redisstore.(*pipelines)", name)
		thaw()
	}
}

func stacks() string {
	buf := make([]byte, 1<<20)
	return string(buf[:runtime.Stack(buf, true)])
}

// The keys of one server of a cluster do not wait for the keys of another.
func TestFrozenShardDelaysItsOwnKeysOnly(t *testing.T) {
	servers, client := ownCluster(t, &redis.ClusterOptions{ReadTimeout: time.Minute, MaxRetries: -1}, "--cluster-node-timeout", "60000")
	var trips atomic.Int64
	client.AddHook(tripCounter{&trips})
	s := redisstore.New(client, redisstore.Config{Timeout: 20 * time.Second})
	defer s.Close()
	var frozen, others []string
	for i := 0; len(frozen) < 8 || len(others) < 8; i++ {
		key := fmt.Sprint("k", i)
		slot, err := client.ClusterKeySlot(t.Context(), "choked:"+key).Result()
		require.NoError(t, err)
		if slot < 16384/3 {
			frozen = append(frozen, key)
		} else {
			others = append(others, key)
		}
		require.True(t, lease(t, s, ask(key, slow, 1, 0)).OK)
	}
	thaw := freeze(t, servers[0])
	trips.Store(0)
	var answered atomic.Int64
	var wg sync.WaitGroup
	for _, key := range frozen {
		wg.Go(func() {
			lease(t, s, ask(key, slow, 1, 0))
			answered.Add(1)
		})
	}
	require.Eventually(t, func() bool { return trips.Load() == 4 }, 20*time.Second, time.Millisecond, "as many pipelines as are allowed")
	for _, key := range others {
		assert.True(t, lease(t, s, ask(key, slow, 1, 0)).OK)
	}
	assert.Zero(t, answered.Load())
	thaw()
	wg.Wait()
}

// A worker spends its leases while Redis is away.
func TestWorkerSpendsItsLeasesWhileRedisIsAway(t *testing.T) {
	server, _ := ownServer(t)
	choke := choked.New(openOn(t, server.URL(), 3*time.Second))
	defer choke.Close()
	limiter, err := choke.Limiter("k", choked.MustLimits("requests 600/m"), nil)
	require.NoError(t, err)
	require.NoError(t, limiter.Wait(t.Context(), choked.Cost{Requests: 500}))
	for limiter.Stats().Leased.Requests == 0 { // asked for ahead of demand
		require.NoError(t, limiter.Wait(t.Context(), choked.Cost{Requests: 1}))
	}
	left := limiter.Stats().Leased.Requests
	server.Kill()
	for range left {
		require.NoError(t, limiter.Wait(t.Context(), choked.Cost{Requests: 1}), "%d are leased", left)
	}
	var last error
	for last == nil {
		last = limiter.Wait(t.Context(), choked.Cost{Requests: 1})
	}
	assert.ErrorIs(t, last, bucket.ErrUnavailable)
	assert.ErrorContains(t, last, "redis: ")
}

// With an append-only file, a server that is killed keeps its buckets.
func TestAppendOnlyFileSurvivesAKill(t *testing.T) {
	server, _ := ownServer(t, "--appendonly", "yes", "--appendfsync", "always")
	s := openOn(t, server.URL(), 20*time.Second)
	a := ask("k", slow, 10, 0)
	require.True(t, lease(t, s, a).OK)
	require.NoError(t, s.Settle(t.Context(), []choked.Settlement{{Key: "k", ID: a.ID, Spent: bucket.Cost{Requests: 9}}}))
	server.Kill()
	require.NoError(t, server.Restart())
	assert.False(t, lease(t, s, ask("k", slow, 2, 0)).OK, "no fresh burst")
	assert.True(t, lease(t, s, ask("k", slow, 1, 0)).OK)
}

// A waiter whose process is killed delays the others only until its queue entry
// lapses.
func TestVanishedWaiterIsSkipped(t *testing.T) {
	url := realServer(t)
	key := fmt.Sprint("vanish", holders.Add(1), time.Now().UnixNano())
	limits := choked.MustLimits("requests 20/s")
	opt, err := redis.ParseURL(url)
	require.NoError(t, err)
	client := redis.NewClient(opt)
	gone, s := redisstore.New(client, redisstore.Config{}), openOn(t, url, 0)
	full := ask(key, limits, 20, 0)
	require.True(t, lease(t, s, full).OK)
	require.NoError(t, s.Settle(t.Context(), []choked.Settlement{{Key: key, ID: full.ID, Spent: full.Need}}))

	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := gone.Lease(ctx, ask(key, limits, 10, time.Minute))
		first <- err
	}()
	require.Eventually(t, func() bool { // it is in the queue
		return client.HExists(t.Context(), "choked:"+key, "q").Val()
	}, 5*time.Second, time.Millisecond)
	require.NoError(t, client.Close())
	cancel()
	require.Error(t, <-first)
	begun := time.Now()
	assert.True(t, lease(t, s, ask(key, limits, 10, time.Minute)).OK)
	assert.Less(t, time.Since(begun), 5*time.Second)
}

// The key of a bucket expires soon after its debt has been refilled.
func TestKeyExpiresAfterItsDebt(t *testing.T) {
	mini := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	defer client.Close()
	s := redisstore.New(client, redisstore.Config{Prefix: "mine:"})
	defer s.Close()
	require.NoError(t, s.Adjust(t.Context(), choked.Adjustment{Key: "k", Limits: slow, Charge: bucket.Cost{Requests: 100}}))
	left := client.PTTL(t.Context(), "mine:k").Val()
	assert.Greater(t, left, 10*time.Hour)
	assert.Less(t, left, 10*time.Hour+2*time.Minute)
	require.NoError(t, s.Settle(t.Context(), []choked.Settlement{{Key: "unknown"}}))
	assert.Equal(t, []string{"mine:k"}, mini.Keys(), "a settlement of an unknown key creates no key")
}

// A server's clock that steps back by an hour neither refills a bucket nor stops its
// refill for an hour.
func TestClockThatStepsBack(t *testing.T) {
	mini := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	defer client.Close()
	s := redisstore.New(client, redisstore.Config{})
	defer s.Close()
	now := time.Unix(1_800_000_000, 0)
	limits := choked.MustLimits("requests 10/m")
	mini.SetTime(now)
	spend := func(n int64) bool {
		a := ask("k", limits, n, 0)
		if !lease(t, s, a).OK {
			return false
		}
		require.NoError(t, s.Settle(t.Context(), []choked.Settlement{{Key: "k", ID: a.ID, Spent: a.Need}}))
		return true
	}
	require.True(t, spend(10))
	for _, step := range []time.Duration{-time.Hour, -time.Second} {
		now = now.Add(step)
		mini.SetTime(now)
		require.False(t, spend(1))
		now = now.Add(7 * time.Second) // a unit takes 6 s, 1 s of which may be promised
		mini.SetTime(now)
		require.True(t, spend(1), "after a step by %v", step)
		require.False(t, spend(1))
	}
}

// Calls that are made at the same time share pipelines.
func TestConcurrentCallsShareAPipeline(t *testing.T) {
	mini := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: mini.Addr(), ReadTimeout: time.Minute})
	defer client.Close()
	var trips atomic.Int64
	client.AddHook(tripCounter{&trips})
	s := redisstore.New(client, redisstore.Config{Timeout: time.Minute}) // 400 interpreted scripts, on a machine that may be busy
	defer s.Close()
	require.True(t, lease(t, s, ask("warm", slow, 1, 0)).OK)
	trips.Store(0)
	const n = 400
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { assert.True(t, lease(t, s, ask(fmt.Sprint("k", i), slow, 10, 0)).OK) })
	}
	wg.Wait()
	assert.Less(t, trips.Load(), int64(n/2))
}

// tripCounter counts commands and pipelines that are sent.
type tripCounter struct{ n *atomic.Int64 }

func (h tripCounter) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (h tripCounter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		h.n.Add(1)
		return next(ctx, cmd)
	}
}

func (h tripCounter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		h.n.Add(1)
		return next(ctx, cmds)
	}
}

// Redis recognizes a repeated adjustment by its number, so an adjustment is sent only
// after the one before it was answered.
func TestAdjustmentsOfAKeyAreSequential(t *testing.T) {
	mini := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	defer client.Close()
	s := redisstore.New(client, redisstore.Config{Timeout: time.Minute})
	defer s.Close()
	require.True(t, lease(t, s, ask("warm", slow, 1, 0)).OK)
	overtaken := make(chan struct{})
	held := make(chan struct{})
	client.AddHook(holdFirst{new(atomic.Bool), held, overtaken})
	adjust := func() error {
		return s.Adjust(t.Context(), choked.Adjustment{Key: "k", Limits: slow, Defined: 1, Charge: bucket.Cost{Requests: 2}})
	}
	var wg sync.WaitGroup
	wg.Go(func() { assert.NoError(t, adjust()) })
	<-held
	wg.Go(func() {
		assert.NoError(t, adjust())
		close(overtaken)
	})
	wg.Wait()
	assert.EqualValues(t, 5, lease(t, s, ask("k", slow, 1, 0)).Level.Requests)
}

// holdFirst holds the first pipeline until another one has ended, or for 200 ms.
type holdFirst struct {
	holds       *atomic.Bool
	held, until chan struct{}
}

func (h holdFirst) DialHook(next redis.DialHook) redis.DialHook          { return next }
func (h holdFirst) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (h holdFirst) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if h.holds.CompareAndSwap(false, true) {
			close(h.held)
			select {
			case <-h.until:
			case <-time.After(200 * time.Millisecond):
			}
		}
		return next(ctx, cmds)
	}
}

// Each bucket is one hash, so that its key may be in any slot of a cluster.
func TestStoreOnACluster(t *testing.T) {
	_, client := ownCluster(t, &redis.ClusterOptions{}, "--cluster-node-timeout", "2000")
	s := redisstore.New(client, redisstore.Config{Timeout: 20 * time.Second}) // covers the time until the servers have met
	defer s.Close()
	ctx := t.Context()

	done := make([]choked.Settlement, 60)
	for inTime := false; !inTime; { // while the servers meet, leases may expire before the last is granted
		var wg sync.WaitGroup
		begun := time.Now()
		for i := range done {
			wg.Go(func() {
				a := ask(fmt.Sprint("k", i, " at ", begun), slow, 10, 0)
				assert.True(t, lease(t, s, a).OK)
				done[i] = choked.Settlement{Key: a.Key, ID: a.ID, Spent: bucket.Cost{Requests: 4}}
			})
		}
		wg.Wait()
		require.NoError(t, s.Settle(ctx, done))
		inTime = time.Since(begun) < bucket.TTL
	}
	for _, d := range done {
		assert.False(t, lease(t, s, ask(d.Key, slow, 7, 0)).OK)
		assert.True(t, lease(t, s, ask(d.Key, slow, 6, 0)).OK)
	}
	require.NoError(t, client.ForEachMaster(ctx, func(ctx context.Context, c *redis.Client) error {
		assert.Positive(t, c.DBSize(ctx).Val(), "keys at %v", c)
		return nil
	}))

	// A hash tag in a key is a hash tag in Redis.
	a, err := client.ClusterKeySlot(ctx, "choked:{team}:a").Result()
	require.NoError(t, err)
	require.True(t, lease(t, s, ask("{team}:a", slow, 1, 0)).OK)
	b, err := client.ClusterKeySlot(ctx, "choked:{team}:b").Result()
	require.NoError(t, err)
	assert.Equal(t, a, b)
}

// A failover keeps the writes that reached the replica, as WAIT confirms.
func TestFailoverKeepsReplicatedWrites(t *testing.T) {
	const name = "choked"
	master, client := ownServer(t)
	_, replica := ownServer(t)
	host, port, err := net.SplitHostPort(master.Addr)
	require.NoError(t, err)
	require.NoError(t, replica.ReplicaOf(t.Context(), host, port).Err())
	require.Eventually(t, func() bool {
		return client.Wait(t.Context(), 1, time.Second).Val() == 1
	}, 20*time.Second, time.Millisecond, "the replica follows")
	sentinel, err := redisserver.StartSentinel(name, master.Addr)
	installed(t, err)
	defer sentinel.Stop()
	watch := redis.NewSentinelClient(&redis.Options{Addr: sentinel.Addr})
	defer watch.Close()
	require.Eventually(t, func() bool {
		replicas, err := watch.Replicas(t.Context(), name).Result()
		return err == nil && len(replicas) == 1 && replicas[0]["master-link-status"] == "ok"
	}, 30*time.Second, 10*time.Millisecond, "the sentinel knows the replica")

	failover := redis.NewFailoverClient(&redis.FailoverOptions{MasterName: name, SentinelAddrs: []string{sentinel.Addr}})
	defer failover.Close()
	s := redisstore.New(failover, redisstore.Config{Timeout: time.Minute})
	defer s.Close()
	a := ask("k", slow, 8, 0)
	require.True(t, lease(t, s, a).OK)
	require.NoError(t, s.Settle(t.Context(), []choked.Settlement{{Key: "k", ID: a.ID, Spent: a.Need}}))
	conn := client.Conn() // WAIT confirms the writes of its own connection
	defer conn.Close()
	require.NoError(t, conn.Set(t.Context(), "last", 1, 0).Err())
	require.EqualValues(t, 1, conn.Wait(t.Context(), 1, 20*time.Second).Val(), "all writes are replicated")
	master.Kill()
	assert.False(t, lease(t, s, ask("k", slow, 3, 0)).OK, "no fresh burst")
	assert.True(t, lease(t, s, ask("k", slow, 2, 0)).OK)
}

func TestRedisOverTLS(t *testing.T) {
	certified := httptest.NewTLSServer(nil) // not by a known authority
	defer certified.Close()
	mini := miniredis.NewMiniRedis()
	require.NoError(t, mini.StartTLS(certified.TLS))
	defer mini.Close()
	mini.RequireUserAuth("user", "hunter2")
	url := "rediss://user:hunter2@" + mini.Addr()
	_, err := openOn(t, url, time.Minute).Lease(t.Context(), ask("k", slow, 1, 0))
	require.ErrorContains(t, err, "certificate")
	require.NotErrorIs(t, err, bucket.ErrUnavailable, "it fails at once")
	trusting := openOn(t, url+"?skip_verify=true", time.Minute)
	require.True(t, lease(t, trusting, ask("k", slow, 1, 0)).OK)
	assert.NoError(t, trusting.Close())
}

func TestCloseClosesOnlyTheClientThatOpenMade(t *testing.T) {
	mini := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	defer client.Close()
	given := redisstore.New(client, redisstore.Config{})
	require.True(t, lease(t, given, ask("k", slow, 1, 0)).OK)
	require.NoError(t, client.Ping(t.Context()).Err())
	before := mini.CurrentConnectionCount()
	opened := openOn(t, "redis://"+mini.Addr(), 0)
	require.True(t, lease(t, opened, ask("k", slow, 1, 0)).OK)
	require.Greater(t, mini.CurrentConnectionCount(), before)
	require.NoError(t, errors.Join(given.Close(), opened.Close(), opened.Close()))
	assert.NoError(t, client.Ping(t.Context()).Err(), "a client given to New stays open")
	assert.Eventually(t, func() bool { return mini.CurrentConnectionCount() == before }, 10*time.Second, time.Millisecond)
}
