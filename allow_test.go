package choked

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// allow asks for c, and no time passes.
func (s *scene) allow(c Cost) Verdict {
	s.Helper()
	before := s.now()
	v, err := s.Allow(s.Context(), c)
	require.NoError(s, err)
	require.Equal(s, before, s.now(), "Allow waited for quota")
	if v.OK {
		require.Zero(s, v.RetryAfter)
	} else {
		require.Positive(s, v.RetryAfter)
	}
	return v
}

// Whoever comes again when it was told to, is admitted if nobody else came.
func TestAllowTellsWhenToComeAgain(t *testing.T) {
	for _, tt := range []struct {
		name, requests, tokens string
		spend, cost            Cost
		after                  time.Duration
	}{
		{"a unit a second", "1/s burst 3", "", requests(3), requests(1), second},
		{"several at once", "1/s burst 3", "", requests(3), requests(3), 3 * second},
		{"strict spacing", "50/s burst 1", "", requests(1), requests(1), 20 * time.Millisecond},
		{"a slow limit", "10/h", "", requests(10), requests(2), 12 * time.Minute},
		{"tokens bind", "50/s", "600/m", Cost{Requests: 1, Tokens: 600}, Cost{Requests: 1, Tokens: 100}, 10 * second},
		{"two rates on one unit", "20/s,60/m", "", requests(20), requests(20), second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, tt.requests, tt.tokens, func(s *scene) {
				s.spend(tt.spend)
				v := s.allow(tt.cost)
				require.False(s, v.OK)
				assert.InDelta(s, tt.after, v.RetryAfter, float64(tt.after/25+settleWithin))
				time.Sleep(v.RetryAfter)
				assert.True(s, s.allow(tt.cost).OK)
			})
		})
	}
}

// A full bucket gives its whole burst at once, also where the time of a unit is no
// whole number of nanoseconds.
func TestAllowOfAWholeBurst(t *testing.T) {
	for _, limit := range []string{"3/s burst 1", "7/s burst 1", "999/s burst 2", "13/s burst 100", "3/s", "50/s"} {
		t.Run(limit, func(t *testing.T) {
			play(t, limit, "", func(s *scene) {
				assert.True(s, s.allow(s.Limits().Burst()).OK)
			})
		})
	}
}

func TestAllowNeverOvertakes(t *testing.T) {
	play(t, "1/s burst 3", "", func(s *scene) {
		s.spend(requests(3))
		time.Sleep(2*second + second/10)
		large := s.wait(s.Context(), requests(3)) // 2 are there, it waits for the third
		v := s.allow(requests(1))
		assert.False(s, v.OK)
		assert.InDelta(s, 2*second, v.RetryAfter, float64(second/5), "one for the waiter, one for the caller")
		s.admittedAt(large, 3*second)
	})
}

// playFar is a limiter in a bubble, whose store is 20 ms away, there and back.
func playFar(t *testing.T, limit string, f func(*testing.T, *Limiter)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		local := NewLocal()
		defer local.Close()
		c := New(far{local, 20 * time.Millisecond})
		defer c.Close()
		l, err := c.Limiter("k", MustLimits("requests "+limit), nil)
		require.NoError(t, err)
		f(t, l)
	})
}

// Nobody who does not wait stands behind one who does, also when both come
// while the store is being asked.
func TestAllowNeverQueues(t *testing.T) {
	playFar(t, "1/m burst 3", func(t *testing.T, l *Limiter) {
		require.NoError(t, l.Wait(t.Context(), requests(2)))

		ctx, cancel := context.WithCancel(t.Context())
		go l.Wait(ctx, requests(3)) // for two minutes
		synctest.Wait()
		began := time.Now()
		v, err := l.Allow(t.Context(), requests(1))
		require.NoError(t, err)
		assert.False(t, v.OK)
		assert.LessOrEqual(t, time.Since(began), 40*time.Millisecond)
		cancel()
		time.Sleep(second) // the far store takes its time to hear of it
	})
}

// One who does not wait goes before the store has answered. Who stands behind it,
// and has the time, is not turned away by that answer.
func TestAllowThatIsCancelledTurnsNobodyAway(t *testing.T) {
	playFar(t, "1/s burst 3", func(t *testing.T, l *Limiter) {
		require.NoError(t, l.Wait(t.Context(), requests(3)))
		time.Sleep(second / 2) // what it began is over

		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
		defer cancel()
		go l.Allow(ctx, requests(2))
		synctest.Wait()
		require.NoError(t, l.Wait(t.Context(), requests(2)))
		require.ErrorIs(t, ctx.Err(), context.DeadlineExceeded)
	})
}

// Those who come together, and before anything is in hand, are served together.
func TestAllowBesideAllow(t *testing.T) {
	playFar(t, "1/m burst 5", func(t *testing.T, l *Limiter) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		ok := 0
		began := time.Now()
		for range 8 {
			wg.Go(func() {
				v, err := l.Allow(t.Context(), requests(1))
				mu.Lock()
				defer mu.Unlock()
				if assert.NoError(t, err) && v.OK {
					ok++
				}
			})
		}
		wg.Wait()
		assert.Equal(t, 5, ok, "of 8, from a burst of 5")
		assert.LessOrEqual(t, time.Since(began), 100*time.Millisecond, "a few round trips")
	})
}

// A refusal of much does not stand for a refusal of little.
func TestAllowOfLessThanWasRefused(t *testing.T) {
	play(t, "1/m burst 5", "", func(s *scene) {
		s.spend(requests(3))
		assert.False(s, s.allow(requests(4)).OK)
		assert.True(s, s.allow(requests(2)).OK)
		assert.False(s, s.allow(requests(1)).OK)
	})
}

func TestAllowBeyondTheLimitMakesNoExchanges(t *testing.T) {
	play(t, "10/m", "", func(s *scene) {
		s.spend(requests(10))
		require.False(s, s.allow(requests(1)).OK)
		before := s.spy.exchanges()
		for range 1000 {
			require.False(s, s.allow(requests(1)).OK)
		}
		assert.Equal(s, before, s.spy.exchanges())
		assert.EqualValues(s, 1001, s.Stats().Refused)
	})
}

// Others may give back what they have. How late that is noticed goes by the wait:
// a tenth of a second, or a sixteenth of it, and never more than a second.
func TestAllowDoubtsARefusalInTime(t *testing.T) {
	for _, tt := range []struct {
		limit string
		after time.Duration
	}{
		{"1/1600ms", 100 * time.Millisecond},
		{"1/8s", 500 * time.Millisecond},
		{"1/h", second},
	} {
		t.Run(tt.limit, func(t *testing.T) {
			play(t, tt.limit, "", func(s *scene) {
				s.spend(requests(1))
				require.False(s, s.allow(requests(1)).OK)
				before := s.spy.exchanges()
				time.Sleep(tt.after - 5*time.Millisecond)
				require.False(s, s.allow(requests(1)).OK)
				assert.Equal(s, before, s.spy.exchanges(), "not yet")
				time.Sleep(6 * time.Millisecond)
				require.False(s, s.allow(requests(1)).OK)
				assert.Equal(s, before+1, s.spy.exchanges(), "now")
			})
		})
	}
}

// What this worker itself gives back is there for it at once.
func TestAllowAfterASettlement(t *testing.T) {
	play(t, "10/h", "100/h", func(s *scene) {
		r, v, err := s.TryReserve(s.Context(), Cost{Requests: 1, Tokens: 100})
		require.NoError(s, err)
		require.True(s, v.OK)
		require.False(s, s.allow(Cost{Requests: 1, Tokens: 50}).OK)
		require.NoError(s, r.Settle(Cost{Requests: 1, Tokens: 40}))
		time.Sleep(settleWithin + time.Millisecond)
		assert.True(s, s.allow(Cost{Requests: 1, Tokens: 50}).OK)
	})
}

func TestAllowIsBoundedByItsContext(t *testing.T) {
	play(t, "10/m", "", func(s *scene) {
		s.spy.onLease = func(ctx context.Context, _ Ask) (Lease, error) {
			<-ctx.Done()
			return Lease{}, ctx.Err()
		}
		v, err := s.Allow(within(s.T, second), requests(1))
		assert.ErrorIs(s, err, context.DeadlineExceeded)
		assert.False(s, v.OK)
		assert.Equal(s, second, s.now())
	})
}

func TestAllowTellsTheStoresError(t *testing.T) {
	play(t, "10/m", "", func(s *scene) {
		broken := errors.New("disk on fire")
		s.spy.fail(broken)
		_, err := s.Allow(s.Context(), requests(1))
		assert.ErrorIs(s, err, broken)
	})
}
