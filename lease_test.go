package choked

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
)

// out returns the quota that the workers of the scene hold on leases.
func (s *scene) out() Cost {
	b, _ := s.info()
	return b.Leased
}

// busy spends n requests a second for d.
func (s *scene) busy(n int, d time.Duration) {
	for end := s.now() + d; s.now() < end; time.Sleep(second / time.Duration(n)) {
		require.NoError(s, s.Wait(s.Context(), requests(1)))
	}
}

// A store with quota to spare grants more than was needed when demand asks for
// it, so that most calls need no exchange.
func TestABusyWorkerHoldsLeases(t *testing.T) {
	play(t, "10000/s", "", func(s *scene) {
		s.busy(1000, second)
		before := s.spy.exchanges()
		s.busy(1000, second)
		assert.LessOrEqual(s, s.spy.exchanges()-before, 25, "exchanges for 1,000 calls")
		assert.NotZero(s, s.Stats().Leased)
	})
}

func TestIdleLeasesGoBack(t *testing.T) {
	play(t, "10000/s", "", func(s *scene) {
		s.busy(1000, second)
		require.NotZero(s, s.out())
		time.Sleep(idleAfter + 2*reviewEvery)
		assert.Zero(s, s.out(), "after half a second without a call")
		assert.Zero(s, s.Stats().Leased)
		before := s.spy.exchanges()
		time.Sleep(time.Hour)
		assert.Equal(s, before, s.spy.exchanges(), "then there is silence")
	})
}

// As long as it is used, a lease stays: what is used slowly needs few exchanges.
func TestALeaseInUseStays(t *testing.T) {
	play(t, "10000/s", "", func(s *scene) {
		s.busy(4, second)
		require.Equal(s, 1, s.spy.exchanges(), "for a call every 250 ms")
		time.Sleep(idleAfter + 2*reviewEvery)
		assert.Zero(s, s.out())
	})
}

func TestLeasesFollowDemandDown(t *testing.T) {
	play(t, "10000/s", "", func(s *scene) {
		s.busy(5000, second)
		require.Greater(s, s.out().Requests, int64(150))
		s.busy(10, 2*second)
		assert.LessOrEqual(s, s.out().Requests, int64(100), "what is restored in ten milliseconds")
	})
}

// Nobody misses what the store has again in ten milliseconds. With it a worker
// that calls now and then, on each of many keys, does without most exchanges.
func TestALittleIsLeasedWhateverTheDemand(t *testing.T) {
	for _, tt := range []struct {
		rate        string
		least, most int
	}{{"10000/s", 2, 10}, {"100/s", 18, 21}} {
		play(t, tt.rate, "", func(s *scene) {
			s.busy(10, 2*second)
			assert.GreaterOrEqual(s, s.spy.exchanges(), tt.least, "exchanges for 20 calls at %s", tt.rate)
			assert.LessOrEqual(s, s.spy.exchanges(), tt.most, "exchanges for 20 calls at %s", tt.rate)
		})
	}
}

// A lease that is used up is settled soon, so that the store knows what is out.
func TestASpentLeaseIsSettledSoon(t *testing.T) {
	play(t, "100/m", "", func(s *scene) {
		s.spend(requests(1))
		time.Sleep(settleWithin)
		synctest.Wait()
		require.Len(s, s.spy.settled, 1)
		assert.Equal(s, requests(1), s.spy.settled[0].Spent)
		assert.Equal(s, settleWithin, s.spy.settled[0].at)
	})
}

// What is refilled in a moment may stay out for longer: the next ask settles it.
func TestALittleThatIsSpentWaitsForTheNextAsk(t *testing.T) {
	play(t, "100/s", "", func(s *scene) {
		s.spend(requests(1))
		time.Sleep(settleSpentAfter)
		synctest.Wait()
		require.Len(s, s.spy.settled, 1)
		assert.Equal(s, settleSpentAfter, s.spy.settled[0].at)
	})
}

// With a burst that refills in no time 50 ms would be most of the limit.
func TestASpentLeaseOfASmallBurstIsSettledAtOnce(t *testing.T) {
	play(t, "50/s burst 1", "", func(s *scene) {
		time.Sleep(second)
		s.spend(requests(1))
		synctest.Wait()
		require.Len(s, s.spy.settled, 1)
		assert.Equal(s, second, s.spy.settled[0].at)
	})
}

func TestSettlementsTravelWithAsks(t *testing.T) {
	play(t, "100/m", "", func(s *scene) {
		for range 5 {
			s.spend(requests(1))
			time.Sleep(settleWithin / 2)
		}
		synctest.Wait()
		assert.Len(s, s.spy.asks, 5)
		assert.Len(s, s.spy.settled, 4, "the fifth is still in hand")
		assert.Zero(s, s.spy.alone, "no exchange for settlements only")
	})
}

// What the store did not hear it is told again, until it does.
func TestSettlementsSurviveTheStoresErrors(t *testing.T) {
	play(t, "100/m", "", func(s *scene) {
		s.spend(requests(1))
		s.spy.fail(errors.New("no route to host"))
		require.Error(s, s.Wait(s.Context(), requests(2))) // took the settlement along
		time.Sleep(second)
		require.Equal(s, requests(1), s.out())
		s.spy.fail(nil)
		time.Sleep(reviewEvery + settleWithin)
		assert.Zero(s, s.out())
		last := s.spy.settled[len(s.spy.settled)-1]
		assert.Equal(s, requests(1), last.Spent)
	})
}

// A process can be stopped and go on, a machine sleep and wake up. What was in
// hand before is no longer valid then, and what of it was spent is reported.
func TestNothingIsSpentFromALeaseThatIsOver(t *testing.T) {
	play(t, "100/h", "", func(s *scene) {
		var slept time.Duration
		s.choke.worker.Clock = boottime.Distorted(func(ns int64) int64 { return ns + int64(slept) })
		s.spend(requests(1))
		s.busy(100, second/2) // it holds some by now
		held := s.Stats().Leased.Requests
		require.NotZero(s, held)
		before := len(s.spy.asks)

		slept = bucket.TTL
		s.spend(requests(1))
		assert.Len(s, s.spy.asks, before+1, "one more request, although there were some in hand")
		var spent int64
		for _, d := range s.spy.settled {
			spent += d.Spent.Requests
		}
		assert.Equal(s, s.Stats().Spent.Requests-1, spent, "all that was spent from leases that are over is reported")
	})
}

// What is promised ahead of its refill is not spent before that, by a fast
// clock either.
func TestPromisedQuotaRipens(t *testing.T) {
	for name, rate := range map[string]int64{"true": 0, "fast": 1, "slow": -1} {
		t.Run(name, func(t *testing.T) {
			play(t, "1/s burst 3", "", func(s *scene) {
				s.choke.worker.Clock = boottime.Distorted(func(ns int64) int64 { return ns + rate*ns/100 })
				s.spend(requests(3))
				for i := range 5 {
					w := s.wait(s.Context(), requests(1))
					<-w.done
					require.NoError(s, w.err)
					require.GreaterOrEqual(s, w.at, time.Duration(i+1)*second)
					require.Less(s, w.at, time.Duration(i+1)*second+second/4)
				}
			})
		})
	}
}

// Half of what a large cost needs is of no use, and would be lost before the
// other half comes. It goes back, and is there when its turn comes.
func TestWhatIsLeftForPartOfACostIsNotLost(t *testing.T) {
	play(t, "10/m", "", func(s *scene) {
		s.spy.wants(requests(8))
		s.spend(requests(5)) // 3 are left in hand, 2 in the bucket
		s.spy.onLease = nil
		s.admittedAt(s.wait(s.Context(), requests(7)), 12*second)
	})
}

// The small ones of another worker do not pass by a large one for ever.
func TestALargeCostIsNotStarved(t *testing.T) {
	play(t, "10/m", "", func(s *scene) {
		s.spend(requests(10))
		other := s.worker()
		ctx, cancel := context.WithCancel(s.Context())
		small := 0
		go func() {
			for other.Wait(ctx, requests(1)) == nil {
				small++
			}
		}()
		time.Sleep(20 * second)
		large := s.wait(s.Context(), requests(10))
		<-large.done
		require.NoError(s, large.err)
		assert.LessOrEqual(s, large.at, 95*second, "20 s later than the first, and a minute of refill, and some small ones before")
		cancel()
		synctest.Wait()
		total := 10 + 10 + small
		assert.GreaterOrEqual(s, float64(total), (10+s.now().Minutes()*10)*0.95, "and none of the limit is lost by it")
	})
}
