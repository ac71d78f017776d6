package estimator

import (
	"math"
	"sync"
)

const (
	// factorLimit bounds what calibration may do, either way: an estimator that is
	// wrong by more is the wrong one, and a bad report cannot do more harm.
	factorLimit = 4.0
	// forget is what each report leaves of the weight of those before it: the
	// average is over some fifty reports.
	forget = 0.98
	// heaviest bounds the weight of a report, as a multiple of the usual one: a
	// call a thousand times as long as the others does not speak for them.
	heaviest = 4
	notes    = 1024 // estimates remembered until they are observed; a power of two
)

// Calibrated scales an estimator by what its estimates turned out to cost. Use
// one for each limiter: what a provider adds differs by model and by caller.
// It is safe for concurrent use. Make one with [Calibrate].
type Calibrated struct {
	estimator Estimator

	mu     sync.Mutex
	factor float64
	// Decaying sums of observed tokens, of estimates before scaling, and of reports.
	// The ratio of the first two weighs reports by size, so that the sum of many
	// estimates is right and a short text, all overhead, does not outvote a long one.
	actual, raw, reports float64
	// What recent estimates were before scaling, found by the low bits of their
	// value. The factor may have moved since, and a report scaled by the wrong
	// factor would feed back: many at once would overshoot.
	unscaled [notes]note
}

type note struct{ estimated, raw int64 }

// Calibrate wraps e, at first with a factor of 1. Without reports to
// [Calibrated.Observe] it estimates as e does. What is reported must be what e
// estimates: the prompt's tokens, or those of prompt and reply with [Output].
func Calibrate(e Estimator) *Calibrated {
	return &Calibrated{estimator: e, factor: 1}
}

// Estimate returns what the wrapped estimator does, scaled by the factor and
// rounded to the nearest token; an estimate above zero stays above zero.
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
	c.unscaled[estimated&(notes-1)] = note{estimated, raw}
	return estimated, nil
}

// Observe reports that an input was estimated at estimated tokens, the value
// that Estimate returned for it, and cost actual tokens. Reports may come in any
// order, late, or not at all. A report with either below one says nothing and
// is left out. An actual cost beyond four times the unscaled estimate, or below
// a quarter of it, counts as that bound, and a report weighs four times as much as
// the usual one at most, so one odd report moves little.
//
// With a steady ratio of actual to unscaled cost the factor goes to that ratio,
// clamped to [1/4, 4], by a fiftieth of the way at each report, and the first
// reports count for more. It does not run past it when hundreds are in flight:
// each is judged by the estimate as it was before scaling.
func (c *Calibrated) Observe(estimated, actual int64) {
	if estimated <= 0 || actual <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	raw := float64(estimated) / c.factor
	if n := c.unscaled[estimated&(notes-1)]; n.estimated == estimated {
		raw = float64(n.raw)
	}
	ratio := min(max(float64(actual)/raw, 1/factorLimit), factorLimit)
	if c.reports == 0 {
		c.raw, c.actual, c.reports = raw, raw, 1 // before any report, one that the estimator is right
	}
	weight := min(raw, heaviest*c.raw/c.reports)
	c.raw = c.raw*forget + weight
	c.actual = c.actual*forget + weight*ratio
	c.reports = c.reports*forget + 1
	c.factor = min(max(c.actual/c.raw, 1/factorLimit), factorLimit)
}

// Factor returns what estimates are multiplied by now, 1/4 to 4.
func (c *Calibrated) Factor() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.factor
}
