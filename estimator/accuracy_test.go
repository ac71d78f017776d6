package estimator_test

import (
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/choked/choked/estimator"
	"github.com/choked/choked/estimator/internal/corpus"
	"github.com/choked/choked/estimator/tiktoken"
)

// truth returns a counter by o200k. The tests of package tiktoken compare it with
// OpenAI's encoding.
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
	// The fit has seen neither the prose nor the generated texts.
	exact := truth(t)
	for _, kind := range []struct {
		name  string
		texts []corpus.Text
	}{
		{"prose", corpus.Prose()},
		{"logs, data and sources of Go", append(corpus.Generated(4 << 10)[:3], corpus.Go(4<<10, 60)...)},
	} {
		var errors []float64
		for _, text := range kind.texts {
			want := float64(exact.Count(text.Body))
			got := float64(estimate(t, estimator.Default(), text.Body))
			errors = append(errors, math.Abs(got/want-1))
			t.Logf("%6.1f%%  %s", 100*(got/want-1), text.Name)
		}
		p50, p95 := percentile(errors, 50), percentile(errors, 95)
		t.Logf("%s: %.1f%% at the median, %.1f%% at p95", kind.name, 100*p50, 100*p95)
		if p95 > 0.20 || p50 > 0.08 {
			t.Errorf("Default is off by %.1f%% at the median and %.1f%% at p95 over %d texts, %s; want 8%% and 20%%",
				100*p50, 100*p95, len(kind.texts), kind.name)
		}
	}
}

func TestDefaultCountsAtLeast45PercentOfHostileText(t *testing.T) {
	// A high estimate wastes quota; a low one breaks the limit.
	exact := truth(t)
	for _, text := range slices.Concat(corpus.Hostile(8<<10), corpus.Generated(8<<10)) {
		want := float64(exact.Count(text.Body))
		if got := float64(estimate(t, estimator.Default(), text.Body)); got < 0.45*want {
			t.Errorf("Default = %.0f tokens for %s, which has %.0f: want at least 45%%", got, text.Name, want)
		}
	}
}

func TestDefaultRarelyCountsHalfOfRepeatedPair(t *testing.T) {
	exact := truth(t)
	e := estimator.Default()
	var chars []string
	for b := byte(' '); b <= '~'; b++ {
		chars = append(chars, string(b))
	}
	for _, text := range corpus.Prose() {
		chars = append(chars, string([]rune(text.Body)[10]))
	}
	var low []string
	for _, a := range chars {
		for _, b := range chars {
			text := strings.Repeat(a+b, 100)
			if float64(estimate(t, e, text)) < 0.5*float64(exact.Count(text)) {
				low = append(low, a+b)
			}
		}
	}
	if share := float64(len(low)) / float64(len(chars)*len(chars)); share > 0.2 {
		t.Errorf("%.0f%% of the texts of two characters are estimated at less than half of their tokens, want at most 20%%: %.200q", 100*share, low)
	}
}

// large returns even and uneven texts of 100 KB, and uneven texts of 1 MB, in
// which the parts that a sample meets depend on chance.
func large() []corpus.Text {
	const size = 100 << 10
	texts := slices.Concat(corpus.Generated(size), corpus.Uneven(size), corpus.Uneven(1 << 20)[:4], corpus.Go(size, 4))
	for _, name := range []string{"en", "de", "ru", "hi", "zh", "th", "emoji", "markdown"} {
		texts = append(texts, corpus.Text{Name: name, Body: corpus.Shuffled(name, size)})
	}
	return texts
}

func TestSampledEstimateOfLargeTextIsWithin5Percent(t *testing.T) {
	exact := truth(t)
	e := estimator.Using(exact) // each estimate draws other windows
	var all []float64
	for _, text := range large() {
		want := float64(exact.Count(text.Body))
		var errors []float64
		for range 5 {
			errors = append(errors, math.Abs(float64(estimate(t, e, text.Body))/want-1))
		}
		all = append(all, errors...)
		p95 := percentile(errors, 95) // the worst of five
		t.Logf("%5.1f%%  %s, %d KB", 100*p95, text.Name, len(text.Body)>>10)
		if p95 > 0.05 {
			t.Errorf("sample of %s, %d KB, is off by %.1f%% at p95, want at most 5%%", text.Name, len(text.Body)>>10, 100*p95)
		}
	}
	t.Logf("sampled error %.1f%% at the median, %.1f%% at p95, %.1f%% at worst", 100*percentile(all, 50), 100*percentile(all, 95), 100*percentile(all, 100))
}

func TestSampleHasNoBias(t *testing.T) {
	// The cut ends of a window make tokens that the text does not have. The mean of
	// many draws shows that the sample does not count them.
	exact := truth(t)
	e := estimator.Using(exact)
	texts := append(corpus.Uneven(64<<10), corpus.Text{Name: "en", Body: corpus.English(64 << 10)}, corpus.Text{Name: "zh", Body: corpus.Shuffled("zh", 64<<10)})
	for _, text := range texts {
		want := float64(exact.Count(text.Body))
		var sum float64
		for range 20 {
			sum += float64(estimate(t, e, text.Body)) / 20
		}
		if off := sum/want - 1; math.Abs(off) > 0.01 {
			t.Errorf("the mean of 20 samples of %s is off by %.2f%%, want 1%%", text.Name, 100*off)
		}
	}
}
