package choked

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWhenTheStoreFailsAllWhoWaitAreTold(t *testing.T) {
	play(t, "1/m", "", func(s *scene) {
		answer := make(chan error)
		s.spy.onLease = func(context.Context, Ask) (Lease, error) { return Lease{}, <-answer }
		var all []*call
		for range 3 {
			all = append(all, s.wait(s.Context(), requests(1)))
		}
		answer <- ErrNoQuorum
		for _, w := range all {
			require.True(s, w.returned())
			assert.ErrorIs(s, w.err, ErrNoQuorum)
			assert.ErrorContains(s, w.err, `"k"`)
		}
		assert.EqualValues(s, 3, s.Stats().Failed)
		s.spy.fail(nil)
		s.spend(requests(1)) // and nothing was spent by them
	})
}

// What is in hand is spent, whatever the store does.
func TestWhenTheStoreFailsLeasesAreStillSpent(t *testing.T) {
	play(t, "100/m", "", func(s *scene) {
		s.spy.wants(requests(5))
		s.spend(requests(1))
		s.spy.fail(ErrNoQuorum)
		for range 4 {
			s.spend(requests(1))
		}
		assert.ErrorIs(s, s.Wait(s.Context(), requests(1)), ErrNoQuorum)
	})
}

// Nor do those in line who only wait for what is in hand to ripen need the store.
func TestWhenTheStoreFailsWhatIsPromisedIsStillSpent(t *testing.T) {
	play(t, "5/s", "", func(s *scene) {
		s.spend(requests(5))
		first := s.wait(s.Context(), requests(1))
		require.NotZero(s, s.Stats().Leased, "promised ahead")
		s.spy.fail(ErrNoQuorum)
		second := s.wait(s.Context(), requests(2))
		require.True(s, second.returned())
		assert.ErrorIs(s, second.err, ErrNoQuorum)
		s.admittedAt(first, 200*time.Millisecond)
	})
}

// A limiter that fails open lets all pass while the store fails, makes nobody
// wait for the store again, and limits again soon after the store is back.
func TestFailOpen(t *testing.T) {
	play(t, "1/m", "", func(s *scene) {
		l, err := s.choke.Open(LimiterConfig{Key: "k", Limits: s.Limits(), FailOpen: true})
		require.NoError(s, err)
		closed := s.Limiter
		s.Limiter = l

		answer := make(chan error)
		slow := func(ctx context.Context, _ Ask) (Lease, error) {
			select {
			case err := <-answer:
				return Lease{}, err
			case <-ctx.Done():
				return Lease{}, ctx.Err()
			}
		}
		s.spy.onLease = slow
		var all []*call
		for range 3 {
			all = append(all, s.wait(s.Context(), requests(1)))
		}
		answer <- ErrNoQuorum
		for _, w := range all {
			require.True(s, w.returned())
			assert.NoError(s, w.err)
		}
		// The store answers nobody from now on, for as long as it takes.
		for range 100 {
			s.spend(requests(1))
			v, err := s.Allow(s.Context(), requests(1))
			require.NoError(s, err)
			require.True(s, v.OK)
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		assert.EqualValues(s, 203, s.Stats().FailedOpen)
		assert.LessOrEqual(s, len(s.spy.asks), 3, "one ask at a time looks whether it is back")
		answer <- ErrNoQuorum
		time.Sleep(second)

		s.spy.fail(nil)
		s.spend(requests(1)) // not counted, but it asks
		synctest.Wait()
		v, err := s.Allow(s.Context(), requests(1))
		require.NoError(s, err)
		require.True(s, v.OK)
		v, err = s.Allow(s.Context(), requests(1))
		require.NoError(s, err)
		assert.False(s, v.OK, "one a minute holds again")
		hasNoTime(s, closed.Wait(within(s.T, second), requests(1)))
	})
}

// One who gave up just when it was let through without quota gives none back.
func TestFailOpenOwesNothing(t *testing.T) {
	play(t, "1/m", "", func(s *scene) {
		l, err := s.choke.Open(LimiterConfig{Key: "k", Limits: s.Limits(), FailOpen: true})
		require.NoError(s, err)
		s.spend(requests(1))
		for range 20 {
			ctx, cancel := context.WithCancel(s.Context())
			s.spy.onLease = func(context.Context, Ask) (Lease, error) {
				cancel()
				return Lease{}, ErrNoQuorum
			}
			l.Wait(ctx, requests(1))
			s.spy.fail(nil)
			time.Sleep(second) // the next call asks the store again
			_, err := s.Allow(s.Context(), requests(1))
			require.NoError(s, err)
		}
		assert.Empty(s, s.spy.adjusted)
	})
}

// Limits that another worker has defined later hold. What fits ours and not
// theirs is told so, and does not count as a failure of the store.
func TestWhenTheLimitsInForceAreSmaller(t *testing.T) {
	play(t, "10/s", "", func(s *scene) {
		s.spy.onLease = func(ctx context.Context, a Ask) (Lease, error) {
			a.Limits = MustLimits("requests 5/s")
			return s.spy.Store.Lease(ctx, a)
		}
		assert.ErrorIs(s, s.Wait(s.Context(), requests(6)), ErrCostExceedsBurst)
		s.spend(requests(5))
		assert.Zero(s, s.Stats().Failed)
	})
}

func TestCloseTurnsAllAway(t *testing.T) {
	play(t, "1/m burst 10", "", func(s *scene) {
		s.spend(requests(10))
		w := s.wait(s.Context(), requests(1))
		require.NoError(s, s.choke.Close())
		require.True(s, w.returned())
		assert.ErrorIs(s, w.err, ErrClosed)
		assert.Zero(s, s.now())

		assert.ErrorIs(s, s.Wait(s.Context(), requests(1)), ErrClosed)
		_, err := s.Allow(s.Context(), requests(1))
		assert.ErrorIs(s, err, ErrClosed)
		assert.ErrorIs(s, s.Cooldown(s.Context(), second), ErrClosed)
		_, err = s.choke.Limiter("k", s.Limits(), nil)
		assert.ErrorIs(s, err, ErrClosed)
		_, err = s.choke.Limiter("another", s.Limits(), nil)
		assert.ErrorIs(s, err, ErrClosed)
		assert.NoError(s, s.choke.Close(), "twice is fine")
	})
}

func TestCloseReturnsWhatIsLeased(t *testing.T) {
	play(t, "100/s", "", func(s *scene) {
		s.busy(50, second)
		synctest.Wait()
		s.spy.wants(requests(50))
		for s.Stats().Leased.Requests < 10 {
			s.spend(requests(1))
		}
		require.NotZero(s, s.out())
		require.NoError(s, s.choke.Close())
		assert.Zero(s, s.out())
	})
}

// What was used beyond the estimate is charged although the worker goes.
func TestCloseReportsWhatIsOwed(t *testing.T) {
	play(t, "", "1000/h", func(s *scene) {
		r := s.reserve(tokens(100))
		time.Sleep(second)
		require.NoError(s, r.Settle(tokens(400)))
		require.NoError(s, s.choke.Close())
		require.Len(s, s.spy.adjusted, 1)
		assert.Equal(s, tokens(300), s.spy.adjusted[0].Charge)
	})
}

func TestCloseDoesNotWaitForEver(t *testing.T) {
	play(t, "100/s", "", func(s *scene) {
		s.spend(requests(1))
		hang := make(chan struct{})
		s.spy.onLease = func(ctx context.Context, _ Ask) (Lease, error) {
			<-ctx.Done()
			return Lease{}, ctx.Err()
		}
		s.spy.onSettle = func([]Settlement) error {
			<-hang
			return nil
		}
		w := s.wait(s.Context(), requests(100))
		time.AfterFunc(closeWithin, func() { close(hang) }) // as a store does whose context ends
		s.choke.Close()
		assert.LessOrEqual(s, s.now(), closeWithin)
		require.True(s, w.returned())
		assert.ErrorIs(s, w.err, ErrClosed)
	})
}

func TestCloseTellsWhatItCouldNotReturn(t *testing.T) {
	play(t, "100/s", "", func(s *scene) {
		s.spend(requests(1))
		s.spy.fail(ErrNoQuorum)
		err := s.choke.Close()
		assert.ErrorIs(s, err, ErrNoQuorum)
		assert.ErrorContains(s, err, "return 1 leases")
		s.closeError = ErrNoQuorum // a second Close returns the same
	})
}

func TestAClosedStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := NewLocal()
		c := New(store)
		l, err := c.Limiter("k", MustLimits("requests 1/m"), nil)
		require.NoError(t, err)
		require.NoError(t, l.Wait(t.Context(), requests(1)))
		failed := make(chan error)
		go func() { failed <- l.Wait(t.Context(), requests(1)) }()
		synctest.Wait()
		require.NoError(t, store.Close())
		require.NoError(t, store.Close())
		assert.ErrorIs(t, <-failed, ErrClosed)
		assert.ErrorIs(t, l.Wait(t.Context(), requests(1)), ErrClosed)
		c.Close()
	})
}

func TestLimitersOfOneKeyShareQuotaAndLine(t *testing.T) {
	play(t, "1/s burst 3", "", func(s *scene) {
		twin, err := s.choke.Open(LimiterConfig{Key: "k", Limits: MustLimits("requests 1/s burst 3"), Estimator: &pupil{}})
		require.NoError(s, err)
		s.spend(requests(2))
		require.NoError(s, twin.Wait(s.Context(), requests(1)))
		first := s.wait(s.Context(), requests(1))
		s.Limiter, twin = twin, s.Limiter
		second := s.wait(s.Context(), requests(1))
		s.admittedAt(first, 1*time.Second)
		s.admittedAt(second, 2*time.Second)
		assert.Equal(s, s.Stats(), twin.Stats())
		assert.Equal(s, "k", twin.Key())
	})
}

func TestOpenTellsWhatCannotBe(t *testing.T) {
	play(t, "50/s", "", func(s *scene) {
		ok := MustLimits("requests 50/s")
		for _, tt := range []struct {
			name string
			cfg  LimiterConfig
			says []string
		}{
			{"other limits on the same key", LimiterConfig{Key: "k", Limits: MustLimits("requests 60/s")}, []string{`"k"`, "60/s", "50/s"}},
			{"no key", LimiterConfig{Limits: ok}, []string{"key is empty"}},
			{"a long key", LimiterConfig{Key: strings.Repeat("x", 513), Limits: ok}, []string{"513 bytes", "at most 512"}},
			{"no limits", LimiterConfig{Key: "n"}, []string{`"n"`, "no limits"}},
			{"an absurd rate", LimiterConfig{Key: "n", Limits: Limits{Requests: []Rate{{N: -1, Per: time.Second, Burst: 1}}}}, []string{"-1 units"}},
			{"a key that would break a line", LimiterConfig{Key: "a\nb", Limits: Limits{}}, []string{`a\nb`}},
		} {
			_, err := s.choke.Open(tt.cfg)
			require.Error(s, err, tt.name)
			for _, want := range tt.says {
				assert.ErrorContains(s, err, want, tt.name)
			}
			assert.NotContains(s, err.Error(), "\n", tt.name)
		}
	})
}

func TestWithoutAStoreThereIsNoLimiter(t *testing.T) {
	_, err := New(nil).Limiter("k", MustLimits("requests 50/s"), nil)
	assert.ErrorContains(t, err, "no store")
}

func TestMustLimitsPanics(t *testing.T) {
	assert.PanicsWithValue(t, `choked: limit on requests: rate "fast": want "50/s", "100000/m", "5/10s", "10/h", "50/s burst 10", "500/m window", or "10000/d reset UTC"`,
		func() { MustLimits("requests fast") })
}
