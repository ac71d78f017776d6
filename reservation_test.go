package choked

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
)

func tokens(n int64) Cost { return Cost{Tokens: n} }

// reserveTwice spends c, and a second later reserves c again: something of the bucket
// is lacking by then, so that a refund of the second does not overflow it. It returns
// a second after that.
func (s *scene) reserveTwice(c Cost) *Reservation {
	s.Helper()
	s.spend(c)
	time.Sleep(second)
	r := s.reserve(c)
	time.Sleep(second)
	return r
}

// settled waits until the store has been told what was settled.
func (s *scene) settled() {
	time.Sleep(settleWithin)
	synctest.Wait()
}

func TestUnusedQuotaIsRefunded(t *testing.T) {
	play(t, "", "1000/h", func(s *scene) {
		r := s.reserveTwice(tokens(500))
		require.NoError(s, r.Settle(tokens(200)))
		s.settled()
		require.Len(s, s.spy.adjusted, 1)
		assert.Equal(s, tokens(300), s.spy.adjusted[0].Return)
		s.spend(tokens(300))
	})
}

func TestSettlingWhatWasReservedTellsTheStoreNothing(t *testing.T) {
	play(t, "", "1000/h", func(s *scene) {
		require.NoError(s, s.reserveTwice(tokens(500)).Settle(tokens(500)))
		s.settled()
		assert.Empty(s, s.spy.adjusted)
	})
}

// Each way to end a reservation counts once, and only the first one.
func TestTheFirstEndOfAReservationCounts(t *testing.T) {
	settle := func(n int64) func(*Reservation) { return func(r *Reservation) { _ = r.Settle(tokens(n)) } }
	for _, tt := range []struct {
		name   string
		end    []func(*Reservation)
		refund int64
		charge int64
	}{
		{"settle", []func(*Reservation){settle(200)}, 300, 0},
		{"settle twice", []func(*Reservation){settle(200), settle(200)}, 300, 0},
		{"settle three times", []func(*Reservation){settle(200), settle(0), settle(900)}, 300, 0},
		{"settle more twice", []func(*Reservation){settle(600), settle(600)}, 0, 100},
		{"cancel", []func(*Reservation){(*Reservation).Cancel}, 500, 0},
		{"cancel twice", []func(*Reservation){(*Reservation).Cancel, (*Reservation).Cancel}, 500, 0},
		{"settle after cancel", []func(*Reservation){(*Reservation).Cancel, settle(900)}, 500, 0},
		{"cancel after settle", []func(*Reservation){settle(200), (*Reservation).Cancel}, 300, 0},
		{"done after settle", []func(*Reservation){settle(200), (*Reservation).Done}, 300, 0},
		{"settle after done", []func(*Reservation){(*Reservation).Done, settle(0)}, 0, 0},
		{"cancel after done", []func(*Reservation){(*Reservation).Done, (*Reservation).Cancel}, 0, 0},
		{"a usage that cannot be does not count", []func(*Reservation){settle(-1), settle(200)}, 300, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, "", "1000/h", func(s *scene) {
				r := s.reserveTwice(tokens(500))
				for _, end := range tt.end {
					end(r)
				}
				s.settled()
				var refund, charge Cost
				for _, a := range s.spy.adjusted {
					refund, charge = refund.Add(a.Return), charge.Add(a.Charge)
				}
				assert.Equal(s, tokens(tt.refund), refund)
				assert.Equal(s, tokens(tt.charge), charge)
			})
		})
	}
}

func TestSettleFromManyGoroutinesCountsOnce(t *testing.T) {
	play(t, "", "1000/h", func(s *scene) {
		r := s.reserveTwice(tokens(500))
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { assert.NoError(s, r.Settle(tokens(200))) })
			all.Go(r.Cancel)
			all.Go(r.Done)
		}
		all.Wait()
		s.settled()
		var refund int64
		for _, a := range s.spy.adjusted {
			refund += a.Return.Tokens
		}
		assert.Contains(s, []int64{0, 300, 500}, refund, "one of the three ends")
	})
}

// A call that is cancelled or settled before the store knows that its quota was spent
// gets all of the rest back, from a full bucket, too.
func TestARefundBeforeTheLeaseIsSettledIsExact(t *testing.T) {
	for _, tt := range []struct {
		name  string
		want  int64 // leased with each ask; 0: the need
		after time.Duration
	}{
		{"of a lease that is held", 500, 0},
		{"of a lease that is held for a while", 500, 300 * time.Millisecond},
		{"of a lease that is spent and not settled", 0, 0},
		{"of a lease that is spent and about to be settled", 0, settleWithin - time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, "", "1000/h", func(s *scene) {
				if tt.want > 0 {
					s.spy.wants(tokens(tt.want))
				}
				r := s.reserve(tokens(300))
				s.spy.onLease = nil
				time.Sleep(tt.after)
				require.NoError(s, r.Settle(tokens(50)))
				r.Cancel()
				time.Sleep(second)
				synctest.Wait()
				assert.Empty(s, s.spy.adjusted, "the settlement says it all")
				assert.Zero(s, s.out())
				s.spend(tokens(950))
				assert.False(s, s.allow(tokens(1)).OK)
			})
		})
	}
}

// A caller settles each call as often and as late as it likes: the bound holds. With
// receipts that count twice, 130 were admitted of 100.
func TestSettleTwiceRefundsOnce(t *testing.T) {
	play(t, "100/h", "", func(s *scene) {
		s.spend(requests(60))
		time.Sleep(300 * time.Millisecond)
		r := s.reserve(requests(30))
		for range 3 {
			require.NoError(s, r.Settle(Cost{}))
			s.settled()
		}
		used := int64(60)
		for {
			v, err := s.Allow(s.Context(), requests(1))
			require.NoError(s, err)
			if !v.OK {
				break
			}
			used++
		}
		assert.EqualValues(s, 100, used)
	})
}

// However late a call is settled, what was refilled meanwhile is not refunded as
// well: the reservation knows when it was admitted. By a caller's own, later instant,
// 20 were admitted under 5/s burst 10.
func TestALateSettleRefundsNoRefill(t *testing.T) {
	play(t, "5/s burst 10", "", func(s *scene) {
		r := s.reserve(requests(10))
		time.Sleep(10 * second) // full again
		s.spend(requests(10))
		r.Cancel()
		s.settled()
		v, err := s.Allow(s.Context(), requests(2))
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
		admitted := make(chan *Reservation, 10)
		for range cap(admitted) {
			go func() {
				r, err := l.Reserve(t.Context(), requests(200))
				assert.NoError(t, err)
				admitted <- r
			}()
		}
		for range 5 {
			<-admitted
		}
		sixth := <-admitted
		at := time.Now()
		assert.InDelta(t, 12*time.Minute, at.Sub(began), float64(second))
		sixth.Cancel()
		<-admitted
		assert.Less(t, time.Since(at), second)
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
		l, err := c.Limiter("k", MustLimits("tokens 60000/m"), length{})
		require.NoError(t, err)
		const took = 3 * time.Minute
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(took, cancel)
		var used atomic.Int64
		call := WrapUsage(l, func(context.Context, string) (int64, error) {
			used.Add(50)
			time.Sleep(second) // it takes that long
			return 50, nil
		}, func(n int64) (Cost, bool) { return tokens(n), true })
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
		r := s.reserve(tokens(3600))
		time.Sleep(second)
		require.NoError(s, r.Settle(tokens(3660)))
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
		r := s.reserve(tokens(100))
		require.NoError(s, r.Settle(tokens(300)))
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
		r := s.reserve(Cost{Requests: 10, Tokens: 100})
		time.Sleep(second)
		s.spy.onAdjust = func(Adjustment) error { return errors.New("no route to host") }
		require.NoError(s, r.Settle(Cost{Requests: 4, Tokens: 150}))
		time.Sleep(3 * reviewEvery)
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

func TestSettleRefusesANegativeUsage(t *testing.T) {
	play(t, "100/h", "1000/h", func(s *scene) {
		r := s.reserve(Cost{Requests: 1, Tokens: 10})
		before := s.spy.exchanges()
		for _, usage := range []Cost{tokens(-1), requests(-1), {Requests: math.MinInt64, Tokens: math.MinInt64}} {
			err := r.Settle(usage)
			assert.ErrorIs(s, err, ErrUsage)
			assert.ErrorContains(s, err, usage.String())
			assert.ErrorContains(s, err, `"k"`)
		}
		assert.EqualValues(s, 3, s.Stats().InvalidUsage)
		assert.Equal(s, before, s.spy.exchanges())
	})
}

// A usage beyond all sense, such as bytes in place of tokens, does not stop the key
// for weeks: ten bursts are charged, and the error says so.
func TestSettleBoundsAnAbsurdUsage(t *testing.T) {
	for _, tt := range []struct {
		name           string
		most, reserved int64
		actual, charge int64
		is             error
	}{
		{"more than was reserved", 0, 100, 900, 800, nil},
		{"ten bursts more", 0, 100, 10_100, 10_000, nil},
		{"one more than that", 0, 100, 10_101, 10_000, ErrUsage},
		{"a billion", 0, 100, 1_000_000_000_000, 10_000, ErrUsage},
		{"beyond every count", 0, 100, math.MaxInt64, 10_000, ErrUsage},
		{"bounded by one burst", 1, 100, 5000, 1000, ErrUsage},
		{"bounded by more than there can be", math.MaxInt64, 100, math.MaxInt64, bucket.MaxUnits - 100, ErrUsage},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, "", "1000/h", func(s *scene) {
				l, err := s.choke.Open(LimiterConfig{Key: "k", Limits: s.Limits(), MaxOveruse: tt.most})
				require.NoError(s, err)
				r, err := l.Reserve(s.Context(), tokens(tt.reserved))
				require.NoError(s, err)
				err = r.Settle(tokens(tt.actual))
				if tt.is == nil {
					assert.NoError(s, err)
				} else {
					assert.ErrorIs(s, err, tt.is)
					assert.ErrorContains(s, err, fmt.Sprint(tt.actual, " tokens"))
					assert.ErrorContains(s, err, fmt.Sprint("charged ", tt.charge+tt.reserved, " tokens"))
				}
				assert.NoError(s, r.Settle(tokens(tt.actual)), "it is settled")
				s.settled()
				require.Len(s, s.spy.adjusted, 1)
				assert.Equal(s, tokens(tt.charge), s.spy.adjusted[0].Charge)
			})
		})
	}
}

// A settlement after Close of the Choke is too late, and the caller is told.
func TestSettleAfterCloseIsTooLate(t *testing.T) {
	play(t, "", "1000/h", func(s *scene) {
		r, same := s.reserve(tokens(100)), s.reserve(tokens(100))
		cancelled := s.reserve(tokens(100))
		require.NoError(s, s.choke.Close())
		assert.ErrorIs(s, r.Settle(tokens(5000)), ErrClosed)
		assert.NoError(s, same.Settle(tokens(100)), "there is nothing to settle")
		cancelled.Cancel()
		cancelled.Done()
		assert.Empty(s, s.spy.adjusted)
	})
}

// Calls that were admitted are settled after Close of their limiter, and their quota
// is returned and charged.
func TestSettleAfterTheLimiterIsClosed(t *testing.T) {
	play(t, "", "1000/h", func(s *scene) {
		more, less := s.reserveTwice(tokens(100)), s.reserve(tokens(100))
		time.Sleep(second) // the leases are settled
		require.NoError(s, s.Close())
		require.NoError(s, more.Settle(tokens(400)))
		require.NoError(s, less.Settle(tokens(60)))
		s.settled()
		var refund, charge Cost
		for _, a := range s.spy.adjusted {
			refund, charge = refund.Add(a.Return), charge.Add(a.Charge)
		}
		assert.Equal(s, tokens(40), refund)
		assert.Equal(s, tokens(300), charge)
	})
}

// pupil is an estimator that learns.
type pupil struct{ seen [][2]Cost }

func (*pupil) Estimate(any) (Cost, error) { return tokens(100), nil }
func (p *pupil) Observe(estimated, actual Cost) {
	p.seen = append(p.seen, [2]Cost{estimated, actual})
}

func TestEstimatorsLearnFromSettles(t *testing.T) {
	play(t, "100/h", "1000/h", func(s *scene) {
		var p pupil
		l, err := s.choke.Limiter("k", s.Limits(), &p)
		require.NoError(s, err)
		cost, err := l.Estimate("hello")
		require.NoError(s, err)
		require.Equal(s, Cost{Requests: 1, Tokens: 100}, cost)
		for _, end := range []func(*Reservation){
			func(r *Reservation) { require.NoError(s, r.Settle(Cost{Requests: 1, Tokens: 130})) },
			(*Reservation).Cancel, // it was not made: there is nothing to learn
			(*Reservation).Done,   // its usage is not known
			func(r *Reservation) { require.ErrorIs(s, r.Settle(tokens(1<<40)), ErrUsage) },
		} {
			r, err := l.Reserve(s.Context(), cost)
			require.NoError(s, err)
			end(r)
		}
		assert.Equal(s, [][2]Cost{{{Requests: 1, Tokens: 100}, {Requests: 1, Tokens: 130}}}, p.seen)
	})
}

// The provider says 429. What comes back from the hand comes back before the
// bucket is emptied, not after.
func TestCooldown(t *testing.T) {
	play(t, "100/s", "", func(s *scene) {
		s.spy.wants(requests(100))
		s.spend(requests(1))
		s.spy.onLease = nil
		require.Equal(s, requests(99), s.Stats().Leased)
		require.NoError(s, s.Cooldown(s.Context(), 10*second))
		assert.Zero(s, s.Stats().Leased)
		other := s.worker()
		require.NoError(s, other.Wait(s.Context(), requests(1)))
		assert.GreaterOrEqual(s, s.now(), 10*second)
		assert.Less(s, s.now(), 11*second)

		assert.ErrorContains(s, s.Cooldown(s.Context(), -second), "empty for")
	})
}

// Nor what a call has not used, and was to be returned with the next exchange.
func TestCooldownAfterASettle(t *testing.T) {
	play(t, "", "1000/m", func(s *scene) {
		s.reserveTwice(tokens(500)).Cancel()
		require.NoError(s, s.Cooldown(s.Context(), 20*second))
		require.NoError(s, s.worker().Wait(s.Context(), tokens(1)))
		assert.GreaterOrEqual(s, s.now(), 22*second)
		assert.Less(s, s.now(), 23*second)
	})
}

// A caller who comes while the store is being told gets nothing of what this worker
// has just given back.
func TestNobodyAsksDuringACooldown(t *testing.T) {
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
		require.NoError(s, s.Cooldown(s.Context(), 10*second))
		s.spy.fail(nil)
		<-w.done
		require.NoError(s, w.err)
		assert.GreaterOrEqual(s, w.at, 11*second)
		assert.Less(s, w.at, 12*second)
	})
}

// What is charged is not forgotten when the store cannot be told to back off.
func TestCooldownThatFails(t *testing.T) {
	for _, fail := range []func(*spy){
		func(s *spy) { s.onSettle = func([]Settlement) error { return ErrNoQuorum } },
		func(s *spy) { s.onAdjust = func(Adjustment) error { return ErrNoQuorum } },
	} {
		play(t, "", "1000/h", func(s *scene) {
			s.spy.wants(tokens(20))
			r := s.reserve(tokens(10))
			s.spy.onLease = nil
			require.NoError(s, r.Settle(tokens(110))) // 90 more than are held
			fail(s.spy)
			require.ErrorIs(s, s.Cooldown(s.Context(), second), ErrNoQuorum)
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

func TestWhatCooldownCouldNotReturnGoesBackLater(t *testing.T) {
	play(t, "", "1000/h", func(s *scene) {
		r := s.reserve(tokens(10))
		time.Sleep(second) // its lease is settled
		s.spy.wants(tokens(20))
		s.spend(tokens(1))
		require.NoError(s, r.Settle(tokens(4)))
		s.spy.onSettle = func([]Settlement) error { return ErrNoQuorum }
		require.ErrorIs(s, s.Cooldown(s.Context(), second), ErrNoQuorum)
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
		open, err := s.choke.Open(LimiterConfig{Key: "k", Limits: s.Limits(), FailOpen: true})
		require.NoError(s, err)
		s.spend(tokens(1000)) // and that was used
		time.Sleep(10 * second)
		v, err := s.Allow(s.Context(), tokens(1000))
		require.NoError(s, err)
		require.False(s, v.OK)
		time.Sleep(second)
		s.spy.fail(ErrNoQuorum)
		r, err := open.Reserve(s.Context(), tokens(1000))
		require.NoError(s, err)
		time.Sleep(second)
		s.spy.fail(nil)
		require.NoError(s, r.Settle(tokens(10)))
		time.Sleep(10 * second)
		v, err = s.Allow(s.Context(), tokens(900))
		require.NoError(s, err)
		assert.False(s, v.OK, "1,900 tokens admitted by the store's count in an hour's thousand")
	})
}
