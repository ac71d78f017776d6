package choked

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestADeadlineErrorSaysWhatWhenAndForWhichKey(t *testing.T) {
	for _, tt := range []struct {
		name             string
		requests, tokens string
		spend, cost      Cost
		unit             Unit
		after            time.Duration
	}{
		{"requests", "60/m", "", requests(60), requests(30), 0, 30 * time.Second},
		{"tokens", "", "600/m", tokens(600), tokens(300), 1, 30 * time.Second},
		{"requests of both", "60/m", "600/m", Cost{Requests: 60, Tokens: 1}, Cost{Requests: 30, Tokens: 1}, 0, 30 * time.Second},
		{"tokens of both", "60/m", "600/m", Cost{Requests: 1, Tokens: 600}, Cost{Requests: 1, Tokens: 300}, 1, 30 * time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, tt.requests, tt.tokens, func(s *scene) {
				s.spend(tt.spend)
				s.settled() // or the refusal may count the lease that is about to be settled
				err := s.Wait(within(s.T, second), tt.cost)
				var deadline *DeadlineError
				require.ErrorAs(s, err, &deadline)
				assert.ErrorIs(s, err, ErrDeadline)
				assert.ErrorIs(s, err, context.DeadlineExceeded)
				assert.Equal(s, "k", deadline.Key)
				assert.Equal(s, tt.unit, deadline.Unit)
				assert.InDelta(s, tt.after, deadline.RetryAfter, float64(second))
				assert.Regexp(s, `^choked: key "k": cannot be admitted before the context deadline: `+tt.unit.String()+` available in [0-9.]+m?s, level -?[0-9]+$`, err.Error())
				assert.InDelta(s, 0, deadline.Level, 1)

				v := s.allow(tt.cost)
				assert.Equal(s, tt.unit, v.Unit)
			})
		})
	}
}

// The limits of a key can be changed as soon as its limiters are closed.
func TestCloseOfTheLastLimiterFreesTheKey(t *testing.T) {
	play(t, "100/s", "", func(s *scene) {
		twin, err := s.choke.Limiter("k", s.Limits(), nil)
		require.NoError(s, err)
		other := MustLimits("requests 50/s")
		_, err = s.choke.Limiter("k", other, nil)
		require.ErrorContains(s, err, `limits "requests 50/s": open limiters of this worker have "requests 100/s"`)

		time.Sleep(second)
		s.spy.wants(requests(20))
		s.spend(requests(1))
		s.spy.onLease = nil
		require.NotZero(s, s.out())
		require.NoError(s, s.Close())
		require.NoError(s, s.Close(), "twice is fine")
		_, err = s.choke.Limiter("k", other, nil)
		require.Error(s, err, "the twin is open")
		require.NoError(s, twin.Wait(s.Context(), requests(1)))

		require.NoError(s, twin.Close())
		changed, err := s.choke.Limiter("k", other, nil)
		require.NoError(s, err)
		synctest.Wait()
		assert.Zero(s, s.out(), "what was leased is returned at once")
		require.NoError(s, changed.Wait(s.Context(), requests(1)))
	})
}

func TestCloseOfALimiterEndsItsCallsOnly(t *testing.T) {
	play(t, "1/m", "", func(s *scene) {
		twin, err := s.choke.Limiter("k", s.Limits(), nil)
		require.NoError(s, err)
		s.spend(requests(1))
		mine := s.wait(s.Context(), requests(1))
		mineToo := s.wait(s.Context(), requests(1))
		own := s.Limiter
		s.Limiter = twin
		others := s.wait(s.Context(), requests(1))
		require.NoError(s, own.Close())
		for _, w := range []*call{mine, mineToo} {
			require.True(s, w.returned())
			assert.ErrorIs(s, w.err, ErrClosed)
			assert.ErrorContains(s, w.err, `choked: key "k": closed`)
		}
		require.False(s, others.returned())
		for _, err := range []error{own.Wait(s.Context(), requests(1)), own.Cooldown(s.Context(), second)} {
			assert.ErrorIs(s, err, ErrClosed)
		}
		_, err = own.Allow(s.Context(), requests(1))
		assert.ErrorIs(s, err, ErrClosed)
		s.admittedAt(others, time.Minute)
	})
}

// A settlement that the store does not take when the last limiter is closed is
// repeated until it does, or until the Choke is closed.
func TestWhatAClosedLimiterReturnsSurvivesTheStoresErrors(t *testing.T) {
	for _, closed := range []bool{false, true} {
		play(t, "100/h", "", func(s *scene) {
			s.spy.wants(requests(20))
			s.spend(requests(1))
			s.spy.fail(ErrNoQuorum)
			require.NoError(s, s.Close())
			time.Sleep(second / 2)
			require.Equal(s, requests(20), s.out())
			s.spy.fail(nil)
			if closed {
				require.NoError(s, s.choke.Close())
			} else {
				time.Sleep(reviewEvery)
				synctest.Wait()
				assert.Empty(s, s.choke.worker.Draining())
			}
			assert.Zero(s, s.out())
		})
	}
}

// A second Close returns when the first has ended, with the same error.
func TestCloseTwiceWaitsForTheFirst(t *testing.T) {
	play(t, "100/s", "", func(s *scene) {
		s.spend(requests(1))
		s.spy.onSettle = func([]Settlement) error {
			time.Sleep(second)
			return ErrNoQuorum
		}
		s.closeError = ErrNoQuorum
		first := make(chan error, 1)
		go func() { first <- s.choke.Close() }()
		synctest.Wait()
		err := s.choke.Close()
		assert.Equal(s, second, s.now())
		assert.ErrorIs(s, err, ErrNoQuorum)
		assert.Equal(s, err, <-first)
	})
}

func TestTheZeroLimiterRefusesEverything(t *testing.T) {
	ctx := t.Context()
	var none *Limiter
	for name, l := range map[string]*Limiter{"nil": none, "zero": {}} {
		_, allow := l.Allow(ctx, requests(1))
		_, reserve := l.Reserve(ctx, requests(1))
		_, _, try := l.TryReserve(ctx, requests(1))
		_, estimate := l.Estimate("x")
		_, wrap := Wrap(l, func(context.Context, string) (string, error) { return "", nil })(ctx, "x")
		for _, err := range []error{l.Wait(ctx, requests(1)), allow, reserve, try, estimate, wrap, l.Cooldown(ctx, second)} {
			assert.EqualError(t, err, "choked: limiter is not open: want one from Choke.Limiter or Choke.Open", name)
		}
		assert.NoError(t, l.Close())
		assert.Zero(t, l.Stats())
		assert.Zero(t, l.Limits())
		assert.Empty(t, l.Key())
	}
	var c Choke
	for name, c := range map[string]*Choke{"nil": nil, "zero": &c, "no store": New(nil)} {
		_, err := c.Limiter("k", MustLimits("requests 1/s"), nil)
		assert.ErrorContains(t, err, `choked: key "k": no store: want one`, name)
		assert.NoError(t, c.Close(), name)
	}
}

func TestOpenChecksMaxOveruse(t *testing.T) {
	_, err := New(NewLocal()).Open(LimiterConfig{Key: "k", Limits: MustLimits("requests 1/s"), MaxOveruse: -1})
	assert.EqualError(t, err, `choked: key "k": MaxOveruse of -1 bursts: want 0 or more`)
}

type nilReply struct{ tokens int64 }

func (r *nilReply) Used() (Cost, bool) { return tokens(r.tokens), true } // panics on nil

func TestANilReplyHasNoUsage(t *testing.T) {
	play(t, "", "1000/h", func(s *scene) {
		l := s.estimated(length{})
		for _, ask := range []func() (any, error){
			func() (any, error) {
				r, err := Wrap(l, func(context.Context, string) (*nilReply, error) { return nil, nil })(s.Context(), "ten chars!")
				return r, err
			},
			func() (any, error) {
				return Wrap(l, func(context.Context, string) (any, error) { return (*nilReply)(nil), nil })(s.Context(), "ten chars!")
			},
			func() (any, error) {
				return Wrap(l, func(context.Context, string) (any, error) { return nil, nil })(s.Context(), "ten chars!")
			},
			func() (any, error) {
				r, err := Wrap(l, func(context.Context, string) (Usage, error) { return nil, nil })(s.Context(), "ten chars!")
				return r, err
			},
		} {
			_, err := ask()
			assert.NoError(s, err)
		}
		assert.Equal(s, int64(1000-4*10), s.left())
	})
}

// A usage that cannot be settled is reported to OnError and counted; the caller has
// its reply.
func TestWrapReportsAUsageThatCannotBe(t *testing.T) {
	for _, usage := range []int64{-7, 1 << 60} {
		play(t, "", "1000/h", func(s *scene) {
			var reported error
			l, err := s.choke.Open(LimiterConfig{Key: "k", Limits: s.Limits(), Estimator: length{}, OnError: func(err error) { reported = err }})
			require.NoError(s, err)
			r, err := Wrap(l, func(context.Context, string) (byValue, error) { return byValue{usage}, nil })(s.Context(), "x")
			require.NoError(s, err)
			assert.Equal(s, byValue{usage}, r)
			assert.ErrorIs(s, reported, ErrUsage)
			assert.ErrorContains(s, reported, `choked: key "k": settle: `)
			assert.EqualValues(s, 1, s.Stats().InvalidUsage)
		})
	}
}

// One prefix and one key, whatever the error comes from.
func TestErrorsNameTheLibraryAndTheKeyOnce(t *testing.T) {
	play(t, "5/s", "", func(s *scene) {
		broken := errors.New("dial h1:7946: refused")
		var n atomic.Int64
		s.spy.onLease = func(context.Context, Ask) (Lease, error) { n.Add(1); return Lease{}, broken }
		assert.EqualError(s, s.Wait(s.Context(), requests(1)), `choked: key "k": lease: dial h1:7946: refused`)
		s.spy.onAdjust = func(Adjustment) error { return broken }
		assert.EqualError(s, s.Cooldown(s.Context(), second), `choked: key "k": cooldown: dial h1:7946: refused`)
		assert.EqualError(s, s.Wait(s.Context(), requests(9)), `choked: key "k": cost exceeds burst: 9 requests asked, at most 5 fit in "5/s"`)
		gone, cancel := context.WithCancel(s.Context())
		cancel()
		assert.EqualError(s, s.Wait(gone, requests(1)), `choked: key "k": context canceled`)
	})
}

// A limiter that fails open does so for calls whose deadlines are shorter than the
// store's Timeout, too: once an exchange has failed, later calls pass at once.
func TestFailOpenForCallsWithShortDeadlines(t *testing.T) {
	play(t, "1/m", "", func(s *scene) {
		l, err := s.choke.Open(LimiterConfig{Key: "k", Limits: s.Limits(), FailOpen: true})
		require.NoError(s, err)
		s.spy.onLease = func(ctx context.Context, _ Ask) (Lease, error) {
			select {
			case <-time.After(5 * second):
				return Lease{}, ErrNoQuorum
			case <-ctx.Done():
				return Lease{}, ctx.Err()
			}
		}
		admitted := 0
		for range 20 {
			if l.Wait(within(s.T, second), requests(1)) == nil {
				admitted++
			}
		}
		assert.GreaterOrEqual(s, admitted, 14, "all but those of the first Timeout")
		assert.EqualValues(s, admitted, s.Stats().FailedOpen)
		assert.EqualValues(s, 20-admitted, s.Stats().Refused)
	})
}

// A call whose deadline passes while the store cannot decide says so.
func TestADeadlineErrorNamesTheStoresFailure(t *testing.T) {
	play(t, "1/m", "", func(s *scene) {
		s.spy.onLease = func(ctx context.Context, _ Ask) (Lease, error) {
			select {
			case <-time.After(5 * second):
				return Lease{}, fmt.Errorf("%w: dial h1:7946: refused", ErrUnavailable)
			case <-ctx.Done():
				return Lease{}, ctx.Err()
			}
		}
		var err error
		for range 8 {
			err = s.Wait(within(s.T, second), requests(1))
			var deadline *DeadlineError
			require.ErrorAs(s, err, &deadline)
			hasNoTime(s, err)
		}
		assert.ErrorIs(s, err, ErrUnavailable)
		assert.ErrorContains(s, err, "dial h1:7946: refused")
	})
}

// Only a store that cannot decide for now opens a limiter that fails open.
func TestFailOpenIsForStoresThatCannotDecide(t *testing.T) {
	play(t, "1/m", "", func(s *scene) {
		l, err := s.choke.Open(LimiterConfig{Key: "k", Limits: s.Limits(), FailOpen: true})
		require.NoError(s, err)
		for _, cause := range []error{errors.New("token refused"), ErrClosed} {
			s.spy.fail(cause)
			for range 3 {
				assert.ErrorIs(s, l.Wait(s.Context(), requests(1)), cause)
				_, err := l.Allow(s.Context(), requests(1))
				assert.ErrorIs(s, err, cause)
			}
		}
		assert.Zero(s, s.Stats().FailedOpen)
	})
}

// A key that is opened with other limits at the same instant has the later ones.
func TestLimitsAreDefinedInTheOrderOfOpening(t *testing.T) {
	play(t, "1000/h burst 500", "", func(s *scene) {
		s.spend(requests(1))
		require.NoError(s, s.Close())
		synctest.Wait()
		smaller, err := s.choke.Limiter("k", MustLimits("requests 100/h burst 10"), nil)
		require.NoError(s, err)
		admitted := 0
		for range 500 {
			if v, err := smaller.Allow(s.Context(), requests(1)); err == nil && v.OK {
				admitted++
			}
		}
		assert.LessOrEqual(s, admitted, 10)
	})
}

type nilStore struct{ Store }

func TestANilPointerIsNoStore(t *testing.T) {
	var store *nilStore // as a constructor that failed returns it
	_, err := New(store).Limiter("k", MustLimits("requests 1/s"), nil)
	assert.ErrorContains(t, err, `choked: key "k": no store`)
}

func TestTheNilReservation(t *testing.T) {
	for _, r := range []*Reservation{nil, {}} {
		assert.ErrorContains(t, r.Settle(requests(1)), "no reservation")
		r.Cancel()
		r.Done()
		assert.Zero(t, r.Cost())
	}
}

type nilSlow struct{}

func (*nilSlow) Error() string               { return "429" }
func (e *nilSlow) RetryAfter() time.Duration { _ = *e; return second }

func TestWrapPassesANilErrorOn(t *testing.T) {
	play(t, "100/s", "", func(s *scene) {
		_, err := Wrap(s.Limiter, func(context.Context, string) (string, error) { return "", (*nilSlow)(nil) })(s.Context(), "x")
		assert.Equal(s, (*nilSlow)(nil), err)
	})
}

// A limit that would count nothing is an error, not a limit without effect.
func TestWrapWithALimitThatCountsNothing(t *testing.T) {
	for limits, unit := range map[string]string{
		"requests 1/s; tokens 1/s": "tokens", "input 1/s; output 1/s": "input", "requests 1/s; spend $1/d": "spend", "requests 1/s": "",
	} {
		playLimits(t, MustLimits(limits), func(s *scene) {
			_, err := Wrap(s.Limiter, func(context.Context, string) (string, error) { return "", nil })(s.Context(), "x")
			if unit == "" {
				assert.NoError(s, err)
			} else {
				assert.ErrorContains(s, err, "the limit on "+unit+" counts nothing")
			}
		})
	}
	play(t, "", "100/m", func(s *scene) {
		calls := 0
		call := Wrap(s.Limiter, func(context.Context, string) (string, error) { calls++; return "", nil })
		_, err := call(s.Context(), "x")
		assert.EqualError(s, err, `choked: key "k": wrap: the limit on tokens counts nothing: want an estimator, or a reply with usage instead of string`)
		assert.Zero(s, calls)
		for _, l := range []*Limiter{s.estimated(length{})} {
			_, err = Wrap(l, func(context.Context, string) (string, error) { return "", nil })(s.Context(), "x")
			assert.NoError(s, err)
		}
		_, err = Wrap(s.Limiter, func(context.Context, string) (byValue, error) { return byValue{1}, nil })(s.Context(), "x")
		assert.NoError(s, err)
	})
}

func TestStatsSayWhatTheFirstWaiterWaitsFor(t *testing.T) {
	play(t, "100/s", "600/m", func(s *scene) {
		s.spend(Cost{Requests: 1, Tokens: 600})
		s.settled()
		w := s.wait(s.Context(), Cost{Requests: 1, Tokens: 100})
		st := s.Stats()
		assert.Equal(s, 1, st.Waiting)
		assert.Equal(s, "tokens", st.NextUnit.String())
		assert.InDelta(s, 10*second, st.NextAfter, float64(second))
		assert.InDelta(s, 0, st.Level.Tokens, 2)
		<-w.done
		assert.Zero(s, s.Stats().NextAfter)
	})
}
