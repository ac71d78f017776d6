package choked

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// length is an estimator: a token a byte.
type length struct{}

func (length) Estimate(in any) (Cost, error) {
	s, ok := in.(string)
	if !ok {
		return Cost{}, fmt.Errorf("%T has no length", in)
	}
	return tokens(int64(len(s))), nil
}

type byValue struct{ tokens int64 }

func (r byValue) Used() (Cost, bool) { return tokens(r.tokens), r.tokens != 0 }

type byPointer struct{ tokens int64 }

func (r *byPointer) Used() (Cost, bool) { return tokens(r.tokens), true }

func (s *scene) estimated(e Estimator) *Limiter {
	l, err := s.choke.Limiter("k", s.Limits(), e)
	require.NoError(s, err)
	return l
}

// left is what of the burst of 1,000 tokens is not spent, when all is settled.
func (s *scene) left() int64 {
	time.Sleep(time.Second)
	if b, ok := s.info(); ok {
		return b.Level.Tokens
	}
	return 1000
}

func TestWrapSettlesByUsage(t *testing.T) {
	const prompt = "0123456789" // 10 tokens, as estimated
	for _, tt := range []struct {
		name string
		ask  func(*scene, *Limiter) error
		left int64
	}{
		{"a reply that knows", func(s *scene, l *Limiter) error {
			_, err := Wrap(l, func(context.Context, string) (byValue, error) { return byValue{40}, nil })(s.Context(), prompt)
			return err
		}, 960},
		{"a pointer to one", func(s *scene, l *Limiter) error {
			_, err := Wrap(l, func(context.Context, string) (*byValue, error) { return &byValue{40}, nil })(s.Context(), prompt)
			return err
		}, 960},
		{"a reply whose pointer knows", func(s *scene, l *Limiter) error {
			_, err := Wrap(l, func(context.Context, string) (byPointer, error) { return byPointer{4}, nil })(s.Context(), prompt)
			return err
		}, 996},
		{"that pointer", func(s *scene, l *Limiter) error {
			_, err := Wrap(l, func(context.Context, string) (*byPointer, error) { return &byPointer{4}, nil })(s.Context(), prompt)
			return err
		}, 996},
		{"a reply of any type", func(s *scene, l *Limiter) error {
			_, err := Wrap(l, func(context.Context, string) (any, error) { return &byPointer{4}, nil })(s.Context(), prompt)
			return err
		}, 996},
		{"a reply that does not say", func(s *scene, l *Limiter) error {
			_, err := Wrap(l, func(context.Context, string) (byValue, error) { return byValue{}, nil })(s.Context(), prompt)
			return err
		}, 990},
		{"a reply that knows nothing", func(s *scene, l *Limiter) error {
			_, err := Wrap(l, func(context.Context, string) (string, error) { return "", nil })(s.Context(), prompt)
			return err
		}, 990},
		{"a function that knows", func(s *scene, l *Limiter) error {
			_, err := WrapUsage(l, func(context.Context, string) (string, error) { return "twelve bytes", nil },
				func(r string) (Cost, bool) { return tokens(int64(len(r))), true })(s.Context(), prompt)
			return err
		}, 988},
		{"a usage that cannot be", func(s *scene, l *Limiter) error {
			r, err := Wrap(l, func(context.Context, string) (byValue, error) { return byValue{-7}, nil })(s.Context(), prompt)
			assert.Equal(s, byValue{-7}, r)
			return err
		}, 990},
		{"a call that fails", func(s *scene, l *Limiter) error {
			_, err := Wrap(l, func(context.Context, string) (byValue, error) { return byValue{40}, errors.New("500") })(s.Context(), prompt)
			assert.EqualError(s, err, "500")
			return nil
		}, 990},
	} {
		t.Run(tt.name, func(t *testing.T) {
			play(t, "", "1000/366d", func(s *scene) {
				s.spend(tokens(500)) // from a full bucket nothing comes back
				time.Sleep(time.Second)
				require.NoError(s, tt.ask(s, s.estimated(length{})))
				assert.Equal(s, tt.left-500, s.left())
			})
		})
	}
}

func TestWrapDoesNotCallWhatIsNotAdmitted(t *testing.T) {
	play(t, "", "10/h", func(s *scene) {
		calls := 0
		l := s.estimated(length{})
		ask := Wrap(l, func(context.Context, any) (string, error) { calls++; return "", nil })
		_, err := ask(s.Context(), 42)
		assert.ErrorContains(s, err, "int has no length")
		_, err = ask(s.Context(), "eleven char")
		assert.ErrorIs(s, err, ErrCostExceedsBurst)
		_, err = ask(s.Context(), "ten chars!")
		assert.NoError(s, err)
		_, err = ask(within(s.T, second), "x")
		assert.ErrorIs(s, err, ErrDeadline)
		assert.Equal(s, 1, calls)
	})
}

type tooMany struct{ after time.Duration }

func (tooMany) Error() string               { return "429" }
func (e tooMany) RetryAfter() time.Duration { return e.after }

func TestWrapBacksOffWhenToldTo(t *testing.T) {
	play(t, "100/s", "", func(s *scene) {
		ask := Wrap(s.Limiter, func(context.Context, string) (string, error) {
			return "", fmt.Errorf("chat: %w", tooMany{20 * second})
		})
		_, err := ask(s.Context(), "")
		assert.EqualError(s, err, "chat: 429")
		require.NoError(s, s.worker().Wait(s.Context(), requests(1)), "another worker")
		assert.InDelta(s, 20*second, s.now(), float64(second))
	})
}

// The provider's answer concerns all workers, also when it comes after the
// caller's time is over.
func TestWrapBacksOffForACallerWhoIsGone(t *testing.T) {
	play(t, "100/s", "", func(s *scene) {
		ctx, cancel := context.WithCancel(s.Context())
		ask := Wrap(s.Limiter, func(context.Context, string) (string, error) {
			cancel()
			return "", tooMany{20 * second}
		})
		_, err := ask(ctx, "")
		assert.Equal(s, tooMany{20 * second}, err, "the call's error as it was")
		require.Len(s, s.spy.adjusted, 1)
		assert.NoError(s, s.spy.last)
	})
}

// Providers have been seen to say nonsense. No reply keeps all workers waiting
// for more than an hour, and none at all if it does not say for how long.
func TestWrapBacksOffWithinReason(t *testing.T) {
	play(t, "100/s", "", func(s *scene) {
		after := time.Duration(0)
		ask := Wrap(s.Limiter, func(context.Context, string) (string, error) { return "", tooMany{after} })
		ask(s.Context(), "")
		assert.Empty(s, s.spy.adjusted)
		after = 10_000 * time.Hour
		ask(s.Context(), "")
		require.Len(s, s.spy.adjusted, 1)
		assert.Equal(s, time.Hour, s.spy.adjusted[0].Empty)
	})
}

func TestWrapServesAnyNumberOfGoroutinesAndServices(t *testing.T) {
	play(t, "10/s", "1000/s", func(s *scene) {
		embed, err := s.choke.Limiter("embed", MustLimits("requests 40/s"), nil)
		require.NoError(s, err)
		chat := Wrap(s.estimated(length{}), func(context.Context, string) (byValue, error) { return byValue{5}, nil })
		vectors := Wrap(embed, func(context.Context, []string) ([]float32, error) { return nil, nil })

		var wg sync.WaitGroup
		var took [2]time.Duration
		for i, call := range []func() error{
			func() error { _, err := chat(s.Context(), "hello"); return err },
			func() error { _, err := vectors(s.Context(), nil); return err },
		} {
			wg.Go(func() {
				var all sync.WaitGroup
				for range 100 {
					all.Go(func() { assert.NoError(s, call()) })
				}
				all.Wait()
				took[i] = s.now()
			})
		}
		wg.Wait()
		assert.InDelta(s, 9*second, took[0], float64(second/4), "10 at once and 90 at 10/s")
		assert.InDelta(s, 1500*time.Millisecond, took[1], float64(second/4), "40 at once and 60 at 40/s")
	})
}
