package providertest

import (
	"math"
	"math/bits"
	"slices"
	"time"
)

// never is the wait for room that does not come: the call is larger than the limit.
const never = time.Duration(math.MaxInt64)

// unknown is the wait for room whose time the provider cannot tell: that of a call
// in flight, which ends when it ends.
const unknown = never - 1

// A counter counts the units of one limit. The instants it is given are of the
// provider's clock and do not run backwards, except that as of add.
type counter interface {
	// wait returns how long after t there is room for n more units: zero if there is
	// room at t, never, or unknown. It does not change the count.
	wait(t time.Time, n int64) time.Duration

	// add counts n units as of an instant, whether there is room or not. A negative
	// n corrects a charge: it takes units back from the charge of that instant.
	add(asOf time.Time, n int64)

	// counted returns the number of units that count at t.
	counted(t time.Time) int64

	// reset returns how long after t no unit counts any more, if none is added.
	reset(t time.Time) time.Duration
}

// A rolling window admits at most n units in every stretch of time of length per. A
// unit that was added at t counts in [t, t+per).
type rolling struct {
	n       int64
	per     time.Duration
	sum     int64   // of the charges
	charges []event // with the oldest first
}

// An event is a number of units at an instant.
type event struct {
	at time.Time
	n  int64
}

func (w *rolling) counted(t time.Time) int64 {
	expired := 0
	for expired < len(w.charges) && !t.Before(w.charges[expired].at.Add(w.per)) {
		w.sum -= w.charges[expired].n
		expired++
	}
	w.charges = slices.Delete(w.charges, 0, expired)
	return w.sum
}

func (w *rolling) wait(t time.Time, n int64) time.Duration {
	over := w.counted(t) + n - w.n
	if over <= 0 {
		return 0
	}
	for _, c := range w.charges {
		if over -= c.n; over <= 0 {
			return c.at.Add(w.per).Sub(t)
		}
	}
	return never
}

func (w *rolling) add(asOf time.Time, n int64) {
	i, found := slices.BinarySearchFunc(w.charges, asOf, func(c event, t time.Time) int { return c.at.Compare(t) })
	switch {
	case found:
		if w.charges[i].n += n; w.charges[i].n == 0 {
			w.charges = slices.Delete(w.charges, i, i+1)
		}
	case n > 0:
		w.charges = slices.Insert(w.charges, i, event{asOf, n})
	default:
		return // the charge that n corrects does not count any more
	}
	w.sum += n
}

func (w *rolling) reset(t time.Time) time.Duration {
	if w.counted(t) == 0 {
		return 0
	}
	return w.charges[len(w.charges)-1].at.Add(w.per).Sub(t)
}

// A fixed window admits at most n units between two resets of its count. Minutes begin
// at second zero of the provider's clock, days at midnight of a time zone.
type fixed struct {
	n, sum int64
	end    time.Time                   // of the window to which sum belongs
	next   func(t time.Time) time.Time // the first reset after t
}

// everyPer returns the resets of a window that begins at each multiple of per since
// the Unix epoch.
func everyPer(per time.Duration) func(time.Time) time.Time {
	epoch := time.Unix(0, 0)
	return func(t time.Time) time.Time {
		into := t.Sub(epoch) % per
		if into < 0 {
			into += per
		}
		return t.Add(per - into)
	}
}

// everyDay returns the resets of a window that begins at each midnight of a time zone.
// A day has 23 or 25 hours when the clocks are changed.
func everyDay(zone *time.Location) func(time.Time) time.Time {
	return func(t time.Time) time.Time {
		y, m, d := t.In(zone).Date()
		return time.Date(y, m, d+1, 0, 0, 0, 0, zone)
	}
}

func (w *fixed) counted(t time.Time) int64 {
	if !t.Before(w.end) {
		w.sum, w.end = 0, w.next(t)
	}
	return w.sum
}

func (w *fixed) wait(t time.Time, n int64) time.Duration {
	switch {
	case w.counted(t)+n <= w.n:
		return 0
	case n > w.n:
		return never
	}
	return w.end.Sub(t)
}

func (w *fixed) add(asOf time.Time, n int64) {
	if n > 0 {
		w.counted(asOf)
	}
	if w.next(asOf).Equal(w.end) { // a correction of an earlier window has no effect
		w.sum += n
	}
}

func (w *fixed) reset(t time.Time) time.Duration {
	if w.counted(t) == 0 {
		return 0
	}
	return w.end.Sub(t)
}

// A bucket holds at most burst units, and n are restored every per, continuously. It
// counts the units that are missing from it. It is exact: rest is the fraction of a
// unit, in parts of per, that is restored but not yet subtracted from missing.
type bucket struct {
	n, burst int64
	per      time.Duration
	missing  int64
	rest     uint64
	asOf     time.Time
}

func (b *bucket) counted(t time.Time) int64 {
	if !t.After(b.asOf) {
		return b.missing
	}
	hi, lo := bits.Mul64(uint64(t.Sub(b.asOf)), uint64(b.n))
	b.asOf = t
	lo, carry := bits.Add64(lo, b.rest, 0)
	if hi += carry; hi >= uint64(b.per) { // more than 2⁶⁴ units
		b.missing, b.rest = 0, 0
		return 0
	}
	restored, rest := bits.Div64(hi, lo, uint64(b.per))
	if restored >= uint64(b.missing) {
		b.missing, b.rest = 0, 0
		return 0
	}
	b.missing, b.rest = b.missing-int64(restored), rest
	return b.missing
}

func (b *bucket) wait(t time.Time, n int64) time.Duration {
	if n > b.burst {
		return never
	}
	return b.restore(b.counted(t) + n - b.burst)
}

// restore returns the time in which n units are restored.
func (b *bucket) restore(n int64) time.Duration {
	if n <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(n), uint64(b.per))
	lo, borrow := bits.Sub64(lo, b.rest, 0)
	lo, carry := bits.Add64(lo, uint64(b.n-1), 0) // rounds up
	hi = hi - borrow + carry
	if hi >= uint64(b.n) {
		return unknown
	}
	d, _ := bits.Div64(hi, lo, uint64(b.n))
	return time.Duration(min(d, uint64(unknown)))
}

func (b *bucket) add(asOf time.Time, n int64) {
	b.counted(asOf)
	if b.missing += n; b.missing <= 0 {
		b.missing, b.rest = 0, 0
	}
}

func (b *bucket) reset(t time.Time) time.Duration { return b.restore(b.counted(t)) }

// Calls in flight number at most n at a time. The end of a call may lie ahead: it is
// the instant at which the provider notices that the client is gone.
type inFlight struct {
	n, sum int64
	ends   []time.Time // that lie ahead
}

func (f *inFlight) counted(t time.Time) int64 {
	ahead := len(f.ends)
	f.ends = slices.DeleteFunc(f.ends, func(end time.Time) bool { return !end.After(t) })
	f.sum -= int64(ahead - len(f.ends))
	return f.sum
}

func (f *inFlight) wait(t time.Time, n int64) time.Duration {
	if f.counted(t)+n <= f.n {
		return 0
	}
	return unknown
}

func (f *inFlight) add(asOf time.Time, n int64) {
	if n > 0 {
		f.sum += n
		return
	}
	f.ends = append(f.ends, asOf)
}

func (f *inFlight) reset(t time.Time) time.Duration {
	if f.counted(t) == 0 {
		return 0
	}
	return unknown
}
