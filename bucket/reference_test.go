package bucket

import (
	"iter"
	"math"
	"math/big"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// reference is a second implementation of a bucket, which shares no code with the
// real one: it keeps a level, not an arrival time, and exact fractions, not integers.
//
// The two are compared as follows. The real bucket decides, the reference checks
// whether the decision is allowed, and then follows it. Let lag be the time by which
// the arrival time of a rate in the real bucket is later than the exact one.
//
// Claim: 0 ≤ lag ≤ bound, where bound begins at 1 ns, and grows by 1 ns with each
// operation that credits or charges units, and after a redefinition is the largest
// bound of the old rates, in units, plus one unit, plus 1 ns.
//
// Proof. Charged time is rounded up and credited time is rounded down, by less than
// 1 ns each: a credit adds 0 to 1 ns. A clamp takes the later of the arrival time and
// t + leased·T, of which the second is rounded up by less than 1 ns:
// max(a+lag, b+1) ≤ max(a, b) + max(lag, 1), and rounding up never makes it less.
// The same holds for emptying. A redefinition rounds the missing units up to whole
// ones, which adds less than one, and their time up to a nanosecond. Where a rate is
// in force again, the later of two arrival times counts:
// max(a+lag, b+lag') ≤ max(a, b) + max(lag, lag'). The passing of time and expiries
// round nothing else; the reference expires a lease at the instant at which the real
// bucket does. The end of time caps the arrival times of both.
//
// From 0 ≤ lag it follows that the real bucket never has more units than the exact
// one. From lag ≤ bound it follows how many it may withhold.
type reference struct {
	limits  Limits
	defined int64
	at      *big.Rat // the instant that level is for, in nanoseconds
	rates   []refRate
	former  []refRate // of earlier definitions
	leases  []refLease
	windows []refWindow // not redefined
	shut    int64       // until when the windows grant nothing
}

type refRate struct {
	Rate
	unit  Unit
	level *big.Rat // units, below zero when promised or owed
	bound *big.Rat // on lag, in nanoseconds
}

type refLease struct {
	id      LeaseID
	granted Cost
	at      int64 // the grant
	expiry  int64
}

func rat(n int64) *big.Rat         { return new(big.Rat).SetInt64(n) }
func add(a, b *big.Rat) *big.Rat   { return new(big.Rat).Add(a, b) }
func sub(a, b *big.Rat) *big.Rat   { return new(big.Rat).Sub(a, b) }
func mul(a, b *big.Rat) *big.Rat   { return new(big.Rat).Mul(a, b) }
func quo(a, b *big.Rat) *big.Rat   { return new(big.Rat).Quo(a, b) }
func least(a, b *big.Rat) *big.Rat { return pick(a.Cmp(b) < 0, a, b) }
func most(a, b *big.Rat) *big.Rat  { return pick(a.Cmp(b) > 0, a, b) }

func pick(first bool, a, b *big.Rat) *big.Rat {
	if first {
		return a
	}
	return b
}

func floor(r *big.Rat) *big.Int { return new(big.Int).Div(r.Num(), r.Denom()) } // Euclidean: down, as the denominator is positive

// unitTime is T = Per/N, in nanoseconds.
func (r refRate) unitTime() *big.Rat { return big.NewRat(int64(r.Per), r.N) }

func newReference(l Limits, defined int64) *reference {
	f := &reference{limits: l, defined: defined, at: rat(0)}
	for u := range NumUnits {
		for _, r := range l.Of(u) {
			if r.Kind == Window {
				f.windows = append(f.windows, newRefWindow(r, u))
				continue
			}
			f.rates = append(f.rates, refRate{Rate: r, unit: u, level: rat(r.Burst), bound: rat(1)})
		}
	}
	return f
}

// all returns the rates in force and the former ones.
func (f *reference) all() iter.Seq[*refRate] {
	return func(yield func(*refRate) bool) {
		for _, rates := range [][]refRate{f.rates, f.former} {
			for i := range rates {
				if !yield(&rates[i]) {
					return
				}
			}
		}
	}
}

func (f *reference) out(u Unit) (n int64) {
	for _, l := range f.leases {
		n += l.granted.Of(u)
	}
	return n
}

// advance refills up to now, and expires leases at their instants: their units are
// gone, and the level stays.
func (f *reference) advance(now int64) {
	f.expireInWindows(now)
	slices.SortStableFunc(f.leases, func(a, b refLease) int { return int(min(max(a.expiry-b.expiry, -1), 1)) })
	for len(f.leases) > 0 && f.leases[0].expiry <= now {
		f.refill(f.leases[0].expiry)
		f.leases = f.leases[1:]
	}
	f.refill(now)
}

func (f *reference) refill(now int64) {
	dt := sub(rat(now), f.at)
	f.at = rat(now)
	for r := range f.all() {
		r.level = add(r.level, quo(dt, r.unitTime()))
	}
	f.limit()
}

// limit enforces level + leased ≤ burst, and the end of time.
func (f *reference) limit() {
	for r := range f.all() {
		r.level = least(r.level, rat(r.Burst-f.out(r.unit)))
		r.level = most(r.level, sub(rat(r.Burst), quo(sub(rat(math.MaxInt64/2), f.at), r.unitTime())))
	}
}

// reach returns how far ahead quota may be promised, in nanoseconds.
func (f *reference) reach(r refRate, promise bool) *big.Rat {
	if !promise {
		if int64(r.Per)%r.N == 0 {
			return rat(0)
		}
		return rat(2) // the effect of rounding on a full bucket
	}
	h := most(rat(int64(250*time.Millisecond)), add(r.unitTime(), rat(1)))
	return least(h, rat(int64(time.Second)))
}

// fits reports whether every rate allows a grant of n. late is subtracted from the
// refill of each rate: zero, or as much as its bound allows.
func (f *reference) fits(n, need Cost, promise bool, late func(refRate) *big.Rat) bool {
	if !f.windowsFit(n, need, late) {
		return false
	}
	for _, r := range f.rates {
		m := n.Of(r.unit)
		if m == 0 {
			continue
		}
		after := sub(r.level, add(rat(m), quo(late(r), r.unitTime())))
		if f.out(r.unit)+m > r.Burst || add(mul(after, r.unitTime()), f.reach(r, promise)).Sign() < 0 {
			return false
		}
	}
	return true
}

// credit adds units to the levels, or subtracts them.
func (f *reference) credit(c Cost) {
	for i := range f.rates {
		r := &f.rates[i]
		r.level = add(r.level, rat(c.Of(r.unit)))
		r.bound = add(r.bound, rat(1))
	}
	f.limit()
}

func (f *reference) settle(s settle) {
	if i := slices.IndexFunc(f.leases, func(l refLease) bool { return l.id == s.ID }); i >= 0 {
		l := f.leases[i]
		f.leases = slices.Delete(f.leases, i, i+1)
		f.credit(l.granted.Sub(s.Spent))
		f.settleInWindows(l, s)
	}
}

func (f *reference) adjust(a *Adjustment) {
	f.credit(a.Return.Sub(a.Charge))
	f.adjustWindows(a)
	if a.Empty == 0 {
		return
	}
	for i := range f.rates {
		r := &f.rates[i]
		r.level = least(r.level, quo(rat(-int64(a.Empty)), r.unitTime())) // zero when Empty has passed
	}
	f.limit()
}

func (f *reference) redefine(l Limits, defined int64) {
	if defined < f.defined || l.Equal(f.limits) || defined == f.defined && l.String() < f.limits.String() {
		if l.Equal(f.limits) {
			f.defined = max(defined, f.defined)
		}
		return
	}
	next := newReference(l, defined)
	next.at, next.leases = f.at, f.leases
	for i := range next.rates {
		r := &next.rates[i]
		missing, lag, same := rat(0), rat(0), false
		for _, old := range f.rates {
			if old.unit != r.unit {
				continue
			}
			m := sub(rat(old.Burst), old.level)
			if lag = most(lag, quo(old.bound, old.unitTime())); old.Per == r.Per {
				missing, same = m, true
			} else if !same {
				missing = most(missing, m)
			}
		}
		if !same {
			missing = least(missing, rat(r.Burst))
		}
		r.bound = add(mul(add(lag, rat(1)), r.unitTime()), rat(1))
		for old := range f.all() {
			if old.unit == r.unit && old.N == r.N && old.Per == r.Per {
				missing = most(missing, old.missing())
				r.bound = most(r.bound, old.bound)
			}
		}
		r.level = sub(rat(r.Burst), missing)
	}
	for old := range f.all() {
		if !slices.ContainsFunc(next.rates, func(r refRate) bool { return r.unit == old.unit && r.N == old.N && r.Per == old.Per }) {
			next.former = append(next.former, *old)
		}
	}
	*f = *next
	f.limit()
}

func (r *refRate) missing() *big.Rat { return sub(rat(r.Burst), r.level) }

// checkFormer checks which former rates b has kept: those that are not full, up to
// MaxRates. Whether a rate is full may depend on rounding, so the reference follows
// the real bucket.
func (f *reference) checkFormer(t *rapid.T, b *Bucket) {
	kept := Limits{}
	if b.former != nil {
		kept = *b.former
	}
	f.former = slices.DeleteFunc(f.former, func(r refRate) bool {
		keptHere := slices.Contains(kept.Of(r.unit), r.Rate)
		lacks := mul(r.missing(), r.unitTime())
		if !keptHere && lacks.Sign() > 0 && len(kept.Of(r.unit)) < MaxRates {
			t.Fatalf("%v is dropped, and is %v below full", r.Rate, r.missing().FloatString(12))
		}
		if keptHere && add(lacks, r.bound).Sign() < 0 {
			t.Fatalf("%v is kept, and full", r.Rate)
		}
		return !keptHere
	})
	if n := kept.Len(); n != len(f.former) {
		t.Fatalf("%d rates kept: %v, want %d", n, kept, len(f.former))
	}
}

func TestAgreesWithReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOps(anyLimits().Draw(t, "limits"))
		b, f := New(&o.limits, 1), newReference(o.limits, 1)
		length := rapid.IntRange(1, 40).Draw(t, "length")
		for range length {
			op := o.next(t, true)
			before := clone(b)
			before.advance(o.now)
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
			case redefine:
				f.redefine(op.limits, op.defined)
				f.checkFormer(t, b)
			}
			compare(t, o.now, b, f)
		}
	})
}

// decide checks that the reference allows g, and follows it.
func decide(t *rapid.T, f *reference, a *Ask, g Grant) {
	exact := func(refRate) *big.Rat { return new(big.Rat) }
	slow := func(r refRate) *big.Rat { return add(r.bound, rat(1)) } // 1: the horizon is rounded, too
	promise := !a.Need.IsZero()
	if !g.OK {
		need := a.Need
		if !promise {
			need = a.Want.Min(one)
		}
		if !need.IsZero() && f.fits(need, a.Need, promise, slow) {
			t.Fatalf("need %v, want %v: refused, and the reference can grant it", a.Need, a.Want)
		}
		return
	}
	switch {
	case !g.Granted.Covers(a.Need) || !a.Want.Max(a.Need).Covers(g.Granted):
		t.Fatalf("need %v, want %v: granted %v", a.Need, a.Want, g.Granted)
	case !f.fits(g.Granted, a.Need, promise, exact):
		t.Fatalf("need %v, want %v: granted %v, more than the reference has", a.Need, a.Want, g.Granted)
	}
	f.leases = append(f.leases, refLease{a.ID, g.Granted, floor(f.at).Int64(), floor(f.at).Int64() + int64(g.TTL)})
	for i := range f.windows {
		f.windows[i].credit(-g.Granted.Of(f.windows[i].unit))
	}
	for i := range f.rates {
		r := &f.rates[i]
		r.level = sub(r.level, rat(g.Granted.Of(r.unit)))
		r.bound = add(r.bound, rat(1))
		if g.Granted.Of(r.unit) > 0 {
			checkDrips(t, r, g)
		}
	}
	f.limit()
}

// checkDrips checks that promised units are withheld until the refill has restored
// them, and that the lease is valid for its TTL from then on.
func checkDrips(t *rapid.T, r *refRate, g Grant) {
	ready := most(mul(new(big.Rat).Neg(r.level), r.unitTime()), new(big.Rat))
	if add(ready, rat(int64(TTL))).Cmp(rat(int64(g.TTL))) > 0 {
		t.Fatalf("ready in %v, and expires in %v", ready, g.TTL)
	}
	x := rapid.Int64Range(0, int64(time.Second)).Draw(t, "then")
	if i := rapid.IntRange(0, len(g.Drips)).Draw(t, "drip"); i < len(g.Drips) {
		d := g.Drips[i] // the very instant at which a unit becomes available
		n := rapid.Int64Range(0, d.Unavailable(d.Ready)).Draw(t, "units")
		x = max(int64(d.Ready-d.Until(n)), 0)
		if d.Unavailable(d.Until(n)) > n {
			t.Fatalf("drip %+v: %v before Ready all but %d should be available, and %d are not", d, d.Until(n), n, d.Unavailable(d.Until(n)))
		}
	}
	var withheld int64
	for _, d := range g.Drips {
		if d.Unit == r.unit {
			withheld = max(withheld, d.Unavailable(d.Ready-time.Duration(x)))
		}
	}
	want := quo(sub(ready, rat(x)), r.unitTime())
	if rat(withheld).Cmp(want) < 0 {
		t.Fatalf("%v: %dns after the grant %d are withheld, and %v are not restored yet", r.Rate, x, withheld, want.FloatString(12))
	}
}

func compare(t *rapid.T, now int64, b *Bucket, f *reference) {
	if !b.Limits().Equal(f.limits) {
		t.Fatalf("limits %q, want %q", b.Limits(), f.limits)
	}
	level, out := b.Level(now), b.Leased(now)
	for u := range NumUnits {
		if out.Of(u) != f.out(u) {
			t.Fatalf("%d %v leased, want %d", out.Of(u), u, f.out(u))
		}
		if len(f.limits.Of(u)) == 0 {
			continue
		}
		var high, low *big.Rat
		for _, r := range f.rates {
			if r.unit != u {
				continue
			}
			slow := sub(r.level, quo(r.bound, r.unitTime()))
			if high == nil {
				high, low = r.level, slow
			}
			high, low = least(high, r.level), least(low, slow)
		}
		if exact, ok := f.windowLevel(u, now); ok {
			if high == nil {
				high, low = exact, exact
			}
			high, low = least(high, exact), least(low, exact)
		}
		if got := big.NewInt(level.Of(u)); got.Cmp(floor(high)) > 0 || got.Cmp(floor(low)) < 0 {
			t.Fatalf("level of %d %v, want %v to %v", got, u, low.FloatString(12), high.FloatString(12))
		}
	}
}
