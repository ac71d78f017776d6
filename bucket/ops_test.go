package bucket

import (
	"slices"
	"time"

	"pgregory.net/rapid"
)

// ops draws random operations on a bucket, one after the other.
type ops struct {
	now     int64
	limits  Limits
	former  []Limits // in force before
	defined int64
	last    uint64 // latest sequence number used
	grants  map[LeaseID]Cost
}

type (
	settle   Settlement
	redefine struct {
		limits  Limits
		defined int64
	}
)

func newOps(l Limits) *ops { return &ops{limits: l, defined: 1, grants: make(map[LeaseID]Cost)} }

// next moves time and draws an operation: an *Ask, a settle, an *Adjustment or,
// if the limits may change, a redefine.
func (o *ops) next(t *rapid.T, mayRedefine bool) any {
	o.now += o.step().Draw(t, "dt")
	kind := rapid.IntRange(0, 99).Draw(t, "kind")
	switch {
	case kind < 50:
		a := &Ask{Want: o.cost(t, 1)}
		if kind >= 10 {
			a.Need = o.cost(t, 1)
		}
		if o.last > 0 && kind >= 45 {
			a.ID = LeaseID{1, rapid.Uint64Range(1, o.last).Draw(t, "again")}
		} else {
			o.last++
			a.ID = LeaseID{1, o.last}
		}
		return a
	case kind < 80 && o.last > 0:
		id := LeaseID{1, rapid.Uint64Range(1, o.last).Draw(t, "settled")}
		granted := o.grants[id]
		s := settle{ID: id, Spent: granted}
		switch rapid.IntRange(0, 3).Draw(t, "spent") {
		case 0:
			s.Spent = Cost{}
		case 1:
			s.Spent = o.cost(t, 2) // often more than was granted
		case 2:
			for u := range NumUnits {
				s.Spent = s.Spent.With(u, granted.Of(u)/int64(u+2))
			}
		}
		return s
	case kind < 92 || !mayRedefine:
		a := &Adjustment{}
		switch rapid.IntRange(1, 2).Draw(t, "adjust") { // returns are for the histories
		case 1:
			a.Charge = o.cost(t, 2)
		case 2:
			a.Empty = time.Duration(rapid.Int64Range(0, int64(5*time.Second)).Draw(t, "empty"))
		}
		return a
	}
	r := redefine{defined: o.defined + rapid.Int64Range(-1, 2).Draw(t, "defined"), limits: o.limits}
	o.defined = max(o.defined, r.defined)
	switch rapid.IntRange(0, 3).Draw(t, "redefine") {
	case 0:
		r.limits = anyLimits().Draw(t, "limits")
	case 1: // the windows stay, the sizes change
		r.limits.Requests = slices.Clone(o.limits.Requests)
		for i := range r.limits.Requests {
			if q := &r.limits.Requests[i]; q.Kind == TokenBucket {
				q.Burst = rapid.Int64Range(1, q.Burst).Draw(t, "burst")
			} else {
				q.N, q.Pace = rapid.Int64Range(1, q.N).Draw(t, "n"), 0
			}
		}
	case 2: // a worker with an older definition defines it anew
		if len(o.former) > 0 {
			r.limits = rapid.SampledFrom(o.former).Draw(t, "former")
		}
	}
	return r
}

// step draws a duration in nanoseconds: zero, less than a unit takes, just a unit,
// about the TTL of a lease, up to an hour.
func (o *ops) step() *rapid.Generator[int64] {
	unit := int64(time.Millisecond)
	o.limits.each(0, func(_ int, _ Unit, r *Rate) { unit = min(int64(r.Span(1)), int64(time.Hour)) })
	return rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1, unit), rapid.Just(unit), rapid.Int64Range(unit, 20*unit),
		rapid.Int64Range(0, int64(TTL+TTL/4)), rapid.Int64Range(0, int64(time.Hour)))
}

// cost draws a cost of up to so many bursts, and up to 100 of a unit that is not
// limited.
func (o *ops) cost(t *rapid.T, bursts int64) Cost {
	draw := func(u Unit) int64 {
		burst := int64(100)
		if len(o.limits.Of(u)) > 0 {
			burst = o.limits.Burst().Of(u)
		}
		return rapid.OneOf(rapid.Int64Range(0, min(3, burst)), rapid.Int64Range(0, bursts*burst)).Draw(t, u.String())
	}
	var c Cost
	for u := range NumUnits {
		c = c.With(u, min(draw(u), MaxUnits))
	}
	return c
}

// apply applies op to b. The grant is zero except for an ask.
func (o *ops) apply(b *Bucket, op any) (g Grant, err error) {
	switch op := op.(type) {
	case *Ask:
		if g, err = b.Lease(o.now, op); g.OK {
			o.grants[op.ID] = g.Granted
		}
	case settle:
		b.Settle(o.now, op.ID, op.Spent, op.Parts...)
	case *Adjustment:
		b.Adjust(o.now, op)
	case redefine:
		o.former = append(o.former, o.limits)
		b.Redefine(o.now, &op.limits, op.defined)
		o.limits = b.Limits()
	}
	return g, err
}

// clone returns a copy of b, on which an operation does not change b.
func clone(b *Bucket) *Bucket {
	c := *b
	c.tats, c.leases, c.shortfalls = slices.Clone(b.tats), slices.Clone(b.leases), slices.Clone(b.shortfalls)
	c.counters = b.counters.clone()
	return &c
}
