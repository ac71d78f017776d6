package choked

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func tokens(n int64) Cost { return Cost{Tokens: n} }

// spendTwice spends c when something of the bucket is lacking already, so that what
// is returned of it has not run over. It returns a time before, and a second after.
func (s *scene) spendTwice(c Cost) (began time.Time) {
	s.Helper()
	s.spend(c)
	time.Sleep(second)
	began = time.Now()
	s.spend(c)
	time.Sleep(second)
	return began
}

// What was estimated too much goes back to the bucket, which lacked it.
func TestUnusedQuotaComesBack(t *testing.T) {
	play(t, "", "1000/h", func(s *scene) {
		admitted := s.spendTwice(tokens(500))
		require.NoError(s, s.Settle(admitted, tokens(500), tokens(200)))
		require.NoError(s, s.Settle(admitted, tokens(0), tokens(0)))
		time.Sleep(settleWithin)
		synctest.Wait()
		require.Len(s, s.spy.adjusted, 1)
		assert.Equal(s, tokens(300), s.spy.adjusted[0].Return)
		s.spend(tokens(300))
	})
}

// Quota that was refilled already is not given back as well.
func TestUnusedQuotaThatRanOverIsLost(t *testing.T) {
	play(t, "", "10/s burst 100", func(s *scene) {
		admitted := time.Now()
		s.spend(tokens(80))
		time.Sleep(20 * second) // full again
		s.spend(tokens(100))
		require.NoError(s, s.Settle(admitted, tokens(80), tokens(0)))
		time.Sleep(settleWithin)
		synctest.Wait()
		v, err := s.Allow(s.Context(), tokens(50))
		require.NoError(s, err)
		assert.False(s, v.OK)
	})
}

// A store is some way off, and callers stand in line who came before it had said
// anything. What they do not use comes back to those behind them: a bucket that was
// full when they came was empty when they were admitted.
func TestWhatThoseInLineDoNotUseComesBack(t *testing.T) {
	playFar(t, "1000/h", func(t *testing.T, l *Limiter) {
		began := time.Now()
		admitted := make(chan time.Time, 10)
		for range cap(admitted) {
			go func() {
				at, err := l.Admit(t.Context(), requests(200))
				assert.NoError(t, err)
				admitted <- at
			}()
		}
		for range 5 {
			<-admitted
		}
		sixth := <-admitted
		assert.InDelta(t, 12*time.Minute, sixth.Sub(began), float64(second))
		assert.Equal(t, time.Now(), sixth)
		require.NoError(t, l.Settle(sixth, requests(200), Cost{}))
		assert.Less(t, (<-admitted).Sub(sixth), second)
		for range 3 {
			<-admitted
		}
	})
}

// So that all of the limit is used when estimates are twice as high as they should be.
func TestEstimatesThatAreTooHighWasteNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		local := NewLocal()
		defer local.Close()
		c := New(far{local, 5 * time.Millisecond})
		defer c.Close()
		l, err := c.Limiter("k", MustLimits("", "60000/m"), length{})
		require.NoError(t, err)
		const took = 3 * time.Minute
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(took, cancel)
		var used atomic.Int64
		call := WrapUsage(l, func(context.Context, string) (int64, error) {
			used.Add(50)
			time.Sleep(second) // it takes that long
			return 50, nil
		}, func(n int64) (int64, bool) { return n, true })
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				for ctx.Err() == nil {
					call(ctx, strings.Repeat("x", 100))
				}
			})
		}
		all.Wait()
		assert.Greater(t, float64(used.Load()), 0.99*1000*took.Seconds(), "tokens in three minutes, the burst besides")
	})
}

func TestChargeBecomesDebt(t *testing.T) {
	play(t, "", "3600/h", func(s *scene) {
		s.spend(tokens(3600))
		time.Sleep(second)
		require.NoError(s, s.Settle(time.Now(), tokens(3600), tokens(3660)))
		time.Sleep(settleWithin)
		synctest.Wait()
		require.Len(s, s.spy.adjusted, 1)
		assert.Equal(s, tokens(60), s.spy.adjusted[0].Charge)
		s.admittedAt(s.wait(s.Context(), tokens(1)), 61*second)
	})
}

func TestChargeIsTakenFromTheHandFirst(t *testing.T) {
	play(t, "", "1000/h", func(s *scene) {
		s.spy.wants(tokens(500))
		s.spend(tokens(100))
		require.NoError(s, s.Settle(time.Now(), tokens(100), tokens(300)))
		assert.Equal(s, tokens(200), s.Stats().Leased)
		time.Sleep(5 * second)
		synctest.Wait()
		assert.Empty(s, s.spy.adjusted)
		var spent Cost
		for _, d := range s.spy.settled {
			spent = spent.Add(d.Spent)
		}
		assert.Equal(s, tokens(300), spent)
	})
}

// After an error nobody knows whether the store has made an adjustment. To
// charge twice keeps the bound, to return twice would not.
func TestAfterAnErrorChargesAreRepeatedAndReturnsAreNot(t *testing.T) {
	play(t, "100/h", "1000/h", func(s *scene) {
		s.spend(Cost{Requests: 10, Tokens: 100})
		time.Sleep(second)
		s.spy.onAdjust = func(Adjustment) error { return errors.New("no route to host") }
		require.NoError(s, s.Settle(time.Now(), Cost{Requests: 10, Tokens: 100}, Cost{Requests: 4, Tokens: 150}))
		time.Sleep(3 * tick)
		s.spy.fail(nil)
		time.Sleep(10 * second)
		synctest.Wait()
		require.Greater(s, len(s.spy.adjusted), 1)
		assert.Equal(s, requests(6), s.spy.adjusted[0].Return)
		for _, a := range s.spy.adjusted {
			assert.Equal(s, tokens(50), a.Charge)
		}
		for _, a := range s.spy.adjusted[1:] {
			assert.Zero(s, a.Return)
		}
		assert.Less(s, len(s.spy.adjusted), 6, "when it has arrived there is silence")
	})
}

func TestSettleTellsWhatCannotBe(t *testing.T) {
	play(t, "100/h", "1000/h", func(s *scene) {
		assert.ErrorContains(s, s.Settle(time.Now(), tokens(-1), tokens(1)), "want 0 to")
		assert.ErrorContains(s, s.Settle(time.Now(), tokens(1), tokens(-1)), "want 0 to")
		time.Sleep(second)
		synctest.Wait()
		assert.Zero(s, s.spy.exchanges())
	})
}

// What is settled too late is not settled, and the caller hears of it.
func TestSettleAfterClose(t *testing.T) {
	play(t, "", "1000/h", func(s *scene) {
		at, err := s.Admit(s.Context(), tokens(100))
		require.NoError(s, err)
		require.NoError(s, s.choke.Close())
		assert.ErrorIs(s, s.Settle(at, tokens(100), tokens(5000)), ErrClosed)
		assert.NoError(s, s.Settle(at, tokens(100), tokens(100)), "there is nothing to settle")
	})
}

// pupil is an estimator that learns.
type pupil struct{ seen [][2]int64 }

func (*pupil) Estimate(any) (int64, error) { return 100, nil }
func (p *pupil) Observe(estimated, actual int64) {
	p.seen = append(p.seen, [2]int64{estimated, actual})
}

func TestEstimatorsLearnFromSettles(t *testing.T) {
	play(t, "100/h", "1000/h", func(s *scene) {
		var p pupil
		l, err := s.choke.Limiter("k", s.Limits(), &p)
		require.NoError(s, err)
		cost, err := l.Estimate("hello")
		require.NoError(s, err)
		require.Equal(s, Cost{Requests: 1, Tokens: 100}, cost)
		require.NoError(s, l.Wait(s.Context(), cost))
		require.NoError(s, l.Settle(time.Now(), cost, Cost{Requests: 1, Tokens: 130}))
		require.NoError(s, l.Settle(time.Now(), cost, Cost{})) // it was not made: nothing to learn
		assert.Equal(s, [][2]int64{{100, 130}}, p.seen)
	})
}

// The provider says 429. What comes back from the hand comes back before the
// bucket is emptied, not after.
func TestBackoff(t *testing.T) {
	play(t, "100/s", "", func(s *scene) {
		s.spy.wants(requests(100))
		s.spend(requests(1))
		s.spy.onLease = nil
		require.Equal(s, requests(99), s.Stats().Leased)
		require.NoError(s, s.Backoff(s.Context(), 10*second))
		assert.Zero(s, s.Stats().Leased)
		other := s.worker()
		require.NoError(s, other.Wait(s.Context(), requests(1)))
		assert.GreaterOrEqual(s, s.now(), 10*second)
		assert.Less(s, s.now(), 11*second)

		assert.ErrorContains(s, s.Backoff(s.Context(), -second), "empty for")
	})
}

// Nor what a call has not used, and was to be returned with the next exchange.
func TestBackoffAfterASettle(t *testing.T) {
	play(t, "", "1000/m", func(s *scene) {
		began := s.spendTwice(tokens(500))
		require.NoError(s, s.Settle(began, tokens(500), Cost{}))
		require.NoError(s, s.Backoff(s.Context(), 20*second))
		require.NoError(s, s.worker().Wait(s.Context(), tokens(1)))
		assert.GreaterOrEqual(s, s.now(), 22*second)
		assert.Less(s, s.now(), 23*second)
	})
}

// A caller who comes while the store is being told gets nothing of what this worker
// has just given back.
func TestNobodyAsksDuringABackoff(t *testing.T) {
	play(t, "100/s", "", func(s *scene) {
		s.spy.wants(requests(100))
		s.spend(requests(1))
		s.spy.onLease = nil
		before := len(s.spy.asks)
		var w *call
		s.spy.onSettle = func([]Settlement) error {
			w = &call{done: make(chan struct{})}
			go func() {
				defer close(w.done)
				w.err, w.at = s.Wait(s.Context(), requests(1)), s.now()
			}()
			time.Sleep(second)
			assert.Len(s, s.spy.asks, before)
			return nil
		}
		require.NoError(s, s.Backoff(s.Context(), 10*second))
		s.spy.fail(nil)
		<-w.done
		require.NoError(s, w.err)
		assert.GreaterOrEqual(s, w.at, 11*second)
		assert.Less(s, w.at, 12*second)
	})
}

// What is charged is not forgotten when the store cannot be told to back off.
func TestBackoffThatFails(t *testing.T) {
	for _, fail := range []func(*spy){
		func(s *spy) { s.onSettle = func([]Settlement) error { return ErrNoQuorum } },
		func(s *spy) { s.onAdjust = func(Adjustment) error { return ErrNoQuorum } },
	} {
		play(t, "", "1000/h", func(s *scene) {
			began := time.Now()
			s.spy.wants(tokens(20))
			s.spend(tokens(10))
			s.spy.onLease = nil
			require.NoError(s, s.Settle(began, tokens(10), tokens(110))) // 90 more than there are in hand
			fail(s.spy)
			require.ErrorIs(s, s.Backoff(s.Context(), second), ErrNoQuorum)
			s.spy.fail(nil)
			time.Sleep(second)
			synctest.Wait()
			v, err := s.Allow(s.Context(), tokens(891))
			require.NoError(s, err)
			assert.False(s, v.OK, "110 of 1,000 were used")
			v, err = s.Allow(s.Context(), tokens(890))
			require.NoError(s, err)
			assert.True(s, v.OK)
		})
	}
}

func TestWhatBackoffCouldNotReturnGoesBackLater(t *testing.T) {
	play(t, "", "1000/h", func(s *scene) {
		began := time.Now()
		s.spy.wants(tokens(20))
		s.spend(tokens(10))
		require.NoError(s, s.Settle(began, tokens(10), tokens(4)))
		s.spy.onSettle = func([]Settlement) error { return ErrNoQuorum }
		require.ErrorIs(s, s.Backoff(s.Context(), second), ErrNoQuorum)
		s.spy.fail(nil)
		time.Sleep(second)
		synctest.Wait()
		require.Len(s, s.spy.adjusted, 1)
		assert.Equal(s, tokens(6), s.spy.adjusted[0].Return)
	})
}

// What passed without quota was charged to nobody: none of it comes back.
func TestWhatFailedOpenIsNotReturned(t *testing.T) {
	play(t, "", "1000/h", func(s *scene) {
		open, err := s.choke.Open(Config{Key: "k", Limits: s.Limits(), FailOpen: true})
		require.NoError(s, err)
		s.spend(tokens(1000)) // and that was used
		time.Sleep(10 * second)
		v, err := s.Allow(s.Context(), tokens(1000))
		require.NoError(s, err)
		require.False(s, v.OK)
		time.Sleep(second)
		s.spy.fail(ErrNoQuorum)
		began := time.Now()
		require.NoError(s, open.Wait(s.Context(), tokens(1000)))
		time.Sleep(second)
		s.spy.fail(nil)
		require.NoError(s, open.Settle(began, tokens(1000), tokens(10)))
		time.Sleep(10 * second)
		v, err = s.Allow(s.Context(), tokens(900))
		require.NoError(s, err)
		assert.False(s, v.OK, "1,900 tokens admitted by the store's count in an hour's thousand")
	})
}
