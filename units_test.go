package choked

import (
	"context"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// quoted is an estimator that returns its input.
type quoted struct{}

func (quoted) Estimate(in any) (Cost, error) { return in.(Cost), nil }

// echo is a call whose reply is its usage.
func echo(usage Cost) func(context.Context, Cost) (Cost, error) {
	return func(context.Context, Cost) (Cost, error) { return usage, nil }
}

func known(usage Cost) (Cost, bool) { return usage, true }

// Each row estimates a call, makes it, and reports a usage; the last field is what it
// is charged in the end.
func TestWrapChargesTheUnitsThatAreLimited(t *testing.T) {
	const apart = "input 1000/366d; output 1000/366d"
	const all = "requests 1000/366d; tokens 9000/366d; " + apart + "; spend $5/366d"
	for _, tt := range []struct {
		name, limits           string
		estimate, usage, spent Cost
		invalid                string
	}{
		{"input and output apart", apart,
			Cost{Input: 10, Output: 100, Tokens: 110}, Cost{Input: 12, Output: 40}, Cost{Input: 12, Output: 40}, ""},
		{"all units", all,
			Cost{Input: 10, Output: 100, Spend: 7}, Cost{Input: 12, Output: 40, Spend: 9}, Cost{Requests: 1, Tokens: 52, Input: 12, Output: 40, Spend: 9}, ""},
		{"requests that the usage counts", all,
			Cost{Requests: 2, Input: 10}, Cost{Requests: 3, Input: 10}, Cost{Requests: 3, Tokens: 10, Input: 10}, ""},
		{"requests that it does not count are those reserved", all,
			Cost{Requests: 2, Input: 10}, Cost{Input: 9}, Cost{Requests: 2, Tokens: 9, Input: 9}, ""},
		{"input and output together, by their sum", "tokens 1000/366d",
			Cost{Input: 10, Output: 100}, Cost{Input: 12, Output: 40}, Cost{Tokens: 52}, ""},
		{"or as the usage says", "tokens 1000/366d",
			Cost{Input: 10, Output: 100}, Cost{Input: 12, Output: 40, Tokens: 60}, Cost{Tokens: 60}, ""},
		{"tokens alone where they are limited apart: the estimate stands", apart,
			Cost{Input: 10, Output: 100}, Cost{Tokens: 52}, Cost{Input: 10, Output: 100}, "52 tokens without input"},
		{"a negative usage: the estimate stands", apart,
			Cost{Input: 10, Output: 100}, Cost{Input: 12, Output: -1}, Cost{Input: 10, Output: 100}, "-1 output"},
		{"more than ten bursts beyond the estimate in one unit", apart,
			Cost{Input: 10, Output: 100}, Cost{Input: 12, Output: 20_000}, Cost{Input: 12, Output: 10_100}, "charged 12 input tokens, 10100 output tokens"},
		{"a sum beyond every count", "tokens 1000/366d",
			Cost{Input: 10}, Cost{Input: math.MaxInt64, Output: math.MaxInt64}, Cost{Tokens: 10_010}, "charged 10010 tokens"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			playLimits(t, MustLimits(tt.limits), func(s *scene) {
				var reported error
				l, err := s.choke.Open(LimiterConfig{Key: "k", Limits: s.Limits(), Estimator: quoted{}, OnError: func(err error) { reported = err }})
				require.NoError(s, err)
				limits := s.Limits()
				half := limits.Limited(Cost{Tokens: 500, Input: 500, Output: 500, Spend: 500})
				s.spend(half) // to a full bucket nothing is returned
				time.Sleep(second)
				usage, err := WrapUsage(l, echo(tt.usage), known)(s.Context(), tt.estimate)
				require.NoError(s, err)
				assert.Equal(s, tt.usage, usage)
				if tt.invalid == "" {
					assert.NoError(s, reported)
				} else {
					assert.ErrorIs(s, reported, ErrUsage)
					assert.ErrorContains(s, reported, tt.invalid)
				}
				time.Sleep(second)
				b, _ := s.info()
				assert.Equal(s, limits.Limited(limits.Burst().Sub(half).Sub(tt.spent)), limits.Limited(b.Level))
			})
		})
	}
}

// A cost that does not say how its tokens divide is refused by every way to spend it.
func TestTokensAloneAreNoCostWhereInputOrOutputIsLimited(t *testing.T) {
	for limits, want := range map[string]string{
		"input 100/h":              "cost of 9 tokens without input, which is limited",
		"tokens 100/h; output 9/h": "cost of 9 tokens without output, which is limited",
	} {
		playLimits(t, MustLimits(limits), func(s *scene) {
			l := s.estimated(quoted{})
			_, estimate := l.Estimate(tokens(9))
			_, allow := l.Allow(s.Context(), tokens(9))
			_, reserve := l.Reserve(s.Context(), tokens(9))
			_, _, try := l.TryReserve(s.Context(), tokens(9))
			_, wrap := WrapUsage(l, echo(Cost{}), known)(s.Context(), tokens(9))
			for _, err := range []error{estimate, l.Wait(s.Context(), tokens(9)), allow, reserve, try, wrap} {
				assert.ErrorContains(s, err, want)
			}
			assert.Zero(s, s.Stats().Admitted)
			assert.EqualValues(s, 4, s.Stats().Refused)
		})
	}
}

func TestCostsOfSeveralUnitsThatCannotBe(t *testing.T) {
	for _, tt := range []struct {
		cost Cost
		want string
	}{
		{Cost{Input: -1}, "cost of -1 input"},
		{Cost{Spend: -1}, "cost of -$0.000001"}, // also in a unit that is not limited
		{Cost{Input: 1, Output: -1}, "cost of -1 output"},
		{Cost{Input: 600, Output: 500}, "1100 tokens asked, at most 1000 fit"},
		{Cost{Input: math.MaxInt64, Output: math.MaxInt64}, "tokens asked, at most 1000 fit"},
	} {
		play(t, "", "1000/h", func(s *scene) {
			assert.ErrorContains(s, s.Wait(s.Context(), tt.cost), tt.want)
			_, err := s.Allow(s.Context(), tt.cost)
			assert.ErrorContains(s, err, tt.want)
			assert.Zero(s, s.Stats().Admitted)
		})
	}
}
