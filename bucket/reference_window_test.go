package bucket

import (
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// refWindow is the reference for a window of a bucket, with its pace. The slots are exact;
// the pace has the lag of a token bucket, see reference.
type refWindow struct {
	Rate
	unit  Unit
	slots *slowWindow
	pace  refRate // with the burst of the pace; its level ignores open leases
}

func newRefWindow(r Rate, u Unit) refWindow {
	return refWindow{
		Rate: r, unit: u, slots: newSlowWindow(r.windowRate(), 0),
		pace: refRate{Rate: r.paceRate(), level: rat(r.Pace), bound: rat(1)},
	}
}

// level returns the units that may be granted while leased units are on open leases.
func (w *refWindow) level(now, leased, shut int64) int64 {
	n := w.N - w.slots.counted(now) - leased
	if shut > now {
		n = min(n, 0)
	}
	return n
}

// paceFits reports whether the pace allows a grant of n to an ask that needs need.
func (w *refWindow) paceFits(n, need int64, late *big.Rat) bool {
	if w.Pace == 0 {
		return true
	}
	level := sub(w.pace.level, quo(late, w.pace.unitTime()))
	full := level.Cmp(rat(w.Pace)) >= 0
	return level.Cmp(rat(n)) >= 0 || full && n <= max(w.Pace, need)
}

// credit adds units to the pace, or subtracts them.
func (w *refWindow) credit(n int64) {
	w.pace.level = least(add(w.pace.level, rat(n)), rat(w.Pace))
	w.pace.bound = add(w.pace.bound, rat(1))
}

// windowsFit reports whether every window allows a grant of n to an ask that needs need.
func (f *reference) windowsFit(n, need Cost, late func(refRate) *big.Rat) bool {
	now := floor(f.at).Int64()
	for i := range f.windows {
		w := &f.windows[i]
		m := n.Of(w.unit)
		if m > 0 && (m > w.level(now, f.out(w.unit), f.shut) || !w.paceFits(m, need.Of(w.unit), late(w.pace))) {
			return false
		}
	}
	return true
}

// expireInWindows books the leases that expire by now, as of their expiry.
func (f *reference) expireInWindows(now int64) {
	for i := range f.windows {
		w := &f.windows[i]
		for _, l := range f.leases {
			if l.expiry <= now {
				w.slots.book(now, l.expiry, l.granted.Of(w.unit))
			}
		}
		passed := sub(rat(now), f.at)
		w.pace.level = least(add(w.pace.level, quo(passed, w.pace.unitTime())), rat(w.Pace))
	}
}

// settleInWindows books what was spent on l: the parts with an age as of their spending,
// the rest as of now.
func (f *reference) settleInWindows(l refLease, s settle) {
	now := floor(f.at).Int64()
	for i := range f.windows {
		w := &f.windows[i]
		rest := s.Spent.Of(w.unit)
		w.credit(l.granted.Of(w.unit) - rest)
		for _, p := range s.Parts {
			if w.Per < 10*time.Second {
				n := min(rest, p.Cost.Of(w.unit))
				w.slots.book(now, max(now-int64(p.Age)*99/101, l.at), n)
				rest -= n
			}
		}
		w.slots.book(now, now, rest)
	}
}

// adjustWindows applies charges and cooldowns.
func (f *reference) adjustWindows(a *Adjustment) {
	now := floor(f.at).Int64()
	for i := range f.windows {
		w := &f.windows[i]
		w.slots.book(now, now, a.Charge.Of(w.unit))
		w.credit(-a.Charge.Of(w.unit))
	}
	f.shut = max(f.shut, now+int64(a.Empty))
}

// windowLevel returns the least level of the windows on u, if there are any.
func (f *reference) windowLevel(u Unit, now int64) (level *big.Rat, ok bool) {
	for i := range f.windows {
		if w := &f.windows[i]; w.unit == u {
			n := rat(w.level(now, f.out(u), f.shut))
			if !ok {
				level = n
			}
			level, ok = least(level, n), true
		}
	}
	return level, ok
}

// A bucket of token buckets and windows agrees with the reference in every decision, and
// in the level.
func TestWindowsAgreeWithReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOps(anyTimedLimits().Draw(t, "limits"))
		b, f := New(&o.limits, 1), newReference(o.limits, 1)
		length := rapid.IntRange(1, 40).Draw(t, "length")
		for range length {
			op := o.next(t, false)
			before := clone(b)
			before.advance(o.now)
			if s, ok := op.(settle); ok {
				s.Parts = o.parts(t, s.Spent)
				op = s
			}
			g, err := o.apply(b, op)
			f.advance(o.now)
			switch op := op.(type) {
			case *Ask:
				asked := slices.ContainsFunc(before.leases, func(l HeldLease) bool { return l.ID == op.ID })
				if err == nil && !asked {
					decide(t, f, op, g)
				}
			case settle:
				f.settle(op)
			case *Adjustment:
				f.adjust(op)
			}
			compare(t, o.now, b, f)
			if rapid.IntRange(0, 9).Draw(t, "restore") == 0 {
				b = restored(t, b)
			}
		}
	})
}

// parts draws when parts of spent units were spent.
func (o *ops) parts(t *rapid.T, spent Cost) (parts []Spending) {
	for range rapid.IntRange(0, 3).Draw(t, "parts") {
		var c Cost
		for u := range NumUnits {
			c = c.With(u, spent.Of(u)/rapid.Int64Range(1, 4).Draw(t, "part"))
		}
		parts = append(parts, Spending{time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "age")), c})
	}
	return parts
}

// restored returns a bucket with the state of b.
func restored(t *rapid.T, b *Bucket) *Bucket {
	c, err := Restore(clone(b).State())
	if err != nil {
		t.Fatalf("%v: %v", b.Limits(), err)
	}
	return c
}
