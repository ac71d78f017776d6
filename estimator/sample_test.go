package estimator_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"unicode/utf8"

	"github.com/choked/choked/estimator"
)

// bytesCounter counts one token for each byte, sums the bytes that it was given,
// and reports a text that is cut inside a character.
type bytesCounter struct {
	t     *testing.T
	bytes atomic.Int64
}

func (c *bytesCounter) Count(text string) int {
	if !utf8.ValidString(text) {
		c.t.Errorf("counted %.20q, cut inside a character", text)
	}
	c.bytes.Add(int64(len(text)))
	return len(text)
}

func TestTextUpTo32KBIsCountedWhole(t *testing.T) {
	c := &bytesCounter{t: t}
	text := strings.Repeat("x", 32<<10)
	if got := estimate(t, estimator.Using(c), text); got != 32<<10 || c.bytes.Load() != 32<<10 {
		t.Errorf("Estimate = %d after counting %d bytes, want all %d", got, c.bytes.Load(), 32<<10)
	}
}

func TestLargeTextIsSampled(t *testing.T) {
	for _, test := range []struct {
		name          string
		input         any
		size, windows int64
	}{
		{"one text", strings.Repeat("é", 5<<20), 10 << 20, 128},
		{"many small texts", strings.Split(strings.Repeat("日本\n", 1<<20), "\n")[:1<<20], 6 << 20, 128},
		{"a few texts", []string{strings.Repeat("日", 9999), "", strings.Repeat("x", 99999), "é"}, 3*9999 + 99999 + 2, 127},
		{"a text just above 32 KB", strings.Repeat("x", 32<<10+1), 32<<10 + 1, 64},
	} {
		c := &bytesCounter{t: t}
		got := estimate(t, estimator.Using(c), test.input)
		// A window of 512 bytes moves to the start of a character, by at most 3 bytes.
		// That must not change the tokens per byte.
		if !near(float64(got), float64(test.size), 0.01) {
			t.Errorf("%s: Estimate = %d, want %d", test.name, got, test.size)
		}
		if n := c.bytes.Load(); n > test.windows*(512+2*(64+256)+8) {
			t.Errorf("%s: counted %d bytes, want at most %d windows of 512 bytes and their context", test.name, n, test.windows)
		}
	}
}

func TestExactCountsWholeText(t *testing.T) {
	c := &bytesCounter{t: t}
	if got := estimate(t, estimator.Using(c, estimator.Exact()), strings.Repeat("é", 1<<20)); got != 2<<20 {
		t.Errorf("Estimate = %d, want %d", got, 2<<20)
	}
}

func TestEachEstimateDrawsNewSample(t *testing.T) {
	// An author who could guess the windows could write a text around them.
	text := strings.Repeat("x", 500) + strings.Repeat("y", 600)
	text = strings.Repeat(text, 100)
	counter := counterFunc(func(s string) int { return strings.Count(s, "x") })
	seen := map[int64]bool{}
	e := estimator.Using(counter)
	for range 5 {
		seen[estimate(t, e, text)] = true
		seen[estimate(t, estimator.Using(counter), text)] = true
	}
	if len(seen) < 3 {
		t.Errorf("10 samples gave only %d different estimates", len(seen))
	}
}

func TestEachByteIsEquallyLikelyInSample(t *testing.T) {
	// The records are as long as the strata. If windows were rare at the ends of
	// strata, text at these places would be nearly free.
	record := strings.Repeat("x", 256) + strings.Repeat("y", 512) + strings.Repeat("x", 256)
	text := strings.Repeat(record, 64)
	e := estimator.Using(counterFunc(func(s string) int { return strings.Count(s, "x") }))
	var mean float64
	for range 50 {
		mean += float64(estimate(t, e, text)) / 50
	}
	if !near(mean, float64(len(text)/2), 0.05) {
		t.Errorf("the mean of 50 samples is %.0f, want %d", mean, len(text)/2)
	}
}

func TestEstimatorsAreSafeForConcurrentUse(t *testing.T) {
	inputs := []any{"short", strings.Repeat("long ", 10_000), []string{"a", "b"}, m{"role": "user", "content": "hi"},
		[]byte(`{"messages":[{"role":"user","content":"hi"}],"max_tokens":3}`), []estimator.Message{{Role: "user", Content: "hi"}}}
	e := estimator.Calibrate(estimator.Using(words, estimator.Output(5)))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 200 {
				n, err := e.Estimate(inputs[i%len(inputs)])
				if n.Tokens < 5 || err != nil {
					t.Errorf("Estimate = %v, %v; want at least the reserve of 5", n, err)
				}
				e.Observe(n, n)
			}
		})
	}
	wg.Wait()
}

type counterFunc func(string) int

func (f counterFunc) Count(s string) int { return f(s) }
