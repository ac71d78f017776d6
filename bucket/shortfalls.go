package bucket

import "slices"

// Shortfall says that at the instant At, and at all times since, a rate has been at
// least Least below full, not counting leased units.
type Shortfall struct {
	At    int64 // nanoseconds of the store's time
	Least int64 // nanoseconds of refill
	Rate  uint8 // index into [State.TATs], of a rate in force
}

// shortfalls holds for each rate the least shortfall since any earlier instant. It
// bounds what a return is worth.
//
// If returned units had never been charged, the bucket would have been fuller ever
// since, and where it would have overflowed they would be lost by now. So a return
// is worth at most the least shortfall since the charge. Returning more would give
// the same refill out twice.
//
// A shortfall shrinks with time and grows with spending, so its least value since an
// instant is one of the values just before it grew. A value is kept only if no later
// one is smaller: for each rate, the values increase in the order of time.
type shortfalls []Shortfall

// keptShortfalls bounds the values kept for a rate. Dropping one makes returns worth
// less, never more.
const keptShortfalls = 6

// note records the shortfall of rate at the instant at, the latest so far.
func (s shortfalls) note(rate int, at, shortfall int64) shortfalls {
	r := uint8(rate)
	kept := 0
	s = slices.DeleteFunc(s, func(x Shortfall) bool {
		if x.Rate != r {
			return false
		}
		if x.Least < shortfall {
			kept++
		}
		return x.Least >= shortfall
	})
	s = append(s, Shortfall{at, shortfall, r})
	if kept >= keptShortfalls {
		s = s.merge(r)
	}
	return s
}

// merge joins the two values of a rate that differ least: the smaller, earlier value
// then counts until the instant of the later one.
func (s shortfalls) merge(rate uint8) shortfalls {
	last, first, second := -1, -1, -1
	for i, x := range s {
		if x.Rate != rate {
			continue
		}
		if last >= 0 && (first < 0 || x.Least-s[last].Least < s[second].Least-s[first].Least) {
			first, second = last, i
		}
		last = i
	}
	s[second].Least = s[first].Least
	return slices.Delete(s, first, first+1)
}

// since returns the least shortfall of rate after the instant at. The shortfall at
// that very instant does not count: no time has passed since, so nothing can have
// overflowed.
func (s shortfalls) since(rate int, at int64) int64 {
	var least int64
	for _, x := range s {
		if x.Rate == uint8(rate) {
			if least = x.Least; x.At > at {
				break
			}
		}
	}
	return least
}

// reduce subtracts d from all values of a rate, because d was returned, as if it had
// never been charged.
func (s shortfalls) reduce(rate int, d int64) {
	for i := range s {
		if s[i].Rate == uint8(rate) {
			s[i].Least = max(s[i].Least-d, 0)
		}
	}
}
