package history

import (
	"cmp"
	"math"
	"slices"

	"github.com/choked/choked/bucket"
)

// Excess is the number of units by which admissions exceed burst + rate · W, in the
// worst of all windows of length W, or N in the worst Per of a window rate. A negative excess keeps the bound: so many more
// units could have been admitted.
//
// The instant of a decision is known only to lie between two instants. Suspect takes
// the later one: above zero, the bound may be broken, or admissions were recorded
// late. Proved counts in each window only the decisions that certainly lie inside:
// above zero, the bound is broken.
type Excess struct {
	Proved, Suspect float64
}

// Max returns the larger of e and f in each part.
func (e Excess) Max(f Excess) Excess {
	return Excess{max(e.Proved, f.Proved), max(e.Suspect, f.Suspect)}
}

// Nothing is the excess of no admissions, minus infinity.
var Nothing = Excess{math.Inf(-1), math.Inf(-1)}

// Check returns the worst excess of the admissions of one key, in any order,
// over any of its limits.
func Check(rs []Record, limits bucket.Limits) Excess {
	worst := Nothing
	for u := range bucket.NumUnits {
		for _, r := range limits.Of(u) {
			if r.Kind == bucket.Calendar {
				continue // the records have no wall clock
			}
			worst = worst.Max(CheckRate(rs, u, r))
		}
	}
	return worst
}

// CheckRate is [Check] for one rate on one unit, a token bucket or a window.
func CheckRate(rs []Record, u bucket.Unit, r bucket.Rate) Excess {
	if len(rs) == 0 {
		return Nothing
	}
	rs = slices.Clone(rs)
	slices.SortFunc(rs, func(a, b Record) int { return cmp.Compare(a.After, b.After) })
	if r.Kind == bucket.Window {
		return Excess{Proved: provedWindow(rs, u, r), Suspect: suspectWindow(rs, u, r)}
	}
	return Excess{Proved: proved(rs, u, r), Suspect: suspect(rs, u, r)}
}

// Level is a leaky bucket for one rate: the units admitted less the units restored.
// It never exceeds the burst if and only if no window has more than burst + rate · W.
type Level struct {
	Rate bucket.Rate
	at   int64   // nanoseconds
	used float64 // units at at
}

// Add admits n units at the instant at, which is no earlier than those of previous
// calls, and returns the level afterwards.
func (l *Level) Add(at int64, n int64) float64 {
	l.used = l.Used(at) + float64(n)
	l.at = at
	return l.used
}

// Used returns the level at the instant at.
func (l *Level) Used(at int64) float64 {
	return max(0, l.used-perNano(l.Rate)*float64(at-l.at))
}

func perNano(r bucket.Rate) float64 { return float64(r.N) / float64(r.Per) }

// suspect computes [Excess.Suspect]: each admission counts at After. rs is in that
// order.
func suspect(rs []Record, u bucket.Unit, r bucket.Rate) float64 {
	worst := math.Inf(-1)
	l := Level{Rate: r}
	for _, rec := range rs {
		worst = max(worst, l.Add(rec.After, rec.Cost.Of(u))-float64(r.Burst))
	}
	return worst
}

// proved computes [Excess.Proved], the largest value of
//
//	Σ cost of records with s ≤ Before and After ≤ e  −  burst  −  rate · (e − s)
//
// over windows from s to e. Only windows that begin at some Before and end at some
// After can be the worst. rs is in the order of After: e takes these values in turn,
// and for each s a tree holds the sum so far plus rate · s.
func proved(rs []Record, u bucket.Unit, r bucket.Rate) float64 {
	starts := make([]int64, len(rs))
	for i, rec := range rs {
		starts[i] = min(rec.Before, rec.After)
	}
	slices.Sort(starts)
	starts = slices.Compact(starts)
	origin, rate := starts[0], perNano(r)
	at := func(t int64) float64 { return rate * float64(t-origin) }

	sums := newTree(len(starts), func(i int) float64 { return at(starts[i]) })
	worst := math.Inf(-1)
	for _, rec := range rs {
		i, _ := slices.BinarySearch(starts, min(rec.Before, rec.After))
		sums.addTo(i, float64(rec.Cost.Of(u)))
		// A window begins before it ends.
		last, found := slices.BinarySearch(starts, rec.After)
		if !found {
			last--
		}
		worst = max(worst, sums.maxTo(last)-float64(r.Burst)-at(rec.After))
	}
	return worst
}
