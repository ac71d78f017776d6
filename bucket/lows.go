package bucket

import "slices"

// lows remembers, for each rate, how little its bucket has lacked of being full
// at any time since, not counting what was out on leases.
//
// Units that are returned after the fact are worth no more than that. Had they
// never been charged, the bucket would have been fuller all the time since, and
// where it would have run over, they would be lost now. To return them in spite
// of that would give the same refill out twice.
//
// What is lacking falls while time passes and grows by what is spent, so the
// least of it since any instant is one of the values just before it grew. Of
// those, only the ones with nothing smaller after them tell anything: for each
// rate they are kept in the order of time, which is also that of their size.
type lows []Low

// keptLows is how many are kept for a rate. Forgetting one makes returns worth
// less, never more.
const keptLows = 6

// note adds that rate lacks so much at the instant at, the latest so far.
func (l lows) note(rate int, at, lacking int64) lows {
	r := uint8(rate)
	kept := 0
	l = slices.DeleteFunc(l, func(x Low) bool {
		if x.Rate != r {
			return false
		}
		if x.Least < lacking {
			kept++
		}
		return x.Least >= lacking
	})
	l = append(l, Low{at, lacking, r})
	if kept >= keptLows {
		l = l.merge(r)
	}
	return l
}

// merge joins the two lows of a rate that differ least: until the later one's
// instant, the earlier one's value holds.
func (l lows) merge(rate uint8) lows {
	last, first, second := -1, -1, -1
	for i, x := range l {
		if x.Rate != rate {
			continue
		}
		if last >= 0 && (first < 0 || x.Least-l[last].Least < l[second].Least-l[first].Least) {
			first, second = last, i
		}
		last = i
	}
	l[second].Least = l[first].Least
	return slices.Delete(l, first, first+1)
}

// since is the least that rate has lacked after the instant at, up to the last
// that was noted. What it lacked at that very instant does not count: no time
// has passed since, so nothing can have run over.
func (l lows) since(rate int, at int64) int64 {
	var least int64
	for _, x := range l {
		if x.Rate == uint8(rate) {
			if least = x.Least; x.At > at {
				break
			}
		}
	}
	return least
}

// shift makes all of a rate's lows less by d: so much was returned, as if it
// had never been taken.
func (l lows) shift(rate int, d int64) {
	for i := range l {
		if l[i].Rate == uint8(rate) {
			l[i].Least = max(l[i].Least-d, 0)
		}
	}
}
