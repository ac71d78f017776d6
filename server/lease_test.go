package server

import (
	"context"
	"io"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
)

// askFor returns an ask for n requests on key "k", limited to 10/s, from a holder with
// no other asks.
func askFor(holder uint64, n int64) httpapi.LeaseRequest {
	limits, err := bucket.ParseLimits("requests 10/s")
	if err != nil {
		panic(err)
	}
	return httpapi.LeaseRequestOf(bucket.Ask{
		Key: "k", ID: bucket.LeaseID{Holder: holder, Seq: 1}, Limits: limits, Defined: 1,
		Need: bucket.Cost{Requests: n}, Want: bucket.Cost{Requests: n}, MaxWait: time.Hour,
	})
}

// openRequest is a request that may still wait for its answer.
type openRequest struct {
	reply
	cancel context.CancelFunc
	done   chan struct{}
}

func (d *testServer) start(r *http.Request) *openRequest {
	ctx, cancel := context.WithCancel(d.t.Context())
	a := &openRequest{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.reply = d.do(r.WithContext(ctx))
	}()
	return a
}

// takeAll leases single units until none is available, and returns how many it got.
func (d *testServer) takeAll(holder uint64) (n int64) {
	for {
		r := askFor(holder<<32+uint64(n), 1)
		r.MaxWait = 0
		l := d.do(postJSON("/v2/lease", r)).lease()
		if !l.OK || len(l.Drips) > 0 {
			return n
		}
		n++
	}
}

func resumeRequest(r httpapi.LeaseRequest) httpapi.LeaseRequest {
	return httpapi.LeaseRequest{Key: r.Key, ID: r.ID, Resume: true}
}

func TestResumedAskKeepsItsPlaceInTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		require.True(t, d.do(postJSON("/v2/lease", askFor(1, 10))).lease().OK)
		require.Equal(t, 200, d.do(postJSON("/v2/adjust", httpapi.AdjustRequest{Key: httpapi.KeyOf("k"), Limits: askFor(1, 1).Limits, Empty: 12 * time.Second})).Code)
		ask, behind := askFor(2, 5), askFor(3, 1)
		first := d.start(postJSON("/v2/lease", ask))
		synctest.Wait()
		second := d.start(postJSON("/v2/lease", behind))
		began := time.Now()
		var last time.Time
		var l httpapi.Lease
		for polls := 0; ; polls++ {
			<-first.done
			if l = first.lease(); !l.Pending {
				assert.Equal(t, 2, polls)
				break
			}
			assert.False(t, l.OK)
			<-second.done
			assert.True(t, second.lease().Pending, "overtook the ask before it")
			last = time.Now()
			first = d.start(postJSON("/v2/lease", resumeRequest(ask)))
			second = d.start(postJSON("/v2/lease", resumeRequest(behind)))
		}
		assert.True(t, l.OK)
		assert.Greater(t, time.Since(began), 12*time.Second)
		waited := time.Since(last)
		assert.Greater(t, l.ValidFor, waited+time.Second, "valid for some two seconds from now, counted from the last request")
		assert.Less(t, l.ValidFor, waited+bucket.TTL+bucket.TTL/8, "and for the quota that is promised ahead")
		<-second.done
		assert.True(t, second.lease().OK)
	})
}

// The client counts validity from the time it sent the request. Its clock may be 1%
// slow and must not outlast the lease.
func TestValidityIsShortenedByClockDrift(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &slowStore{Store: choked.NewLocal(), by: 4 * time.Second}
		d := open(t, store)
		defer d.close()
		began := time.Now()
		l := d.do(postJSON("/v2/lease", askFor(1, 5))).lease()
		waited := time.Since(began)
		require.Equal(t, 4*time.Second, waited)
		assert.Equal(t, bucket.Early(waited)+1900*time.Millisecond, l.ValidFor)
	})
}

// slowStore decides after a delay, which it adds to the validity.
type slowStore struct {
	choked.Store
	by time.Duration
}

func (s *slowStore) Lease(ctx context.Context, a bucket.Ask) (bucket.Lease, error) {
	time.Sleep(s.by)
	l, err := s.Store.Lease(ctx, a)
	l.ValidFor = s.by + 1900*time.Millisecond
	return l, err
}

func TestAskThatIsNotResumedIsWithdrawn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		require.True(t, d.do(postJSON("/v2/lease", askFor(1, 10))).lease().OK)
		require.Equal(t, 200, d.do(postJSON("/v2/adjust", httpapi.AdjustRequest{Key: httpapi.KeyOf("k"), Limits: askFor(1, 1).Limits, Empty: 7 * time.Second})).Code)
		ask := askFor(2, 10)
		require.True(t, d.do(postJSON("/v2/lease", ask)).lease().Pending)
		time.Sleep(resumeWithin + time.Millisecond)
		r := d.do(postJSON("/v2/lease", resumeRequest(ask)))
		assert.Equal(t, 410, r.Code)
		assert.Equal(t, httpapi.Lost, r.code())
		assert.Equal(t, "unknown or expired ask on this node: retry with a new id", r.message())
		time.Sleep(2 * time.Second)
		assert.EqualValues(t, 10, d.takeAll(3), "the withdrawn ask has taken quota")
		assert.Empty(t, d.asks.pending)
	})
}

// The store may grant a parked ask. The client resumes it soon, late or never.
func TestLeaseGrantedToAParkedAsk(t *testing.T) {
	for _, fetched := range []string{"soon", "late", "never"} {
		synctest.Test(t, func(t *testing.T) {
			store := choked.Store(choked.NewLocal())
			if fetched == "late" {
				store = &agingStore{choked.NewLocal()}
			}
			d := open(t, store)
			defer d.close()
			holder := askFor(1, 10)
			require.True(t, d.do(postJSON("/v2/lease", holder)).lease().OK)
			require.Equal(t, 200, d.do(postJSON("/v2/adjust", httpapi.AdjustRequest{Key: httpapi.KeyOf("k"), Limits: holder.Limits, Empty: 6500 * time.Millisecond})).Code)
			ask := askFor(2, 10)
			require.True(t, d.do(postJSON("/v2/lease", ask)).lease().Pending)
			switch fetched {
			case "soon":
				time.Sleep(2600 * time.Millisecond) // by then it is granted, partly from quota promised ahead
				assert.True(t, d.do(postJSON("/v2/lease", resumeRequest(ask))).lease().OK)
				assert.Zero(t, d.takeAll(3))
				return
			case "late":
				time.Sleep(2999 * time.Millisecond)
				assert.Equal(t, httpapi.Lost, d.do(postJSON("/v2/lease", resumeRequest(ask))).code())
				time.Sleep(600 * time.Millisecond)
			case "never":
				time.Sleep(3600 * time.Millisecond)
			}
			assert.EqualValues(t, 10, d.takeAll(3), "the lease was not taken and has to be returned")
		})
	}
}

// agingStore grants leases that expire soon after a long wait.
type agingStore struct{ choked.Store }

func (s *agingStore) Lease(ctx context.Context, a bucket.Ask) (bucket.Lease, error) {
	began := time.Now()
	l, err := s.Store.Lease(ctx, a)
	if time.Since(began) > time.Second {
		l.ValidFor = time.Since(began) + 100*time.Millisecond
	}
	return l, err
}

func TestEndOfARequestWithdrawsItsAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		holder := askFor(1, 10)
		require.True(t, d.do(postJSON("/v2/lease", holder)).lease().OK)
		large, small := d.start(postJSON("/v2/lease", askFor(2, 10))), d.start(postJSON("/v2/lease", askFor(3, 1)))
		synctest.Wait()
		require.Equal(t, 200, d.do(postJSON("/v2/settle", httpapi.SettleRequest{Done: []httpapi.Settlement{
			{Key: httpapi.KeyOf("k"), ID: holder.ID, Spent: bucket.Cost{Requests: 8}}}})).Code)
		large.cancel()
		<-small.done
		assert.True(t, small.lease().OK)
		<-large.done
		assert.Empty(t, d.asks.pending)
	})
}

// uncancellableStore grants asks whose context has ended.
type uncancellableStore struct{ choked.Store }

func (s uncancellableStore) Lease(_ context.Context, a bucket.Ask) (bucket.Lease, error) {
	time.Sleep(time.Second)
	return s.Store.Lease(context.Background(), a)
}

func TestLeaseGrantedAfterTheRequestEndedIsReturned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, uncancellableStore{choked.NewLocal()})
		defer d.close()
		a := d.start(postJSON("/v2/lease", askFor(1, 10)))
		synctest.Wait()
		a.cancel()
		<-a.done
		time.Sleep(time.Second)
		synctest.Wait()
		r := askFor(2, 10)
		r.MaxWait = 0
		assert.True(t, d.do(postJSON("/v2/lease", r)).lease().OK)
	})
}

// settleRequest returns a request that settles an ask or a lease, with the units spent.
func settleRequest(r httpapi.LeaseRequest, spent int64) *http.Request {
	return postJSON("/v2/settle", httpapi.SettleRequest{Done: []httpapi.Settlement{{Key: r.Key, ID: r.ID, Spent: bucket.Cost{Requests: spent}}}})
}

// parkedAsk returns an ask that was just parked. The store can grant it in 2.5 s.
func (d *testServer) parkedAsk() (ask httpapi.LeaseRequest) {
	holder := askFor(1, 10)
	require.True(d.t, d.do(postJSON("/v2/lease", holder)).lease().OK)
	require.Equal(d.t, 200, d.do(postJSON("/v2/adjust", httpapi.AdjustRequest{Key: holder.Key, Limits: holder.Limits, Empty: 6500 * time.Millisecond})).Code)
	ask = askFor(2, 10)
	require.True(d.t, d.do(postJSON("/v2/lease", ask)).lease().Pending)
	return ask
}

// A client that settles a pending ask has lost sight of it, so the ask is withdrawn.
func TestSettledAskLeavesTheQueue(t *testing.T) {
	for _, by := range []string{"settle", "the next ask"} {
		t.Run(by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := open(t, nil)
				defer d.close()
				ask := d.parkedAsk()
				told := time.Now()
				next := askFor(3, 10)
				if by == "settle" {
					require.Equal(t, 200, d.do(settleRequest(ask, 0)).Code)
				} else {
					next.Done = []httpapi.Settlement{{Key: ask.Key, ID: ask.ID}}
				}
				waits := d.start(postJSON("/v2/lease", next))
				synctest.Wait()
				assert.Equal(t, httpapi.Lost, d.do(postJSON("/v2/lease", resumeRequest(ask))).code())
				<-waits.done
				assert.True(t, waits.lease().OK)
				assert.LessOrEqual(t, time.Since(told), 2500*time.Millisecond)
			})
		})
	}
}

// A parked ask that was granted is settled as any other lease is, and a later request
// cannot resume it.
func TestGrantedAskThatIsSettledCannotBeResumed(t *testing.T) {
	for spent, left := range map[int64]int64{0: 10, 8: 2} {
		synctest.Test(t, func(t *testing.T) {
			d := open(t, nil)
			defer d.close()
			ask := d.parkedAsk()
			time.Sleep(2500 * time.Millisecond)
			require.Zero(t, d.takeAll(3), "it is granted")
			require.Equal(t, 200, d.do(settleRequest(ask, spent)).Code)
			synctest.Wait()
			assert.Equal(t, left, d.takeAll(4), "spent %d", spent)
			assert.Equal(t, httpapi.Lost, d.do(postJSON("/v2/lease", resumeRequest(ask))).code())
		})
	}
}

// The waiting request ends at once, even if the store goes on with the ask.
func TestSettlementEndsTheWaitingRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, uncancellableStore{choked.NewLocal()})
		defer d.close()
		ask := askFor(1, 10)
		waits := d.start(postJSON("/v2/lease", ask))
		synctest.Wait()
		began := time.Now()
		require.Equal(t, 200, d.do(settleRequest(ask, 0)).Code)
		<-waits.done
		assert.Zero(t, time.Since(began))
		assert.Equal(t, 410, waits.Code)
		assert.Equal(t, httpapi.Lost, waits.code())
		time.Sleep(time.Second)
		synctest.Wait()
		assert.True(t, d.do(postJSON("/v2/lease", askFor(2, 10))).lease().OK, "the lease granted after the settlement was not returned")
	})
}

func TestSettlementWithdrawsOnlyAsksOfItsTenant(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil, hashToken("a")+" a", hashToken("b")+" b", hashToken("a2")+" a")
		defer d.close()
		require.Equal(t, 200, d.do(withToken(postJSON("/v2/adjust", httpapi.AdjustRequest{Key: httpapi.KeyOf("k"), Limits: askFor(1, 1).Limits, Empty: time.Minute}), "a")).Code)
		ask, other := askFor(1, 1), askFor(2, 1)
		waits := d.start(withToken(postJSON("/v2/lease", ask), "a"))
		synctest.Wait()
		for _, s := range []struct {
			of    httpapi.LeaseRequest
			token string
		}{{ask, "b"}, {other, "a"}} {
			require.Equal(t, 200, d.do(withToken(settleRequest(s.of, 0), s.token)).Code)
		}
		<-waits.done
		assert.True(t, waits.lease().Pending)
		require.Equal(t, 200, d.do(withToken(settleRequest(ask, 0), "a2")).Code)
		assert.Equal(t, httpapi.Lost, d.do(withToken(postJSON("/v2/lease", resumeRequest(ask)), "a")).code())
	})
}

func TestSecondRequestForALeaseIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		require.True(t, d.do(postJSON("/v2/lease", askFor(1, 10))).lease().OK)
		a := d.start(postJSON("/v2/lease", askFor(2, 10)))
		synctest.Wait()
		r := d.do(postJSON("/v2/lease", askFor(2, 10)))
		assert.Equal(t, 409, r.Code)
		assert.Equal(t, httpapi.InProgress, r.code())
		r = d.do(postJSON("/v2/lease", resumeRequest(askFor(2, 10))))
		assert.Equal(t, 410, r.Code, "another request waits for it")
		<-a.done
		assert.True(t, a.lease().OK)
	})
}

func TestDrainEndsWaitingRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		require.True(t, d.do(postJSON("/v2/lease", askFor(1, 10))).lease().OK)
		lease := d.start(postJSON("/v2/lease", askFor(2, 10)))
		acquire := d.start(get("/v2/acquire", "key", "k", "request_limit", "10/s", "requests", "10"))
		synctest.Wait()
		began := time.Now()
		d.Drain()
		<-lease.done
		<-acquire.done
		assert.Zero(t, time.Since(began))
		assert.Equal(t, httpapi.Lost, lease.code())
		assert.Equal(t, httpapi.Closing, acquire.code())
		require.NoError(t, d.Shutdown(t.Context()))
		time.Sleep(4 * time.Second)
		l, err := d.store.Lease(t.Context(), bucket.Ask{Key: "k", ID: bucket.LeaseID{Seq: 9}, Limits: bucket.Limits(askFor(1, 1).Limits), Need: bucket.Cost{Requests: 10}})
		require.NoError(t, err)
		assert.True(t, l.OK, "the ended requests have taken quota")
	})
}

// Shutdown cancels calls to the store when its context ends.
func TestShutdownEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, blockedStore{choked.NewLocal()})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var all sync.WaitGroup
		a := d.start(postJSON("/v2/lease", askFor(1, 1)))
		synctest.Wait()
		all.Go(func() { d.Shutdown(ctx) })
		began := time.Now()
		all.Wait()
		<-a.done
		assert.LessOrEqual(t, time.Since(began), time.Second)
	})
}

// blockedStore decides no ask before the context ends.
type blockedStore struct{ choked.Store }

func (blockedStore) Lease(ctx context.Context, _ bucket.Ask) (bucket.Lease, error) {
	<-ctx.Done()
	return bucket.Lease{}, ctx.Err()
}

// Shutdown cuts off a settlement that does not end, and returns the context's error.
func TestShutdownReportsASettlementItCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, unsettlingStore{choked.NewLocal()})
		defer d.store.Close()
		require.Equal(t, 200, d.do(get("/v2/acquire", "key", "k", "request_limit", "10/s")).Code)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		assert.ErrorIs(t, d.Shutdown(ctx), context.DeadlineExceeded)
	})
}

func TestShutdownOfAnIdleServerIgnoresItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.NoError(t, open(t, nil).Shutdown(ctx))
}

// unsettlingStore blocks each settlement until its context ends.
type unsettlingStore struct{ choked.Store }

func (unsettlingStore) Settle(ctx context.Context, _ []bucket.Settlement) error {
	<-ctx.Done()
	return ctx.Err()
}

// The HTTP server does not know all open requests, for instance those of an HTTP/2
// connection that is closed, so Shutdown counts them itself.
func TestShutdownWaitsForOpenRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		body, w := io.Pipe()
		r := postJSON("/v2/lease", askFor(1, 1))
		text, err := io.ReadAll(r.Body)
		require.NoError(t, err)
		r.Body = body
		asked := d.start(r)
		synctest.Wait()
		over := make(chan struct{})
		go func() {
			defer close(over)
			assert.NoError(t, d.Shutdown(t.Context()))
		}()
		synctest.Wait()
		select {
		case <-over:
			t.Error("Shutdown returned before an open request has asked the store")
		default:
		}
		_, err = w.Write(text)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		<-asked.done
		<-over
		assert.Equal(t, 503, d.do(get("/v2/status")).Code, "a request began after Shutdown")
		d.store.Close()
	})
}
