package estimator_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/choked/choked/estimator"
)

// fixed is an estimator whose inputs are their own estimates.
type fixed struct{}

func (fixed) Estimate(input any) (int64, error) {
	n, ok := input.(int64)
	if !ok {
		return 0, errors.New("want a number")
	}
	return n, nil
}

func estimate(t testing.TB, e estimator.Estimator, input any) int64 {
	t.Helper()
	n, err := e.Estimate(input)
	if err != nil {
		t.Fatalf("Estimate(%v): %v", input, err)
	}
	return n
}

func near(a, b, share float64) bool { return math.Abs(a-b) <= share*b }

func TestFactorIsOneBeforeFirstReport(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	if got := estimate(t, c, int64(123)); got != 123 || c.Factor() != 1 {
		t.Errorf("Estimate = %d with factor %g, want 123 with 1", got, c.Factor())
	}
}

func TestFactorConvergesToActualOverUnscaled(t *testing.T) {
	for _, ratio := range []float64{0.3, 0.8, 1, 1.25, 3.5} {
		c := estimator.Calibrate(fixed{})
		r := rand.New(rand.NewPCG(1, 1))
		for range 300 {
			raw := 1 + r.Int64N(5000)
			c.Observe(estimate(t, c, raw), max(int64(float64(raw)*ratio), 1))
		}
		if !near(c.Factor(), ratio, 0.02) {
			t.Errorf("after 300 reports at %g times the estimate: Factor = %g", ratio, c.Factor())
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
			c.Observe(open[0].estimated, open[0].actual)
			reports++
			ahead := c.Factor() / ratio
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
	c.Observe(n+1, 400) // no estimate has this value
	c.Observe(n, 100)
	c.Observe(n, 400) // the second report of this estimate
	for range 3000 {
		estimate(t, c, int64(50))
	}
	old := estimate(t, c, int64(70))
	for range 3000 {
		estimate(t, c, int64(50))
	}
	c.Observe(old, 400) // too old: no longer remembered
	if f := c.Factor(); f != 1 {
		t.Errorf("Factor = %g after reports that belong to no estimate, want 1", f)
	}
}

func TestFactorFollowsChangedRatio(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	for _, ratio := range []int64{3, 1, 2} {
		for range 400 {
			c.Observe(estimate(t, c, int64(1000)), 1000*ratio)
		}
		if f := c.Factor(); !near(f, float64(ratio), 0.02) {
			t.Errorf("Factor = %g after 400 reports at %d", f, ratio)
		}
	}
}

func TestFactorIsClamped(t *testing.T) {
	up, down := estimator.Calibrate(fixed{}), estimator.Calibrate(fixed{})
	for range 1000 {
		up.Observe(estimate(t, up, int64(1000)), math.MaxInt64)
		down.Observe(estimate(t, down, int64(1000)), 1)
	}
	if up.Factor() > 4 || !near(up.Factor(), 4, 0.01) || down.Factor() < 0.25 || !near(down.Factor(), 0.25, 0.01) {
		t.Errorf("Factors = %g and %g, want at most 4 and at least 0.25", up.Factor(), down.Factor())
	}
}

func TestSingleOddReportMovesFactorLittle(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	for range 200 {
		c.Observe(estimate(t, c, int64(1000)), 1000)
	}
	c.Observe(estimate(t, c, int64(1000)), 1_000_000)
	if f := c.Factor(); f > 1.1 {
		t.Errorf("Factor = %g after one report of 1000 times the estimate, want at most 1.1", f)
	}
}

func TestSingleOddReportOfLongCallMovesFactorLittle(t *testing.T) {
	for _, actual := range []int64{1, math.MaxInt64} {
		for _, size := range []int64{1_000_000, math.MaxInt64 / 8} {
			c := estimator.Calibrate(fixed{})
			for range 200 {
				c.Observe(estimate(t, c, int64(1000)), 1000)
			}
			c.Observe(estimate(t, c, size), actual)
			if f := c.Factor(); f > 1.25 || f < 0.9 {
				t.Errorf("Factor = %g after one report of %d for %d among those of 1000, want 0.9 to 1.25", f, actual, size)
			}
		}
	}
}

func TestShortFirstReportDoesNotSlowConvergence(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	c.Observe(estimate(t, c, int64(1)), 1)
	for range 50 {
		c.Observe(estimate(t, c, int64(100_000)), 200_000)
	}
	if f := c.Factor(); !near(f, 2, 0.05) {
		t.Errorf("Factor = %g after 50 reports of twice the estimate, want 2", f)
	}
}

func TestReportsBelowOneAreIgnored(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	for _, r := range [][2]int64{{0, 5}, {5, 0}, {-1, 5}, {5, -1}, {math.MinInt64, math.MinInt64}} {
		c.Observe(r[0], r[1])
	}
	if f := c.Factor(); f != 1 {
		t.Errorf("Factor = %g, want 1", f)
	}
}

func TestCalibratedPassesOnErrorsZeroAndExtremes(t *testing.T) {
	c := estimator.Calibrate(fixed{})
	if _, err := c.Estimate("x"); err == nil {
		t.Error("Estimate returns no error, want that of the wrapped estimator")
	}
	c.Observe(estimate(t, c, int64(100)), 400)
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
				c.Observe(n, 3*(100*g+i+1))
			}
		})
	}
	wg.Wait()
	if f := c.Factor(); !near(f, 3, 0.05) {
		t.Errorf("Factor = %g, want 3", f)
	}
}
