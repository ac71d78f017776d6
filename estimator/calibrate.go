package estimator

import (
	"math"
	"slices"
	"sync"

	"github.com/choked/choked/bucket"
)

const (
	// maxFactor bounds a factor in both directions. An estimator that is wrong by
	// more is the wrong estimator, and the bound limits the harm of a bad report.
	maxFactor = 4.0
	// decay is the share of its weight that a report keeps at each later report: the
	// average covers some fifty reports.
	decay = 0.98
	// maxWeight bounds the weight of a report, as a multiple of the mean weight: one
	// call a thousand times as long as the others should not decide the factor.
	maxWeight = 4
	// maxOpen bounds the number of estimates without a report that are remembered, to 96 KB.
	maxOpen = 2048
)

// Calibrated scales an estimator by the ratio of reported to estimated tokens, for
// input, output, and both together. Use one for each limiter: the ratios differ by
// model and by caller. It is safe for concurrent use. [Calibrate] makes one; the zero
// value is not usable.
type Calibrated struct {
	estimator Estimator

	mu     sync.Mutex
	ratios [len(parts)]ratio
	// The estimates without a report, the oldest first. A report is compared with
	// its own estimate before scaling. Scaled by the current factor instead, reports
	// of many calls in flight would feed back and overshoot.
	open []openEstimate
}

// parts are the units of a cost that are calibrated.
var parts = [...]bucket.Unit{bucket.Input, bucket.Output, bucket.Tokens}

const (
	input = iota // index of parts
	output
	total
)

// tokens are the parts of a cost.
type tokens [len(parts)]int64

func partsOf(c bucket.Cost) (t tokens) {
	for i, u := range parts {
		t[i] = c.Of(u)
	}
	return t
}

// openEstimate is an estimate as Estimate returned it, and before scaling.
type openEstimate struct{ estimated, raw tokens }

// Calibrate returns an estimator that estimates as e does, scaled by factors that
// start at 1 and follow the reports to [Calibrated.Observe]. Input and Output follow
// reports of the same part, whatever the other one does. Tokens is their sum if e
// reserves output and its use has been reported. Else Tokens follows reports of the
// total. Then e and the reports must count the same: the tokens of the prompt, or those
// of prompt and reply with the option [Output].
func Calibrate(e Estimator) *Calibrated {
	return &Calibrated{estimator: e}
}

// Estimate returns the estimate of the wrapped estimator with Input, Output and Tokens
// scaled, each rounded to the nearest token. A positive count stays positive, and one
// of zero or less is not changed. Errors are those of the wrapped estimator.
func (c *Calibrated) Estimate(in any) (bucket.Cost, error) {
	cost, err := c.estimator.Estimate(in)
	if err != nil {
		return cost, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	raw := partsOf(cost)
	estimated := c.scaleLocked(raw)
	if raw != (tokens{}) {
		if len(c.open) == maxOpen {
			c.open = slices.Delete(c.open, 0, maxOpen/8) // many at once, so that the copy is rare
		}
		c.open = append(c.open, openEstimate{estimated, raw})
	}
	for i, u := range parts {
		cost = cost.With(u, estimated[i])
	}
	return cost, nil
}

func (c *Calibrated) scaleLocked(raw tokens) (t tokens) {
	for i := range parts {
		t[i] = c.ratios[i].scale(raw[i])
	}
	// Two factors are closer than one: it would be right only for a certain mixture of
	// long prompts and long replies.
	if raw[total] == sum(raw[input], raw[output]) && raw[output] > 0 && c.ratios[output].reports > 0 {
		t[total] = sum(t[input], t[output])
	}
	return t
}

// Observe reports the actual cost of an input for which Estimate returned estimated,
// in each part that actual has. If its Tokens are zero, they are the sum of Input and
// Output. Reports may arrive in any order, late, or not at all.
//
// A count above four times the estimate before scaling, or below a quarter of it,
// is taken as that bound. A report weighs at most four times as much as the average
// report. So a single odd report moves a factor little. With a steady ratio of
// actual count to estimate before scaling, the factor approaches that ratio,
// clamped to [1/4, 4], by a fiftieth of the distance at each report; the first
// reports weigh more. It does not overshoot with a thousand calls in flight.
//
// Observe ignores a part if either value is less than 1. It ignores a report if
// estimated is not among the last 1,792 estimates without a report, or if several of
// these are equal to it but come from inputs of different size.
func (c *Calibrated) Observe(estimated, actual bucket.Cost) {
	e, used := partsOf(estimated), partsOf(actual)
	if used[total] == 0 {
		used[total] = sum(used[input], used[output])
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if raw, ok := c.closeLocked(e); ok {
		for i := range parts {
			c.ratios[i].observe(raw[i], used[i])
		}
	}
}

// closeLocked removes the oldest open estimate of that value, and returns it as
// it was before scaling. It is not ok if there is none, or if several have that
// value and differ before scaling by more than rounding and small changes of the
// factors explain: any of them may be the reported one.
func (c *Calibrated) closeLocked(estimated tokens) (raw tokens, ok bool) {
	var least, most tokens
	oldest := -1
	for i, o := range c.open {
		if o.estimated != estimated {
			continue
		}
		if oldest < 0 {
			oldest, least, most = i, o.raw, o.raw
		}
		for j := range parts {
			least[j], most[j] = min(least[j], o.raw[j]), max(most[j], o.raw[j])
		}
	}
	if oldest < 0 {
		return raw, false
	}
	raw = c.open[oldest].raw
	c.open = slices.Delete(c.open, oldest, oldest+1)
	for j := range parts {
		if float64(most[j]-least[j])*c.ratios[j].factor() > 1+float64(estimated[j])/32 {
			return raw, false
		}
	}
	return raw, true
}

// Factor returns the factor, 1/4 to 4, by which estimates of u are multiplied now: of
// [bucket.Input], of [bucket.Output], or of [bucket.Tokens], which are the sum of the
// other two instead if [Calibrate] says so. Other units are not scaled.
func (c *Calibrated) Factor(u bucket.Unit) float64 {
	i := slices.Index(parts[:], u)
	if i < 0 {
		return 1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ratios[i].factor()
}

// ratio is a moving average of reported over estimated tokens. The zero value is a
// factor of 1.
//
// It keeps decaying sums of reported tokens, of estimates before scaling, and of
// reports. The quotient of the first two weighs reports by size, so that the sum of
// many estimates is right and short texts, which are all overhead, do not outvote a
// long one.
type ratio struct{ actual, raw, reports float64 }

func (r *ratio) factor() float64 {
	if r.reports == 0 {
		return 1
	}
	return min(max(r.actual/r.raw, 1/maxFactor), maxFactor)
}

// scale returns n times the factor, rounded.
func (r *ratio) scale(n int64) int64 {
	if n <= 0 {
		return n
	}
	scaled := math.Round(float64(n) * r.factor())
	if scaled >= math.MaxInt64 {
		return math.MaxInt64
	}
	return max(int64(scaled), 1)
}

func (r *ratio) observe(estimated, actual int64) {
	if estimated <= 0 || actual <= 0 {
		return
	}
	raw := float64(estimated)
	if r.reports == 0 {
		*r = ratio{actual: raw, raw: raw, reports: 1} // one report that confirms the estimator
	}
	weight := min(raw, maxWeight*r.raw/r.reports)
	r.raw = r.raw*decay + weight
	r.actual = r.actual*decay + weight*min(max(float64(actual)/raw, 1/maxFactor), maxFactor)
	r.reports = r.reports*decay + 1
}
