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

// wants is an ask for requests of key k, of which there are 10 a second, from a
// holder of its own.
func wants(holder uint64, n int64) httpapi.LeaseRequest {
	limits, err := bucket.ParseLimits("10/s", "")
	if err != nil {
		panic(err)
	}
	return httpapi.LeaseRequestOf(bucket.Ask{
		Key: "k", ID: bucket.LeaseID{Holder: holder, Seq: 1}, Limits: limits, Defined: 1,
		Need: bucket.Cost{Requests: n}, Want: bucket.Cost{Requests: n}, MaxWait: time.Hour,
	})
}

// spoken is an answer that comes in a while.
type spoken struct {
	reply
	cancel context.CancelFunc
	done   chan struct{}
}

func (d *desk) start(r *http.Request) *spoken {
	ctx, cancel := context.WithCancel(d.t.Context())
	a := &spoken{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(a.done)
		a.reply = d.do(r.WithContext(ctx))
	}()
	return a
}

// holds takes what is in the bucket, and returns how much that was.
func (d *desk) holds(holder uint64) (n int64) {
	for {
		r := wants(holder<<32+uint64(n), 1)
		r.MaxWait = 0
		l := d.do(postJSON("/v1/lease", r)).lease()
		if !l.OK || len(l.Drips) > 0 {
			return n
		}
		n++
	}
}

func resume(r httpapi.LeaseRequest) httpapi.LeaseRequest {
	return httpapi.LeaseRequest{Key: r.Key, ID: r.ID, Resume: true}
}

func TestALongWaitIsResumedAndKeepsItsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		require.True(t, d.do(postJSON("/v1/lease", wants(1, 10))).lease().OK)
		require.Equal(t, 200, d.do(postJSON("/v1/adjust", httpapi.AdjustRequest{Key: httpapi.KeyOf("k"), Limits: wants(1, 1).Limits, Empty: 12 * time.Second})).Code)
		ask, behind := wants(2, 5), wants(3, 1)
		first := d.start(postJSON("/v1/lease", ask))
		synctest.Wait()
		second := d.start(postJSON("/v1/lease", behind))
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
			assert.True(t, second.lease().Pending, "nobody overtakes")
			last = time.Now()
			first = d.start(postJSON("/v1/lease", resume(ask)))
			second = d.start(postJSON("/v1/lease", resume(behind)))
		}
		assert.True(t, l.OK)
		assert.Greater(t, time.Since(began), 12*time.Second)
		waited := time.Since(last)
		assert.Greater(t, l.ValidFor, waited+time.Second, "it is valid from the last request, for some two seconds from now")
		assert.Less(t, l.ValidFor, waited+bucket.TTL+bucket.TTL/8, "and for what is promised ahead")
		<-second.done
		assert.True(t, second.lease().OK)
	})
}

// Validity counts from the arrival of the request that is answered, at the
// latest, and a clock that is 1% slower there must not outlast the lease.
func TestValidityIsShortByTheDriftOfTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &late{Store: choked.NewLocal(), by: 4 * time.Second}
		d := open(t, store)
		defer d.close()
		began := time.Now()
		l := d.do(postJSON("/v1/lease", wants(1, 5))).lease()
		waited := time.Since(began)
		require.Equal(t, 4*time.Second, waited)
		assert.Equal(t, bucket.Early(waited)+1900*time.Millisecond, l.ValidFor)
	})
}

// late is a store that decides late, and says by how much.
type late struct {
	choked.Store
	by time.Duration
}

func (s *late) Lease(ctx context.Context, a bucket.Ask) (bucket.Lease, error) {
	time.Sleep(s.by)
	l, err := s.Store.Lease(ctx, a)
	l.ValidFor = s.by + 1900*time.Millisecond
	return l, err
}

func TestAnAskThatIsNotResumedIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		require.True(t, d.do(postJSON("/v1/lease", wants(1, 10))).lease().OK)
		require.Equal(t, 200, d.do(postJSON("/v1/adjust", httpapi.AdjustRequest{Key: httpapi.KeyOf("k"), Limits: wants(1, 1).Limits, Empty: 7 * time.Second})).Code)
		ask := wants(2, 10)
		require.True(t, d.do(postJSON("/v1/lease", ask)).lease().Pending)
		time.Sleep(resumeWithin + time.Millisecond)
		r := d.do(postJSON("/v1/lease", resume(ask)))
		assert.Equal(t, 410, r.Code)
		assert.Equal(t, httpapi.Lost, r.code())
		time.Sleep(2 * time.Second)
		assert.EqualValues(t, 10, d.holds(3), "it took nothing")
		assert.Empty(t, d.asks.pending)
	})
}

// It may be granted while nobody waits for it, and fetched soon, late, or not.
func TestAnAskThatIsGrantedBetweenTwoRequests(t *testing.T) {
	for _, fetched := range []string{"soon", "late", "never"} {
		synctest.Test(t, func(t *testing.T) {
			store := choked.Store(choked.NewLocal())
			if fetched == "late" {
				store = &stale{choked.NewLocal()}
			}
			d := open(t, store)
			defer d.close()
			holder := wants(1, 10)
			require.True(t, d.do(postJSON("/v1/lease", holder)).lease().OK)
			require.Equal(t, 200, d.do(postJSON("/v1/adjust", httpapi.AdjustRequest{Key: httpapi.KeyOf("k"), Limits: holder.Limits, Empty: 6500 * time.Millisecond})).Code)
			ask := wants(2, 10)
			require.True(t, d.do(postJSON("/v1/lease", ask)).lease().Pending)
			switch fetched {
			case "soon":
				time.Sleep(2600 * time.Millisecond) // it is granted by then, with a promise
				assert.True(t, d.do(postJSON("/v1/lease", resume(ask))).lease().OK)
				assert.Zero(t, d.holds(3))
				return
			case "late":
				time.Sleep(2999 * time.Millisecond)
				assert.Equal(t, httpapi.Lost, d.do(postJSON("/v1/lease", resume(ask))).code())
				time.Sleep(600 * time.Millisecond)
			case "never":
				time.Sleep(3600 * time.Millisecond)
			}
			assert.EqualValues(t, 10, d.holds(3), "what nobody has fetched is given back")
		})
	}
}

// stale is a store whose leases are soon over, when they were waited for.
type stale struct{ choked.Store }

func (s *stale) Lease(ctx context.Context, a bucket.Ask) (bucket.Lease, error) {
	began := time.Now()
	l, err := s.Store.Lease(ctx, a)
	if time.Since(began) > time.Second {
		l.ValidFor = time.Since(began) + 100*time.Millisecond
	}
	return l, err
}

func TestTheEndOfARequestWithdrawsItsAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		holder := wants(1, 10)
		require.True(t, d.do(postJSON("/v1/lease", holder)).lease().OK)
		large, small := d.start(postJSON("/v1/lease", wants(2, 10))), d.start(postJSON("/v1/lease", wants(3, 1)))
		synctest.Wait()
		require.Equal(t, 200, d.do(postJSON("/v1/settle", httpapi.SettleRequest{Done: []httpapi.Settlement{
			{Key: httpapi.KeyOf("k"), ID: holder.ID, Spent: bucket.Cost{Requests: 8}}}})).Code)
		large.cancel()
		<-small.done
		assert.True(t, small.lease().OK)
		<-large.done
		assert.Empty(t, d.asks.pending)
	})
}

// stubborn is a store that grants though the asker is gone.
type stubborn struct{ choked.Store }

func (s stubborn) Lease(_ context.Context, a bucket.Ask) (bucket.Lease, error) {
	time.Sleep(time.Second)
	return s.Store.Lease(context.Background(), a)
}

func TestWhatIsGrantedToWhoIsGoneIsGivenBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, stubborn{choked.NewLocal()})
		defer d.close()
		a := d.start(postJSON("/v1/lease", wants(1, 10)))
		synctest.Wait()
		a.cancel()
		<-a.done
		time.Sleep(time.Second)
		synctest.Wait()
		r := wants(2, 10)
		r.MaxWait = 0
		assert.True(t, d.do(postJSON("/v1/lease", r)).lease().OK)
	})
}

// settles is a request that settles an ask or a lease, of which so much was spent.
func settles(r httpapi.LeaseRequest, spent int64) *http.Request {
	return postJSON("/v1/settle", httpapi.SettleRequest{Done: []httpapi.Settlement{{Key: r.Key, ID: r.ID, Spent: bucket.Cost{Requests: spent}}}})
}

// pends returns an ask of which a client was told, just now, that it waits. What it
// wants is all that will be there in 2.5 s.
func (d *desk) pends() (ask httpapi.LeaseRequest) {
	holder := wants(1, 10)
	require.True(d.t, d.do(postJSON("/v1/lease", holder)).lease().OK)
	require.Equal(d.t, 200, d.do(postJSON("/v1/adjust", httpapi.AdjustRequest{Key: holder.Key, Limits: holder.Limits, Empty: 6500 * time.Millisecond})).Code)
	ask = wants(2, 10)
	require.True(d.t, d.do(postJSON("/v1/lease", ask)).lease().Pending)
	return ask
}

// Whoever settles an ask that waits has lost sight of it: it leaves the line.
func TestNobodyStandsInLineBehindAnAskThatIsSettled(t *testing.T) {
	for _, by := range []string{"settle", "the next ask"} {
		t.Run(by, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := open(t, nil)
				defer d.close()
				ask := d.pends()
				told := time.Now()
				next := wants(3, 10)
				if by == "settle" {
					require.Equal(t, 200, d.do(settles(ask, 0)).Code)
				} else {
					next.Done = []httpapi.Settlement{{Key: ask.Key, ID: ask.ID}}
				}
				waits := d.start(postJSON("/v1/lease", next))
				synctest.Wait()
				assert.Equal(t, httpapi.Lost, d.do(postJSON("/v1/lease", resume(ask))).code())
				<-waits.done
				assert.True(t, waits.lease().OK)
				assert.LessOrEqual(t, time.Since(told), 2500*time.Millisecond)
			})
		})
	}
}

// It may have been granted meanwhile. Then it is a lease as any other that is
// settled, and is not given to who resumes it late.
func TestAnAskThatIsGrantedAndSettledBeforeItIsResumed(t *testing.T) {
	for spent, left := range map[int64]int64{0: 10, 8: 2} {
		synctest.Test(t, func(t *testing.T) {
			d := open(t, nil)
			defer d.close()
			ask := d.pends()
			time.Sleep(2500 * time.Millisecond)
			require.Zero(t, d.holds(3), "it is granted")
			require.Equal(t, 200, d.do(settles(ask, spent)).Code)
			synctest.Wait()
			assert.Equal(t, left, d.holds(4), "spent %d", spent)
			assert.Equal(t, httpapi.Lost, d.do(postJSON("/v1/lease", resume(ask))).code())
		})
	}
}

// The request that waits hears of it at once, however long the store takes to.
func TestASettlementEndsTheRequestThatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, stubborn{choked.NewLocal()})
		defer d.close()
		ask := wants(1, 10)
		waits := d.start(postJSON("/v1/lease", ask))
		synctest.Wait()
		began := time.Now()
		require.Equal(t, 200, d.do(settles(ask, 0)).Code)
		<-waits.done
		assert.Zero(t, time.Since(began))
		assert.Equal(t, 410, waits.Code)
		assert.Equal(t, httpapi.Lost, waits.code())
		time.Sleep(time.Second)
		synctest.Wait()
		assert.True(t, d.do(postJSON("/v1/lease", wants(2, 10))).lease().OK, "what it was granted nonetheless is given back")
	})
}

func TestASettlementWithdrawsNoAskOfAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil, hashToken("a")+" a", hashToken("b")+" b", hashToken("of a, too")+" a")
		defer d.close()
		require.Equal(t, 200, d.do(bearing(postJSON("/v1/adjust", httpapi.AdjustRequest{Key: httpapi.KeyOf("k"), Limits: wants(1, 1).Limits, Empty: time.Minute}), "a")).Code)
		ask, other := wants(1, 1), wants(2, 1)
		waits := d.start(bearing(postJSON("/v1/lease", ask), "a"))
		synctest.Wait()
		for _, s := range []struct {
			of    httpapi.LeaseRequest
			token string
		}{{ask, "b"}, {other, "a"}} {
			require.Equal(t, 200, d.do(bearing(settles(s.of, 0), s.token)).Code)
		}
		<-waits.done
		assert.True(t, waits.lease().Pending)
		require.Equal(t, 200, d.do(bearing(settles(ask, 0), "of a, too")).Code)
		assert.Equal(t, httpapi.Lost, d.do(bearing(postJSON("/v1/lease", resume(ask)), "a")).code())
	})
}

func TestTwoRequestsForOneLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		require.True(t, d.do(postJSON("/v1/lease", wants(1, 10))).lease().OK)
		a := d.start(postJSON("/v1/lease", wants(2, 10)))
		synctest.Wait()
		r := d.do(postJSON("/v1/lease", wants(2, 10)))
		assert.Equal(t, 409, r.Code)
		assert.Equal(t, httpapi.InProgress, r.code())
		r = d.do(postJSON("/v1/lease", resume(wants(2, 10))))
		assert.Equal(t, 410, r.Code, "it is not pending: somebody waits for it")
		<-a.done
		assert.True(t, a.lease().OK)
	})
}

func TestDrainingTurnsAwayThoseWhoWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		defer d.close()
		require.True(t, d.do(postJSON("/v1/lease", wants(1, 10))).lease().OK)
		lease := d.start(postJSON("/v1/lease", wants(2, 10)))
		acquire := d.start(get("/v1/acquire", "key", "k", "request_limit", "10/s", "requests", "10"))
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
		l, err := d.store.Lease(t.Context(), bucket.Ask{Key: "k", ID: bucket.LeaseID{Seq: 9}, Limits: wants(1, 1).Limits.Value(), Need: bucket.Cost{Requests: 10}})
		require.NoError(t, err)
		assert.True(t, l.OK, "they have taken nothing")
	})
}

// What is under way at the store has an end, whatever the store does.
func TestShutdownDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, deaf{choked.NewLocal()})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var all sync.WaitGroup
		a := d.start(postJSON("/v1/lease", wants(1, 1)))
		synctest.Wait()
		all.Go(func() { d.Shutdown(ctx) })
		began := time.Now()
		all.Wait()
		<-a.done
		assert.LessOrEqual(t, time.Since(began), time.Second)
	})
}

// deaf is a store that answers when it is told that nobody listens.
type deaf struct{ choked.Store }

func (deaf) Lease(ctx context.Context, _ bucket.Ask) (bucket.Lease, error) {
	<-ctx.Done()
	return bucket.Lease{}, ctx.Err()
}

// A settlement that nobody waits for is cut off, and that is told.
func TestShutdownTellsWhatItCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, unsettled{choked.NewLocal()})
		defer d.store.Close()
		require.Equal(t, 200, d.do(get("/v1/acquire", "key", "k", "request_limit", "10/s")).Code)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		assert.ErrorIs(t, d.Shutdown(ctx), context.DeadlineExceeded)
	})
}

func TestShutdownInNoTimeOfWhatIsIdle(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	assert.NoError(t, open(t, nil).Shutdown(ctx))
}

// unsettled is a store that settles nothing.
type unsettled struct{ choked.Store }

func (unsettled) Settle(ctx context.Context, _ []bucket.Settlement) error {
	<-ctx.Done()
	return ctx.Err()
}

// What serves the requests need not know of all that are under way: of an HTTP/2
// connection that is gone, for one.
func TestShutdownWaitsForRequestsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, nil)
		body, w := io.Pipe()
		r := postJSON("/v1/lease", wants(1, 1))
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
			t.Error("it has shut down, and is about to ask the store")
		default:
		}
		_, err = w.Write(text)
		require.NoError(t, err)
		require.NoError(t, w.Close())
		<-asked.done
		<-over
		assert.Equal(t, 503, d.do(get("/v1/status")).Code, "nothing begins any more")
		d.store.Close()
	})
}
