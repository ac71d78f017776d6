package estimator_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/estimator"
)

// fixed is an estimator whose inputs are their own estimates.
type fixed struct{}

func (fixed) Estimate(input any) (bucket.Cost, error) {
	switch input := input.(type) {
	case bucket.Cost:
		return input, nil
	case int64:
		return bucket.Cost{Tokens: input}, nil
	}
	return bucket.Cost{}, errors.New("want a number or a cost")
}

func estimateCost(t testing.TB, e estimator.Estimator, input any) bucket.Cost {
	t.Helper()
	c, err := e.Estimate(input)
	if err != nil {
		t.Fatalf("Estimate(%v): %v", input, err)
	}
	return c
}

// estimate returns the tokens of an estimate, in and out together.
func estimate(t testing.TB, e estimator.Estimator, input any) int64 {
	t.Helper()
	return estimateCost(t, e, input).Tokens
}

// observe reports the tokens of a call, in and out together.
func observe(c *estimator.Calibrated, estimated, actual int64) {
	c.Observe(bucket.Cost{Tokens: estimated}, bucket.Cost{Tokens: actual})
}

// factor returns the factor of Tokens.
func factor(c *estimator.Calibrated) float64 { return c.Factor(bucket.Tokens) }

func near(a, b, share float64) bool { return math.Abs(a-b) <= share*b }

func TestFactorIsOneBeforeFirstReport(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	if got := estimate(t, c, int64(123)); got != 123 || factor(c) != 1 {
		t.Errorf("Estimate = %d with factor %g, want 123 with 1", got, factor(c))
	}
}

func TestFactorConvergesToActualOverUnscaled(t *testing.T) {
	for _, ratio := range []float64{0.3, 0.8, 1, 1.25, 3.5} {
		c := estimator.Calibrate(fixed{})
		r := rand.New(rand.NewPCG(1, 1))
		for range 300 {
			raw := 1 + r.Int64N(5000)
			observe(c, estimate(t, c, raw), max(int64(float64(raw)*ratio), 1))
		}
		if !near(factor(c), ratio, 0.02) {
			t.Errorf("after 300 reports at %g times the estimate: Factor = %g", ratio, factor(c))
		}
		if got := estimate(t, c, int64(10000)); !near(float64(got), 10000*ratio, 0.02) {
			t.Errorf("Estimate of 10000 at ratio %g = %d", ratio, got)
		}
	}
}

func TestFactorDoesNotOvershootWithThousandInFlight(t *testing.T) {
	// The factor moves while the calls are in flight, so inputs of different size may
	// have the same estimate. If half of the calls are never reported, a report may
	// belong to an old call or to a new one.
	for _, ratio := range []float64{2, 0.4} {
		for _, size := range []int64{300, 3000, 30_000} {
			for _, inFlight := range []int{100, 1000} {
				for _, reported := range []float64{1, 0.5} {
					past, short := overshoot(t, ratio, size, inFlight, reported)
					if past > 1.03 || short > 1.03 {
						t.Errorf("%d calls in flight of up to %d tokens, a share of %g reported: Factor overshoots %g by a factor of %.3f, and later falls short of it by %.3f; want at most 1.03",
							inFlight, size, reported, ratio, past, short)
					}
				}
			}
		}
	}
}

// overshoot makes calls of up to size tokens, and reports a share of them, the
// oldest first, once more than inFlight are open. It returns the largest quotient
// of Factor and ratio past the ratio, and from the 500th report on the largest
// short of it.
func overshoot(t *testing.T, ratio float64, size int64, inFlight int, reported float64) (past, short float64) {
	type call struct{ estimated, actual int64 }
	c := estimator.Calibrate(fixed{})
	r := rand.New(rand.NewPCG(5, 6))
	var open []call
	for reports := 0; reports < 2500; {
		raw := 1 + r.Int64N(size)
		open = append(open, call{estimate(t, c, raw), max(int64(math.Round(float64(raw)*ratio)), 1)})
		if len(open) <= inFlight {
			continue
		}
		if r.Float64() < reported {
			observe(c, open[0].estimated, open[0].actual)
			reports++
			ahead := factor(c) / ratio
			if ratio < 1 {
				ahead = 1 / ahead
			}
			past = max(past, ahead)
			if reports > 500 {
				short = max(short, 1/ahead)
			}
		}
		open = open[1:]
	}
	return past, short
}

func TestReportWithoutEstimateIsIgnored(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	n := estimate(t, c, int64(100))
	observe(c, n+1, 400) // no estimate has this value
	observe(c, n, 100)
	observe(c, n, 400) // the second report of this estimate
	for range 3000 {
		estimate(t, c, int64(50))
	}
	old := estimate(t, c, int64(70))
	for range 3000 {
		estimate(t, c, int64(50))
	}
	observe(c, old, 400) // too old: no longer remembered
	if f := factor(c); f != 1 {
		t.Errorf("Factor = %g after reports that belong to no estimate, want 1", f)
	}
}

func TestFactorFollowsChangedRatio(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	for _, ratio := range []int64{3, 1, 2} {
		for range 400 {
			observe(c, estimate(t, c, int64(1000)), 1000*ratio)
		}
		if f := factor(c); !near(f, float64(ratio), 0.02) {
			t.Errorf("Factor = %g after 400 reports at %d", f, ratio)
		}
	}
}

func TestFactorIsClamped(t *testing.T) {
	up, down := estimator.Calibrate(fixed{}), estimator.Calibrate(fixed{})
	for range 1000 {
		observe(up, estimate(t, up, int64(1000)), math.MaxInt64)
		observe(down, estimate(t, down, int64(1000)), 1)
	}
	if factor(up) > 4 || !near(factor(up), 4, 0.01) || factor(down) < 0.25 || !near(factor(down), 0.25, 0.01) {
		t.Errorf("Factors = %g and %g, want at most 4 and at least 0.25", factor(up), factor(down))
	}
}

func TestSingleOddReportMovesFactorLittle(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	for range 200 {
		observe(c, estimate(t, c, int64(1000)), 1000)
	}
	observe(c, estimate(t, c, int64(1000)), 1_000_000)
	if f := factor(c); f > 1.1 {
		t.Errorf("Factor = %g after one report of 1000 times the estimate, want at most 1.1", f)
	}
}

func TestSingleOddReportOfLongCallMovesFactorLittle(t *testing.T) {
	for _, actual := range []int64{1, math.MaxInt64} {
		for _, size := range []int64{1_000_000, math.MaxInt64 / 8} {
			c := estimator.Calibrate(fixed{})
			for range 200 {
				observe(c, estimate(t, c, int64(1000)), 1000)
			}
			observe(c, estimate(t, c, size), actual)
			if f := factor(c); f > 1.25 || f < 0.9 {
				t.Errorf("Factor = %g after one report of %d for %d among those of 1000, want 0.9 to 1.25", f, actual, size)
			}
		}
	}
}

func TestShortFirstReportDoesNotSlowConvergence(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	observe(c, estimate(t, c, int64(1)), 1)
	for range 50 {
		observe(c, estimate(t, c, int64(100_000)), 200_000)
	}
	if f := factor(c); !near(f, 2, 0.05) {
		t.Errorf("Factor = %g after 50 reports of twice the estimate, want 2", f)
	}
}

func TestReportsBelowOneAreIgnored(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	for _, r := range [][2]int64{{0, 5}, {5, 0}, {-1, 5}, {5, -1}, {math.MinInt64, math.MinInt64}} {
		observe(c, r[0], r[1])
	}
	if f := factor(c); f != 1 {
		t.Errorf("Factor = %g, want 1", f)
	}
}

func TestCalibratedPassesOnErrorsZeroAndExtremes(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	if _, err := c.Estimate("x"); err == nil {
		t.Error("Estimate returns no error, want that of the wrapped estimator")
	}
	observe(c, estimate(t, c, int64(100)), 400)
	for input, want := range map[int64]int64{0: 0, math.MaxInt64: math.MaxInt64} {
		if got := estimate(t, c, input); got != want {
			t.Errorf("Estimate of %d = %d, want %d", input, got, want)
		}
	}
}

func TestCalibratedIsSafeForConcurrentUse(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	var wg sync.WaitGroup
	for g := range int64(8) {
		wg.Go(func() {
			for i := range int64(200) {
				n, err := c.Estimate(100*g + i + 1)
				if err != nil {
					t.Error(err)
				}
				c.Observe(n, bucket.Cost{Tokens: 3 * (100*g + i + 1)})
			}
		})
	}
	wg.Wait()
	if f := factor(c); !near(f, 3, 0.05) {
		t.Errorf("Factor = %g, want 3", f)
	}
}

// Long prompts with short replies and short prompts with long ones: no factor of the
// total is right for both.
func TestInputAndOutputAreCorrectedApart(t *testing.T) {
	prompt := bucket.Cost{Input: 1000, Output: 200, Tokens: 1200}
	reply := bucket.Cost{Input: 100, Output: 2000, Tokens: 2100}
	for _, actual := range []bucket.Cost{{Input: 2, Output: 1}, {Input: 2, Output: 1, Tokens: 3}} { // each twice, and a half
		c := estimator.Calibrate(fixed{})
		for range 300 {
			for _, raw := range []bucket.Cost{prompt, reply} {
				used := bucket.Cost{Input: raw.Input * actual.Input, Output: raw.Output * actual.Output / 2}
				if actual.Tokens > 0 {
					used.Tokens = used.Input + used.Output
				}
				e := estimateCost(t, c, raw)
				e.Requests = 1 // as a limiter reserves it
				c.Observe(e, used)
			}
		}
		for _, raw := range []bucket.Cost{prompt, reply} {
			want := bucket.Cost{Input: 2 * raw.Input, Output: raw.Output / 2, Tokens: 2*raw.Input + raw.Output/2}
			got := estimateCost(t, c, raw)
			for _, u := range []bucket.Unit{bucket.Input, bucket.Output, bucket.Tokens} {
				if !near(float64(got.Of(u)), float64(want.Of(u)), 0.02) {
					t.Errorf("Estimate of %v = %v, want %v", raw, got, want)
				}
			}
			if got.Tokens != got.Input+got.Output {
				t.Errorf("Estimate of %v = %v, want tokens that are the sum", raw, got)
			}
		}
		if in, out := c.Factor(bucket.Input), c.Factor(bucket.Output); !near(in, 2, 0.02) || !near(out, 0.5, 0.02) || c.Factor(bucket.Requests) != 1 {
			t.Errorf("Factors = %g of input, %g of output, want 2 and 0.5", in, out)
		}
	}
}

// Each row reports a usage 300 times for the same estimate and shows the next one.
func TestCalibratedFollowsTheUnitsThatAreReported(t *testing.T) {
	both := bucket.Cost{Input: 1000, Output: 500, Tokens: 1500}
	for _, tt := range []struct {
		name            string
		raw, used, want bucket.Cost
	}{
		{"a total corrects the total alone", both, bucket.Cost{Tokens: 3000}, bucket.Cost{Input: 1000, Output: 500, Tokens: 3000}},
		{"input without output: the total is that of the report", both, bucket.Cost{Input: 750}, bucket.Cost{Input: 750, Output: 500, Tokens: 750}},
		{"output that is not reserved is part of the total",
			bucket.Cost{Input: 1000, Tokens: 1000}, bucket.Cost{Input: 1000, Output: 500}, bucket.Cost{Input: 1000, Tokens: 1500}},
		{"a total that is not the sum is corrected by its own reports", // such as the larger of both
			bucket.Cost{Input: 1000, Output: 500, Tokens: 1000}, bucket.Cost{Input: 1000, Output: 250, Tokens: 2000}, bucket.Cost{Input: 1000, Output: 250, Tokens: 2000}},
		{"an estimator of the total alone", bucket.Cost{Tokens: 1000}, bucket.Cost{Input: 1500, Output: 500}, bucket.Cost{Tokens: 2000}},
		{"requests and spend are not scaled", bucket.Cost{Requests: 2, Tokens: 1000, Spend: 9}, bucket.Cost{Tokens: 2000, Spend: 90},
			bucket.Cost{Requests: 2, Tokens: 2000, Spend: 9}},
		{"a report that exceeds every count", both, bucket.Cost{Input: math.MaxInt64, Output: math.MaxInt64}, bucket.Cost{Input: 4000, Output: 2000, Tokens: 6000}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := estimator.Calibrate(fixed{})
			for range 300 {
				c.Observe(estimateCost(t, c, tt.raw), tt.used)
			}
			got := estimateCost(t, c, tt.raw)
			for u := range bucket.NumUnits {
				if want := float64(tt.want.Of(u)); !near(float64(got.Of(u)), want, 0.02) {
					t.Fatalf("Estimate of %v after reports of %v = %v, want %v", tt.raw, tt.used, got, tt.want)
				}
			}
		})
	}
}
