package estimator

import (
	"math"
	"slices"
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
	// mostOpen bounds the estimates remembered until they are reported, to 32 KB.
	mostOpen = 2048
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
	// The estimates that no report has come for, the oldest first. The factor may
	// have moved since, and a report scaled by the wrong one would feed back: many
	// at once would overshoot.
	open []opened
}

// opened is an estimate, as it was returned and before scaling.
type opened struct{ estimated, raw int64 }

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
	if len(c.open) == mostOpen {
		c.open = slices.Delete(c.open, 0, mostOpen/8) // many at once, so that it is seldom
	}
	c.open = append(c.open, opened{estimated, raw})
	return estimated, nil
}

// Observe reports that an input was estimated at estimated tokens, the value
// that Estimate returned for it, and cost actual tokens. Reports may come in any
// order, late, or not at all. An actual cost beyond four times the unscaled
// estimate, or below a quarter of it, counts as that bound, and a report weighs
// four times as much as the usual one at most, so one odd report moves little.
//
// A report says nothing, and is left out, with either value below one, when the
// estimate is not among the last 1,792 that no report has come for, or when some of
// these have the same value but came from inputs of different size.
//
// With a steady ratio of actual to unscaled cost the factor goes to that ratio,
// clamped to [1/4, 4], by a fiftieth of the way at each report, and the first
// reports count for more. It does not run past it when a thousand calls are in
// flight: each is judged by its estimate as it was before scaling.
func (c *Calibrated) Observe(estimated, actual int64) {
	if estimated <= 0 || actual <= 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	unscaled, ok := c.reportedLocked(estimated)
	if !ok {
		return
	}
	raw := float64(unscaled)
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

// reportedLocked takes the oldest open estimate of that value and returns what it
// was before scaling. It is not ok if there is none, or if others of that value
// came from something else than rounding and a factor as good as the same explain.
func (c *Calibrated) reportedLocked(estimated int64) (raw int64, ok bool) {
	least, most, at := int64(math.MaxInt64), int64(0), -1
	for i, o := range c.open {
		if o.estimated != estimated {
			continue
		}
		if at < 0 {
			at = i
		}
		least, most = min(least, o.raw), max(most, o.raw)
	}
	if at < 0 {
		return 0, false
	}
	raw = c.open[at].raw
	c.open = slices.Delete(c.open, at, at+1)
	return raw, float64(most-least)*c.factor <= 1+float64(estimated)/32
}

// Factor returns what estimates are multiplied by now, 1/4 to 4.
func (c *Calibrated) Factor() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.factor
}
