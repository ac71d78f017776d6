package history

import (
	"math"
	"time"
)

// Jain returns the index of fairness of shares: 1 if they are equal, 1/n if one of n
// has all of it. It is 1 if all shares are zero.
// R. Jain, D. Chiu, W. Hawe: A Quantitative Measure of Fairness, DEC-TR-301, 1984.
func Jain(shares []int64) float64 {
	var sum, squares float64
	for _, x := range shares {
		sum += float64(x)
		squares += float64(x) * float64(x)
	}
	if squares == 0 {
		return 1
	}
	return sum * sum / (float64(len(shares)) * squares)
}

// Quantile returns the smallest element of sorted that at least the fraction p of the
// elements do not exceed, or zero if sorted is empty.
func Quantile(sorted []time.Duration, p float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	i := int(math.Ceil(p*float64(len(sorted)))) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

// Gap returns the longest time between from and to without an admission, and the
// instant at which it ended. rs is in the order of After.
func Gap(rs []Record, from, to int64) (gap time.Duration, end int64) {
	last := from
	visit := func(at int64) {
		if at-last > int64(gap) {
			gap, end = time.Duration(at-last), at
		}
		last = at
	}
	for _, r := range rs {
		if r.After > from && r.After < to {
			visit(r.After)
		}
	}
	visit(to)
	return gap, end
}
