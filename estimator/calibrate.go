package estimator

import (
	"math"
	"slices"
	"sync"
)

const (
	// maxFactor bounds the factor in both directions. An estimator that is wrong by
	// more is the wrong estimator, and the bound limits the harm of a bad report.
	maxFactor = 4.0
	// decay is the share of its weight that a report keeps at each later report: the
	// average covers some fifty reports.
	decay = 0.98
	// maxWeight bounds the weight of a report, as a multiple of the mean weight: one
	// call a thousand times as long as the others should not decide the factor.
	maxWeight = 4
	// maxOpen bounds the number of estimates without a report that are remembered, to 32 KB.
	maxOpen = 2048
)

// Calibrated scales an estimator by the ratio of reported to estimated tokens.
// Use one for each limiter: the ratio differs by model and by caller. It is safe
// for concurrent use. [Calibrate] makes one; the zero value is not usable.
type Calibrated struct {
	estimator Estimator

	mu     sync.Mutex
	factor float64
	// Decaying sums of reported tokens, of estimates before scaling, and of reports.
	// The ratio of the first two weighs reports by size, so that the sum of many
	// estimates is right and short texts, which are all overhead, do not outvote a
	// long one.
	actual, raw, reports float64
	// The estimates without a report, the oldest first. A report is compared with
	// its own estimate before scaling. Scaled by the current factor instead, reports
	// of many calls in flight would feed back and overshoot.
	open []openEstimate
}

// openEstimate is an estimate as Estimate returned it, and before scaling.
type openEstimate struct{ estimated, raw int64 }

// Calibrate returns an estimator that estimates as e does, scaled by a factor
// that starts at 1 and follows the reports to [Calibrated.Observe]. Report the
// same quantity that e estimates: the tokens of the prompt, or those of prompt
// and reply with the option [Output].
func Calibrate(e Estimator) *Calibrated {
	return &Calibrated{estimator: e, factor: 1}
}

// Estimate returns the estimate of the wrapped estimator times the factor,
// rounded to the nearest token. A positive estimate stays positive. Errors are
// those of the wrapped estimator.
func (c *Calibrated) Estimate(input any) (int64, error) {
	raw, err := c.estimator.Estimate(input)
	if err != nil || raw <= 0 {
		return raw, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	scaled := math.Round(float64(raw) * c.factor)
	if scaled >= math.MaxInt64 {
		return math.MaxInt64, nil
	}
	estimated := max(int64(scaled), 1)
	if len(c.open) == maxOpen {
		c.open = slices.Delete(c.open, 0, maxOpen/8) // many at once, so that the copy is rare
	}
	c.open = append(c.open, openEstimate{estimated, raw})
	return estimated, nil
}

// Observe reports the actual cost, in tokens, of an input for which Estimate
// returned estimated. Reports may arrive in any order, late, or not at all.
//
// A cost above four times the estimate before scaling, or below a quarter of it,
// counts as that bound. A report weighs at most four times as much as the average
// report. So a single odd report moves the factor little. With a steady ratio of
// actual cost to estimate before scaling, the factor approaches that ratio,
// clamped to [1/4, 4], by a fiftieth of the distance at each report; the first
// reports weigh more. It does not overshoot with a thousand calls in flight.
//
// Observe ignores a report if either value is less than 1, if estimated is not
// among the last 1,792 estimates without a report, or if several of these have
// that value but come from inputs of different size.
func (c *Calibrated) Observe(estimated, actual int64) {
	if estimated <= 0 || actual <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	unscaled, ok := c.closeLocked(estimated)
	if !ok {
		return
	}
	raw := float64(unscaled)
	ratio := min(max(float64(actual)/raw, 1/maxFactor), maxFactor)
	if c.reports == 0 {
		c.raw, c.actual, c.reports = raw, raw, 1 // the sums start with one report that confirms the estimator
	}
	weight := min(raw, maxWeight*c.raw/c.reports)
	c.raw = c.raw*decay + weight
	c.actual = c.actual*decay + weight*ratio
	c.reports = c.reports*decay + 1
	c.factor = min(max(c.actual/c.raw, 1/maxFactor), maxFactor)
}

// closeLocked removes the oldest open estimate of that value, and returns it as
// it was before scaling. It is not ok if there is none, or if several have that
// value and differ before scaling by more than rounding and small changes of the
// factor explain: any of them may be the reported one.
func (c *Calibrated) closeLocked(estimated int64) (raw int64, ok bool) {
	least, most, oldest := int64(math.MaxInt64), int64(0), -1
	for i, o := range c.open {
		if o.estimated != estimated {
			continue
		}
		if oldest < 0 {
			oldest = i
		}
		least, most = min(least, o.raw), max(most, o.raw)
	}
	if oldest < 0 {
		return 0, false
	}
	raw = c.open[oldest].raw
	c.open = slices.Delete(c.open, oldest, oldest+1)
	return raw, float64(most-least)*c.factor <= 1+float64(estimated)/32
}

// Factor returns the factor by which estimates are multiplied now, 1/4 to 4.
func (c *Calibrated) Factor() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.factor
}
