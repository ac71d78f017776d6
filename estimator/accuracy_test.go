package estimator_test

import (
	"math"
	"slices"
	"testing"

	"github.com/choked/choked/estimator"
	"github.com/choked/choked/estimator/internal/corpus"
	"github.com/choked/choked/estimator/tiktoken"
)

// truth counts the tokens of a text by o200k, which the tests of package
// tiktoken hold against OpenAI's encoding.
func truth(t testing.TB) estimator.Counter {
	t.Helper()
	c, err := tiktoken.OpenAI("gpt-4o").Counter()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func percentile(errors []float64, p int) float64 {
	slices.Sort(errors)
	return errors[min(len(errors)*p/100, len(errors)-1)]
}

func TestDefaultIsWithin20PercentForMostText(t *testing.T) {
	// None of the prose and of the generated texts was used in the fit.
	exact := truth(t)
	texts := slices.Concat(corpus.Prose(), corpus.Generated(4 << 10)[:3], corpus.Go(4<<10, 60))
	var errors []float64
	for _, text := range texts {
		want := float64(exact.Count(text.Body))
		got := float64(estimate(t, estimator.Default(), text.Body))
		errors = append(errors, math.Abs(got/want-1))
		t.Logf("%6.1f%%  %s", 100*(got/want-1), text.Name)
	}
	if p50, p95 := percentile(errors, 50), percentile(errors, 95); p95 > 0.20 || p50 > 0.08 {
		t.Errorf("Default is off by %.1f%% at the median and %.1f%% at p95 over %d texts, want 8%% and 20%%", 100*p50, 100*p95, len(texts))
	}
}
