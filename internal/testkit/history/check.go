package history

import (
	"cmp"
	"math"
	"slices"

	"github.com/choked/choked/bucket"
)

// Excess is by how much admissions exceeded burst + rate · W, at worst, over
// all windows of time W, in units. Where it is negative nothing was exceeded,
// and so much more could have been admitted.
//
// When an admission was decided is known to lie between two instants only.
// Suspect takes the later one: where that is above zero, the bound may be
// broken, or admissions were noted late. Proved counts in each window nothing
// but what was surely decided inside: above zero, the bound is broken.
type Excess struct {
	Proved, Suspect float64
}

// Max returns the larger of e and f in each part.
func (e Excess) Max(f Excess) Excess {
	return Excess{max(e.Proved, f.Proved), max(e.Suspect, f.Suspect)}
}

// Nothing is the excess of no admissions: no window has more than any bound.
var Nothing = Excess{math.Inf(-1), math.Inf(-1)}

// Check returns the worst excess of the admissions of one key, in any order,
// over any of its limits.
func Check(rs []Record, limits bucket.Limits) Excess {
	worst := Nothing
	for u := range bucket.Tokens + 1 {
		for _, r := range limits.Of(u) {
			worst = worst.Max(CheckRate(rs, u, r))
		}
	}
	return worst
}

// CheckRate is [Check] for one rate on one unit.
func CheckRate(rs []Record, u bucket.Unit, r bucket.Rate) Excess {
	if len(rs) == 0 {
		return Nothing
	}
	rs = slices.Clone(rs)
	slices.SortFunc(rs, func(a, b Record) int { return cmp.Compare(a.After, b.After) })
	return Excess{Proved: proved(rs, u, r), Suspect: suspect(rs, u, r)}
}

// Level follows one rate as a bucket that leaks: what was admitted, less what
// the rate has restored. It is at no instant above the burst if and only if
// there is no window with more than burst + rate · W.
type Level struct {
	Rate bucket.Rate
	at   int64
	used float64
}

// Add admits n units at the instant at, no earlier than any before it, and
// returns the level afterwards.
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

// Cost returns what r cost in unit u.
func (r Record) Cost(u bucket.Unit) int64 {
	if u == bucket.Requests {
		return r.Requests
	}
	return r.Tokens
}

// suspect takes each admission at After; rs is in that order.
func suspect(rs []Record, u bucket.Unit, r bucket.Rate) float64 {
	worst := math.Inf(-1)
	l := Level{Rate: r}
	for _, rec := range rs {
		worst = max(worst, l.Add(rec.After, rec.Cost(u))-float64(r.Burst))
	}
	return worst
}

// proved returns the worst of
//
//	Σ cost of records with s ≤ Before and After ≤ e  −  burst  −  rate · (e − s)
//
// over windows from s to e. It is enough to look at those that begin at some
// Before and end at some After. rs is in order of After: e goes through them,
// and for each s a tree keeps the sum so far plus rate · s.
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
		sums.addTo(i, float64(rec.Cost(u)))
		// A window has a beginning before its end.
		last, found := slices.BinarySearch(starts, rec.After)
		if !found {
			last--
		}
		worst = max(worst, sums.maxTo(last)-float64(r.Burst)-at(rec.After))
	}
	return worst
}
