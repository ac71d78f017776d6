package httpstore

import (
	"context"
	"crypto/tls"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/testkit/pipes"
	"github.com/choked/choked/server"
	"github.com/choked/choked/storetest"
)

// service is a service that runs as long as its test.
type service struct {
	*server.Server
	token string
}

// newService returns a service over a store of its own, with a token.
func newService(t *testing.T) service { return serviceOver(t, choked.NewLocal()) }

func serviceOver(t *testing.T, store choked.Store) service {
	token, hash := server.NewToken()
	file := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(file, []byte(hash+" team-a\n"), 0o600))
	tokens, err := server.OpenTokens(file, nil)
	require.NoError(t, err)
	return service{server.New(server.Config{Store: store, Tokens: tokens}), token}
}

// listen serves on a loopback address until the test ends.
func (s service) listen(t *testing.T) (url string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() { s.Serve(l) })
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		s.Shutdown(ctx)
		serving.Wait()
	})
	return "http://" + l.Addr().String()
}

// arrivals is a store that records the asks that have arrived and are not answered yet.
type arrivals struct {
	choked.Store
	asks sync.Map // keys are of type bucket.LeaseID
}

func (a *arrivals) Lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error) {
	a.asks.Store(ask.ID, nil)
	defer a.asks.Delete(ask.ID)
	return a.Store.Lease(ctx, ask)
}

func (a *arrivals) queued(_ string, id bucket.LeaseID) bool {
	_, ok := a.asks.Load(id)
	return ok
}

func TestStore(t *testing.T) {
	t.Parallel()
	behind := &arrivals{Store: choked.NewLocal()}
	s := serviceOver(t, behind)
	url := s.listen(t)
	t.Run("rules", func(t *testing.T) { // ends before the service is stopped
		storetest.Test(t, storetest.Harness{
			Open: func(t *testing.T) storetest.Store {
				store, err := Open(Config{URL: url, Token: s.token})
				require.NoError(t, err)
				return store
			},
			Unavailable: func(t *testing.T) (storetest.Store, string) {
				store, err := Open(Config{URL: "http://127.0.0.1:1", Timeout: 100 * time.Millisecond})
				require.NoError(t, err)
				return store, "connection refused"
			},
			Queued: behind.queued,
			Slack:  200 * time.Millisecond,
		})
	})
}

// bubbled is a store and its service in one bubble. Close ends both.
type bubbled struct {
	*Store
	service service
	net     *pipes.Network
	serving sync.WaitGroup
}

func (b *bubbled) Close() error {
	err := b.Store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	b.service.Shutdown(ctx)
	b.net.Close()
	b.serving.Wait()
	return err
}

func bubble(t *testing.T) *bubbled {
	b := &bubbled{service: newService(t), net: pipes.New()}
	b.serving.Go(func() { b.service.Serve(b.net) })
	var err error
	b.Store, err = Open(Config{URL: "http://service.test", Token: b.service.token, HTTP1: true, dial: b.net.Dial})
	require.NoError(t, err)
	return b
}

// The same over HTTP/1.1, on the virtual clock of a bubble.
func TestStoreInABubble(t *testing.T) {
	storetest.Test(t, storetest.Harness{
		Open: func(t *testing.T) storetest.Store { return bubble(t) },
		Unavailable: func(t *testing.T) (storetest.Store, string) {
			b := bubble(t)
			b.net.Close()
			return b, net.ErrClosed.Error()
		},
		In: synctest.Test,
	})
}

// counting counts the connections that it accepts.
type counting struct {
	net.Listener
	n atomic.Int64
}

func (c *counting) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err == nil {
		c.n.Add(1)
	}
	return conn, err
}

func TestManyKeysShareAFewConnections(t *testing.T) {
	s := newService(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	counted := &counting{Listener: l}
	var serving sync.WaitGroup
	serving.Go(func() { s.Serve(counted) })
	store, err := Open(Config{URL: "http://" + l.Addr().String(), Token: s.token, Timeout: time.Hour})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var asks, waiting sync.WaitGroup
	for n := range uint64(200) {
		waiting.Add(1)
		asks.Go(func() {
			a := ask(n, 1, 3*time.Hour)
			a.Key = a.ID.String()
			assert.NoError(t, store.Adjust(ctx, bucket.Adjustment{Key: a.Key, Limits: a.Limits, Empty: time.Hour}))
			waiting.Done()
			_, err := store.Lease(ctx, a)
			assert.ErrorIs(t, err, context.Canceled)
		})
	}
	waiting.Wait()
	cancel()
	asks.Wait()
	assert.LessOrEqual(t, counted.n.Load(), int64(4*maxConns))
	require.NoError(t, store.Close())
	require.NoError(t, s.Shutdown(t.Context()))
	serving.Wait()
}

// Settlements do not queue behind waiting asks, over HTTP/1.1 either.
func TestSettlementsDoNotWaitBehindAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := bubble(t)
		defer b.Close()
		holder := ask(1, 10, 0)
		_, err := b.Lease(t.Context(), holder)
		require.NoError(t, err)
		require.NoError(t, b.Adjust(t.Context(), bucket.Adjustment{Key: "k", Limits: holder.Limits, Empty: time.Hour}))
		ctx, cancel := context.WithCancel(t.Context())
		var asks sync.WaitGroup
		for n := range uint64(100) {
			asks.Go(func() {
				_, err := b.Lease(ctx, ask(n+2, 1, 3*time.Hour))
				assert.ErrorIs(t, err, context.Canceled)
			})
		}
		synctest.Wait()
		began := time.Now()
		require.NoError(t, b.Settle(t.Context(), []bucket.Settlement{{Key: "k", ID: holder.ID}}))
		assert.Zero(t, time.Since(began))
		cancel()
		asks.Wait()
	})
}

// Without Config.HTTP1, a service that speaks HTTP/1.1 is an error at once, and a
// lease that it may have granted is returned.
func TestHTTP1NeedsConfigHTTP1(t *testing.T) {
	s := newService(t)
	serve := func(start func(*httptest.Server)) string {
		h := httptest.NewUnstartedServer(s)
		start(h)
		t.Cleanup(h.Close)
		return h.URL
	}
	plain := serve((*httptest.Server).Start)
	sealed := serve((*httptest.Server).StartTLS)
	trust := &tls.Config{InsecureSkipVerify: true}
	limits := choked.MustLimits("requests 10/h")
	all := choked.Ask{Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: 1}, Limits: limits, Defined: 1, Need: choked.Cost{Requests: 10}}
	for _, url := range []string{plain, sealed} {
		store, err := Open(Config{URL: url, Token: s.token, TLS: trust, Timeout: time.Hour})
		require.NoError(t, err)
		_, err = store.Lease(t.Context(), all)
		assert.ErrorContains(t, err, "want httpstore.Config.HTTP1", url)
		assert.NotErrorIs(t, err, bucket.ErrUnavailable)
		err = store.Settle(t.Context(), []bucket.Settlement{{Key: "k"}})
		assert.ErrorContains(t, err, "want httpstore.Config.HTTP1", url)
		store.work.Wait() // the lease is returned
		require.NoError(t, store.Close())
		all.ID.Holder++
	}
	for _, url := range []string{plain, sealed} {
		store, err := Open(Config{URL: url, Token: s.token, TLS: trust, HTTP1: true})
		require.NoError(t, err)
		l, err := store.Lease(t.Context(), all)
		require.NoError(t, err)
		assert.True(t, l.OK)
		require.NoError(t, store.Settle(t.Context(), []bucket.Settlement{{Key: "k", ID: all.ID}}))
		require.NoError(t, store.Close())
		all.ID.Holder++
	}
}

// The service restarts over the same store: callers that wait, and callers that arrive
// meanwhile, notice only the delay.
func TestServiceRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		shared := choked.NewLocal()
		defer shared.Close()
		b := &bubbled{service: service{Server: server.New(server.Config{Store: shared})}, net: pipes.New()}
		b.serving.Go(func() { b.service.Serve(b.net) })
		route := &atomic.Pointer[pipes.Network]{}
		route.Store(b.net)
		store, err := Open(Config{URL: "http://service.test", HTTP1: true, dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return route.Load().Dial(ctx, network, addr)
		}})
		require.NoError(t, err)
		b.Store = store
		choke := choked.New(store)
		limiter, err := choke.Limiter("k", choked.MustLimits("requests 100/s burst 10"), nil)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var admitted atomic.Int64
		var callers sync.WaitGroup
		for range 5 {
			callers.Go(func() {
				for limiter.Wait(ctx, choked.Cost{Requests: 1}) == nil {
					admitted.Add(1)
				}
				assert.Error(t, ctx.Err(), "no caller gets an error before the end")
			})
		}
		for range 5 {
			time.Sleep(2 * time.Second)
			require.NoError(t, b.service.Shutdown(ctx))
			b.net.Close()
			b.serving.Wait()
			time.Sleep(time.Second)
			b.service, b.net = service{Server: server.New(server.Config{Store: shared})}, pipes.New()
			b.serving.Go(func() { b.service.Serve(b.net) })
			route.Store(b.net)
		}
		time.Sleep(2 * time.Second)
		cancel()
		callers.Wait()
		assert.Greater(t, admitted.Load(), int64(1200-5*(100+60)), "17 s, 5 of them without a service")
		require.NoError(t, choke.Close())
		b.service.token = ""
		require.NoError(t, b.Close())
	})
}
