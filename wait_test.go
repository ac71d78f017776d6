package choked

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWaitIsFirstComeFirstServed(t *testing.T) {
	play(t, "1/s burst 3", "", func(s *scene) {
		s.spend(requests(3))
		small := s.wait(s.Context(), requests(1))
		large := s.wait(s.Context(), requests(3))
		last := s.wait(s.Context(), requests(1))
		s.admittedAt(small, 1*second)
		s.admittedAt(large, 4*second) // nobody small passes it by
		s.admittedAt(last, 5*second)
	})
}

func hasNoTime(s *scene, err error) {
	s.Helper()
	require.ErrorIs(s, err, ErrDeadline)
	require.ErrorIs(s, err, context.DeadlineExceeded)
}

func TestADeadlineThatCannotBeMetFailsAtOnce(t *testing.T) {
	play(t, "1/s burst 3", "", func(s *scene) {
		s.spend(requests(3))
		hasNoTime(s, s.Wait(within(s.T, 1900*time.Millisecond), requests(2)))
		assert.Zero(s, s.now(), "it knows at once")
		s.admittedAt(s.wait(within(s.T, 2100*time.Millisecond), requests(2)), 2*second) // and nothing was spent by it
		assert.EqualValues(s, 1, s.Stats().Refused)
	})
}

// Whoever is not first in line counts those before it.
// What is in hand and not ripe counts as what it is: there later.
func TestADeadlineBeforeWhatIsInHandIsRipeFailsAtOnce(t *testing.T) {
	play(t, "1/s", "", func(s *scene) {
		s.spend(requests(1))
		ctx, cancel := context.WithCancel(s.Context())
		gone := s.wait(ctx, requests(1))
		cancel()
		require.True(s, gone.returned())
		require.NotZero(s, s.Stats().Leased, "promised to who is gone")
		before := s.now()
		assert.ErrorIs(s, s.Wait(within(s.T, 300*time.Millisecond), requests(1)), ErrDeadline)
		assert.Equal(s, before, s.now())
		s.admittedAt(s.wait(within(s.T, 2*second), requests(1)), second)
	})
}

func TestADeadlineBehindOthersFailsAtOnce(t *testing.T) {
	play(t, "1/s burst 3", "", func(s *scene) {
		s.spend(requests(3))
		first := s.wait(s.Context(), requests(3))
		hasNoTime(s, s.Wait(within(s.T, 3900*time.Millisecond), requests(1)))
		assert.Zero(s, s.now())
		second := s.wait(within(s.T, 4200*time.Millisecond), requests(1))
		s.admittedAt(first, 3*time.Second)
		s.admittedAt(second, 4*time.Second)
	})
}

// The same in a worker that has not heard of the bucket before: it asks how
// things stand.
func TestADeadlineBehindOthersInANewWorker(t *testing.T) {
	play(t, "6/m", "", func(s *scene) {
		s.spend(requests(6))
		require.NoError(s, s.choke.Close())
		l := s.worker()
		go l.Wait(s.Context(), requests(3)) // for half a minute
		synctest.Wait()
		hasNoTime(s, l.Wait(within(s.T, 39*second), requests(1)))
		assert.Zero(s, s.now())
	})
}

// Nor does one that is judged by what the store said before this worker gave most of
// its quota back.
func TestADeadlineBehindOthersAfterAReturn(t *testing.T) {
	play(t, "", "60000/h", func(s *scene) {
		s.spend(tokens(45000))
		time.Sleep(second)
		r := s.reserve(tokens(10000))
		time.Sleep(second)
		r.Cancel()
		time.Sleep(second)
		first := s.wait(s.Context(), tokens(20000))
		require.False(s, first.returned())
		require.NoError(s, s.Wait(within(s.T, 6*time.Minute), tokens(100)), "it is its turn in five minutes")
	})
}

// A deadline that looked long enough ends the wait when it comes.
func TestADeadlineEndsTheWait(t *testing.T) {
	play(t, "1/s burst 3", "", func(s *scene) {
		s.spend(requests(3))
		w := s.wait(within(s.T, 3*second+time.Second/2), requests(3))
		require.NoError(s, s.spy.Store.Adjust(s.Context(), Adjustment{Key: "k", Limits: s.Limits(), Charge: requests(3)}))
		<-w.done
		hasNoTime(s, w.err)
		assert.LessOrEqual(s, w.at, 3*second+time.Second/2)
	})
}

// One with less time gives up. The one behind it, who has all the time, takes
// over its place at the store and not its deadline.
func TestADeadlineIsOnesOwn(t *testing.T) {
	play(t, "1/s burst 3", "", func(s *scene) {
		s.spend(requests(3))
		ctx, cancel := context.WithCancel(within(s.T, 3200*time.Millisecond))
		hasty := s.wait(ctx, requests(3))
		patient := s.wait(s.Context(), requests(3))
		time.Sleep(second)
		cancel()
		<-hasty.done
		require.ErrorIs(s, hasty.err, context.Canceled)
		require.NoError(s, s.spy.Store.Adjust(s.Context(), Adjustment{Key: "k", Limits: s.Limits(), Charge: requests(3)}))
		s.admittedAt(patient, 6*second)
	})
}

func TestACancelledWaiterLeavesNoTrace(t *testing.T) {
	t.Run("first in line", func(t *testing.T) {
		play(t, "1/s burst 3", "", func(s *scene) {
			s.spend(requests(3))
			ctx, cancel := context.WithCancel(s.Context())
			first := s.wait(ctx, requests(3))
			next := s.wait(s.Context(), requests(1))
			time.Sleep(second / 2)
			cancel()
			require.True(s, first.returned())
			require.ErrorIs(s, first.err, context.Canceled)
			assert.Equal(s, second/2, first.at)
			s.admittedAt(next, 1*second) // as if it had been alone
			time.Sleep(5 * second)
			s.spend(requests(3)) // all of it is there again
		})
	})
	t.Run("in the middle", func(t *testing.T) {
		play(t, "1/s burst 3", "", func(s *scene) {
			s.spend(requests(3))
			ctx, cancel := context.WithCancel(s.Context())
			first := s.wait(s.Context(), requests(1))
			middle := s.wait(ctx, requests(3))
			last := s.wait(s.Context(), requests(1))
			cancel()
			s.admittedAt(first, 1*second)
			s.admittedAt(last, 2*second)
			<-middle.done
			assert.ErrorIs(s, middle.err, context.Canceled)
		})
	})
	t.Run("before one whom what is in hand will serve now", func(t *testing.T) {
		play(t, "1/s burst 10", "", func(s *scene) {
			s.spend(requests(10))
			ctx, cancel := context.WithCancel(s.Context())
			first := s.wait(ctx, requests(5))
			time.Sleep(4*second + second/2) // it is promised, and not ripe
			next := s.wait(s.Context(), requests(5))
			last := s.wait(s.Context(), requests(1))
			cancel()
			require.True(s, first.returned())
			s.admittedAt(next, 5*second)
			s.admittedAt(last, 6*second) // and not when 5 are there, as next would have asked for
		})
	})
	t.Run("the only one", func(t *testing.T) {
		play(t, "1/s burst 3", "", func(s *scene) {
			s.spend(requests(3))
			ctx, cancel := context.WithCancel(s.Context())
			s.wait(ctx, requests(3))
			cancel()
			synctest.Wait()
			assert.Zero(s, s.Stats().Waiting)
			other := s.worker() // whose turn comes as if nobody had asked
			require.NoError(s, other.Wait(s.Context(), requests(1)))
			assert.InDelta(s, 1*second, s.now(), float64(second/20))
		})
	})
	t.Run("served by what is in hand, and the next by the store", func(t *testing.T) {
		play(t, "1/s burst 8", "", func(s *scene) {
			s.spend(requests(8))
			time.Sleep(second / 2)
			ctx, cancel := context.WithCancel(s.Context())
			first := s.wait(ctx, requests(1))        // promised already
			next := s.wait(s.Context(), requests(1)) // would have that place
			cancel()
			require.True(s, first.returned())
			s.admittedAt(next, 1*second)
			time.Sleep(9 * second)
			s.spend(requests(8))
		})
	})
}

// The instant at which a waiter is admitted is the instant at which it gives
// up: whichever it is told, its quota is spent or it is back.
func TestCancelledAtTheInstantOfAdmission(t *testing.T) {
	gaveUp := 0
	for range 50 {
		play(t, "1/s burst 3", "", func(s *scene) {
			s.spend(requests(3))
			w := s.wait(s.Context(), requests(1))
			<-w.done // now we know the instant
			time.Sleep(10 * second)
			s.spend(requests(3))
			ctx, cancel := context.WithCancel(s.Context())
			time.AfterFunc(w.at, cancel)
			w = s.wait(ctx, requests(1))
			<-w.done
			if w.err != nil {
				gaveUp++
				require.ErrorIs(s, w.err, context.Canceled)
			}
			time.Sleep(settleWithin) // then the store knows, too
			synctest.Wait()
			v, err := s.Allow(s.Context(), requests(1))
			require.NoError(s, err)
			assert.Equal(s, w.err != nil, v.OK, "is there one left")
			assert.Equal(s, requests(3+1+3+1), s.Stats().Spent)
		})
	}
	assert.NotZero(t, gaveUp, "the two never met")
}

func TestNobodyPolls(t *testing.T) {
	play(t, "1/h", "", func(s *scene) {
		s.spend(requests(1))
		w := s.wait(s.Context(), requests(1))
		before := s.spy.exchanges()
		s.admittedAt(w, time.Hour)
		assert.LessOrEqual(s, s.spy.exchanges()-before, 5, "exchanges in an hour of waiting")
	})
}

// What somebody has waited minutes for can still be spent when it comes: a lease
// does not run out in line, and nobody goes back to the end of it.
func TestWhoWaitsForLongKeepsItsTurn(t *testing.T) {
	play(t, "1/10m", "", func(s *scene) {
		other := New(s.spy)
		defer other.Close()
		l, err := other.Limiter("k", s.Limits(), nil)
		require.NoError(s, err)
		s.spend(requests(1))
		time.Sleep(second) // it is settled
		first := s.wait(s.Context(), requests(1))
		before := len(s.spy.asks)
		time.Sleep(second)
		late := make(chan time.Duration, 1)
		go func() {
			assert.NoError(s, l.Wait(s.Context(), requests(1)))
			late <- s.now()
		}()
		s.admittedAt(first, 10*time.Minute)
		assert.Equal(s, 20*time.Minute, (<-late).Round(time.Second))
		assert.Equal(s, 1, len(s.spy.asks)-before, "one ask for each of them")
	})
}

func TestCostsThatCannotBe(t *testing.T) {
	play(t, "5/s", "1000/m", func(s *scene) {
		for _, tt := range []struct {
			cost Cost
			is   error
			says []string
		}{
			{Cost{Requests: 6}, ErrCostExceedsBurst, []string{`"k"`, "6 requests", "5"}},
			{Cost{Requests: 1, Tokens: 1001}, ErrCostExceedsBurst, []string{"1001 tokens", "1000"}},
			{Cost{Tokens: 1 << 62}, ErrCostExceedsBurst, []string{"4611686018427387904 tokens", "1000"}},
			{Cost{Requests: -1}, nil, []string{"-1 requests", "want 0 to"}},
			{Cost{Tokens: -1 << 63}, nil, []string{"want 0 to"}},
		} {
			_, allow := s.Allow(s.Context(), tt.cost)
			for _, err := range []error{s.Wait(s.Context(), tt.cost), allow} {
				require.Error(s, err, "%v", tt.cost)
				if tt.is != nil {
					assert.ErrorIs(s, err, tt.is)
				}
				for _, want := range tt.says {
					assert.ErrorContains(s, err, want)
				}
				assert.NotContains(s, err.Error(), "\n", "an error is one line")
			}
		}
		assert.Zero(s, s.now())
		assert.Zero(s, s.spy.exchanges(), "nobody needs to be asked")
		assert.EqualValues(s, 10, s.Stats().Refused)
	})
}

func TestAContextThatIsDone(t *testing.T) {
	play(t, "5/s", "", func(s *scene) {
		why := errors.New("the user went home")
		gone, cancel := context.WithCancelCause(s.Context())
		cancel(why)
		err := s.Wait(gone, requests(1))
		assert.ErrorIs(s, err, context.Canceled)
		assert.ErrorIs(s, err, why)
		_, err = s.Allow(gone, requests(1))
		assert.ErrorIs(s, err, context.Canceled)

		late, cancel2 := context.WithDeadline(s.Context(), time.Now().Add(-second))
		defer cancel2()
		hasNoTime(s, s.Wait(late, requests(1)))
		assert.Zero(s, s.spy.exchanges())
	})
}

// What takes nothing delays nobody.
func TestACostOfNothing(t *testing.T) {
	play(t, "", "60/m", func(s *scene) {
		s.spend(Cost{})
		assert.Zero(s, s.spy.exchanges())
		s.spend(Cost{Tokens: 60})
		s.wait(s.Context(), Cost{Tokens: 60})
		s.spend(Cost{})
		s.spend(Cost{Requests: 1_000_000}) // requests are not limited here
	})
}
