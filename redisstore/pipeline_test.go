package redisstore

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
)

// gate stands in front of a server. While it is shut, pipelines that were sent wait
// until it opens.
type gate struct {
	shut  atomic.Bool
	open  chan struct{}
	held  atomic.Int64 // pipelines that wait
	calls atomic.Int64 // calls that were sent

	lose atomic.Bool   // lose the answer to the next pipeline
	lost chan struct{} // closed by the test: report the loss
}

func (g *gate) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) { return next(ctx, network, addr) }
}

func (g *gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook { return next }

func (g *gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if cmds[0].Name() != "evalsha" { // the handshake of a new connection
			return next(ctx, cmds)
		}
		g.calls.Add(int64(len(cmds)))
		if g.shut.Load() {
			g.held.Add(1)
			select {
			case <-g.open:
			case <-ctx.Done():
			}
		}
		err := next(ctx, cmds)
		if g.lose.CompareAndSwap(true, false) {
			g.shut.Store(true)
			<-g.lost
			err = io.EOF
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
		}
		return err
	}
}

func (g *gate) awaitHeld(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return g.held.Load() == int64(n) }, 20*time.Second, time.Millisecond)
}

// gated returns a store behind a gate that one call has passed, so that the script is
// loaded.
func gated(t *testing.T) (*Store, *gate) {
	client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr(), MaxRetries: -1})
	t.Cleanup(func() { client.Close() })
	g := &gate{open: make(chan struct{}), lost: make(chan struct{})}
	client.AddHook(g)
	s := New(client, Config{Timeout: time.Minute})
	t.Cleanup(func() { s.Close() })
	require.NoError(t, takeAll(t.Context(), s, "warm"))
	g.calls.Store(0)
	return s, g
}

var asked atomic.Uint64

// takeAll leases a whole bucket.
func takeAll(ctx context.Context, s *Store, key string) error {
	limits, err := bucket.ParseLimits("requests 10/h")
	if err != nil {
		return err
	}
	all := bucket.Cost{Requests: 10}
	l, err := s.Lease(ctx, bucket.Ask{Key: key, ID: bucket.LeaseID{Holder: asked.Add(1), Seq: 1}, Limits: limits, Need: all, Want: all})
	if err == nil && !l.OK {
		err = fmt.Errorf("%s: refused", key)
	}
	return err
}

func (s *Store) waiting() int {
	s.pipelines.mu.Lock()
	defer s.pipelines.mu.Unlock()
	if q := s.pipelines.servers[""]; q != nil {
		return q.waiting.Len()
	}
	return 0
}

func (s *Store) awaitQueue(t *testing.T, n int) {
	t.Helper()
	require.Eventually(t, func() bool { return s.waiting() == n }, 20*time.Second, time.Millisecond)
}

// While Redis does not answer, the calls of callers that leave do not accumulate, so
// that callers which still wait are served first once it answers.
func TestCanceledCallsInTheQueueAreNotSent(t *testing.T) {
	s, g := gated(t)
	g.shut.Store(true)
	var waiting sync.WaitGroup
	for i := range maxPipelines {
		waiting.Go(func() { assert.NoError(t, takeAll(t.Context(), s, fmt.Sprint("under way ", i))) })
		g.awaitHeld(t, i+1)
	}
	const n = 1000
	for range 2 {
		ctx, cancel := context.WithCancel(t.Context())
		var gone sync.WaitGroup
		for range n {
			gone.Go(func() { assert.ErrorIs(t, takeAll(ctx, s, "k"), context.Canceled) })
		}
		s.awaitQueue(t, n)
		cancel()
		gone.Wait()
		require.Zero(t, s.waiting())
	}
	waiting.Go(func() { assert.NoError(t, takeAll(t.Context(), s, "k")) })
	s.awaitQueue(t, 1)
	close(g.open)
	waiting.Wait()
	require.NoError(t, s.Close())
	assert.EqualValues(t, maxPipelines+1, g.calls.Load(), "nothing was granted, so nothing is withdrawn")
}

// An attempt whose answer was lost may have been granted, even if the retry after it
// is never sent.
func TestAttemptBeforeACanceledRetryIsWithdrawn(t *testing.T) {
	s, g := gated(t)
	g.lose.Store(true)
	ctx, cancel := context.WithCancel(t.Context())
	left := make(chan error, 1)
	go func() { left <- takeAll(ctx, s, "k") }()
	require.Eventually(t, g.shut.Load, 20*time.Second, time.Millisecond)
	var others sync.WaitGroup
	for i := range maxPipelines { // the last one is sent when the first has ended
		others.Go(func() { assert.NoError(t, takeAll(t.Context(), s, fmt.Sprint("other ", i))) })
		if i < maxPipelines-1 {
			g.awaitHeld(t, i+1)
		}
	}
	s.awaitQueue(t, 1)
	close(g.lost)
	g.awaitHeld(t, maxPipelines)
	s.awaitQueue(t, 1) // the retry
	cancel()
	require.ErrorIs(t, <-left, context.Canceled)
	close(g.open)
	others.Wait()
	require.Eventually(t, func() bool { return takeAll(t.Context(), s, "k") == nil }, 20*time.Second, time.Millisecond)
}

// A call that is given up in the queue has the last error of its server, so that the
// error of an outage names its cause for every caller.
func TestCallDroppedInTheQueueHasTheErrorOfItsServer(t *testing.T) {
	s, g := gated(t)
	g.lose.Store(true)
	var callers sync.WaitGroup
	callers.Go(func() { assert.NoError(t, takeAll(t.Context(), s, "lost")) })
	require.Eventually(t, g.shut.Load, 20*time.Second, time.Millisecond)
	for i := range maxPipelines {
		callers.Go(func() { assert.NoError(t, takeAll(t.Context(), s, fmt.Sprint("other ", i))) })
		if i < maxPipelines-1 {
			g.awaitHeld(t, i+1)
		}
	}
	s.awaitQueue(t, 1)
	close(g.lost)
	g.awaitHeld(t, maxPipelines)
	s.awaitQueue(t, 1) // the retry
	c := &call{key: "k", args: words{"settle", "-", 0}, done: make(chan struct{})}
	s.pipelines.send(c)
	s.awaitQueue(t, 2)
	require.True(t, s.pipelines.drop(c))
	assert.ErrorIs(t, c.err, io.EOF)
	close(g.open)
	callers.Wait()
}
