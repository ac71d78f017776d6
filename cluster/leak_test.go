package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/choked/choked"
)

// Nodes are closed while callers wait and spend, while other nodes close, before there
// is a leader, and when there is none any more. Close returns in time, and no goroutine
// is left.
func TestCloseUnderLoadLeavesNoGoroutine(t *testing.T) {
	start := func(t *testing.T, join []string, dir string) *Node {
		n, err := Start(Config{Bind: "127.0.0.1:0", Join: join, Dir: dir, Secret: "open sesame", Timeout: 200 * time.Millisecond})
		require.NoError(t, err)
		return n
	}
	closes := func(t *testing.T, n *Node) {
		began := time.Now()
		assert.NoError(t, n.Close())
		assert.Less(t, time.Since(began), 10*time.Second)
	}
	for name, end := range map[string]func(t *testing.T, nodes []*Node){
		"one after the other": func(t *testing.T, nodes []*Node) {
			for _, n := range nodes {
				closes(t, n)
			}
		},
		"all at once": func(t *testing.T, nodes []*Node) {
			var all sync.WaitGroup
			for _, n := range nodes {
				all.Go(func() { closes(t, n) })
				all.Go(func() { closes(t, n) }) // twice
			}
			all.Wait()
		},
		"two without leaving the voters, then the others without a leader": func(t *testing.T, nodes []*Node) {
			for _, n := range nodes[:2] {
				n.cancel()
			}
			time.Sleep(100 * time.Millisecond)
			for i := range nodes {
				closes(t, nodes[len(nodes)-1-i])
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := goleak.IgnoreCurrent()
			nodes := []*Node{start(t, nil, t.TempDir())}
			for range 3 {
				nodes = append(nodes, start(t, []string{nodes[0].Addr()}, t.TempDir()))
			}
			var admitted atomic.Int64
			var callers sync.WaitGroup
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var chokes []*choked.Choke
			for _, n := range nodes {
				c := choked.New(n)
				chokes = append(chokes, c)
				for key := range 5 {
					l, err := c.Limiter(fmt.Sprint("key ", key), choked.MustLimits("requests 100/s"), nil)
					require.NoError(t, err)
					for range 4 {
						callers.Go(func() {
							for ctx.Err() == nil {
								if err := l.Wait(ctx, choked.Cost{Requests: 1}); err == nil {
									admitted.Add(1)
								} else if errors.Is(err, choked.ErrClosed) {
									return
								}
							}
						})
					}
				}
			}
			require.Eventually(t, func() bool { return admitted.Load() > 500 }, 20*time.Second, 5*time.Millisecond)
			end(t, nodes)
			cancel()
			callers.Wait()
			for _, c := range chokes {
				c.Close() //nolint:errcheck // its store is closed
			}
			assertNoneLeft(t, before)
		})
	}
	t.Run("before there is a cluster", func(t *testing.T) {
		before := goleak.IgnoreCurrent()
		for range 5 {
			n := start(t, []string{"127.0.0.1:1"}, "")
			ctx, cancel := context.WithCancel(t.Context())
			asked := make(chan error, 1)
			go func() {
				_, err := n.Lease(ctx, oneRequest("k", 1))
				asked <- err
			}()
			closes(t, n)
			assert.Error(t, <-asked)
			cancel()
		}
		assertNoneLeft(t, before)
	})
}

// assertNoneLeft fails unless all goroutines end that did not run before. The last ones
// are memberlist's, which does not wait for them: a probe may take seconds.
func assertNoneLeft(t *testing.T, before goleak.Option) {
	t.Helper()
	err := errors.New("not checked yet")
	for began := time.Now(); err != nil && time.Since(began) < 15*time.Second; {
		err = goleak.Find(before)
	}
	assert.NoError(t, err)
}
