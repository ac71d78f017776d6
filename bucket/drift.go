package bucket

import "time"

// Drift is ρ, the largest error of a clock's rate, in parts of one: while real
// time advances by d, a clock of a store or a holder counts from d·(1−ρ) to
// d·(1+ρ). It is 1%, more than a hundred times what quartz clocks and the
// correction of NTP (500 ppm) amount to.
//
// A margin compares two clocks. If one has counted d, the real time is d/(1+ρ)
// to d/(1−ρ), and the other has counted d·(1−ρ)/(1+ρ) to d·(1+ρ)/(1−ρ). [Early]
// is the lower end and [Late] the upper one: about 2ρ on either side. Every
// instant that one clock sets and another keeps goes through one of the two.
const Drift = 0.01

// (1−ρ)/(1+ρ) as a fraction of integers.
const (
	slowest = 99
	fastest = 101
)

// Early returns the least that another clock has counted once this one has
// counted d: d·(1−ρ)/(1+ρ), rounded down. A lease that another clock expires is used
// no longer than this. Negative d counts as zero.
func Early(d time.Duration) time.Duration {
	return time.Duration(mulDiv(int64(max(d, 0)), slowest, fastest))
}

// Late returns the most that another clock has counted once this one has counted
// d: d·(1+ρ)/(1−ρ), rounded up. An instant that another clock has to have reached
// is awaited this long. Negative d counts as zero.
func Late(d time.Duration) time.Duration {
	return time.Duration(mulDivCeil(int64(max(d, 0)), fastest, slowest))
}
