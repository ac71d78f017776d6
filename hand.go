package choked

import (
	"math"
	"slices"
	"time"

	"github.com/choked/choked/bucket"
)

// hand is the leases that a worker has in hand for one key, the oldest first.
// Instants are the worker's clock.
type hand struct {
	left   Cost // over all of them, ripe or not
	leases []open
}

type open struct {
	id      bucket.LeaseID
	left    Cost
	spent   Cost
	used    int64 // when something was spent of it last, or it came
	expires int64 // spend nothing from then on
	ripe    int64 // when all of it is spendable
	drips   []bucket.Drip
}

// closes is when the lease is worth no more: soon enough before its end that
// the store still hears what of it comes back.
func (o *open) closes() int64 { return o.expires - int64(spare) }

// usedUp reports whether nothing is left, or nothing of the oldest lease.
func (h *hand) usedUp() bool { return len(h.leases) == 0 || h.leases[0].left.IsZero() }

// add takes a lease in hand that was asked for at sent and came at now.
func (h *hand) add(l Lease, sent, now int64) {
	o := open{id: l.ID, left: l.Granted, used: now, expires: sent + int64(l.ValidFor)}
	for _, d := range l.Drips {
		// A fast clock here and a slow one there must not let quota ripen early.
		d.Ready = bucket.Late(d.Ready) + time.Duration(now)
		o.drips = append(o.drips, d)
		o.ripe = max(o.ripe, int64(d.Ready))
	}
	h.leases = append(h.leases, o)
	h.left = h.left.Add(o.left)
}

// spend takes cost at now, whole or not at all. This is the fast path of every
// call: one lease in hand that covers it.
func (h *hand) spend(now int64, cost Cost) bool {
	if len(h.leases) > 0 {
		if o := &h.leases[0]; now < o.expires && now >= o.ripe && o.left.Covers(cost) {
			o.left, o.spent, o.used = o.left.Sub(cost), o.spent.Add(cost), now
			h.left = h.left.Sub(cost)
			return true
		}
	}
	if !h.usable(now).Covers(cost) {
		return false
	}
	for i := range h.leases {
		o := &h.leases[i]
		part := cost.Min(o.usable(now))
		if part.IsZero() {
			continue
		}
		o.left, o.spent, o.used = o.left.Sub(part), o.spent.Add(part), now
		h.left, cost = h.left.Sub(part), cost.Sub(part)
	}
	return true
}

// usable is what may be spent at now.
func (h *hand) usable(now int64) Cost {
	var sum Cost
	for i := range h.leases {
		sum = sum.Add(h.leases[i].usable(now))
	}
	return sum
}

func (o *open) usable(now int64) Cost {
	switch {
	case now >= o.expires:
		return Cost{}
	case now >= o.ripe:
		return o.left
	}
	c := o.left
	for _, d := range o.drips {
		unripe := d.Unripe(d.Ready - time.Duration(now))
		if d.Unit == bucket.Requests {
			c.Requests = min(c.Requests, o.left.Requests-unripe)
		} else {
			c.Tokens = min(c.Tokens, o.left.Tokens-unripe)
		}
	}
	return c.Max(Cost{})
}

// ripens is the first instant from now at which cost will be spendable; the end
// of time if what is in hand will never cover it.
func (h *hand) ripens(now int64, cost Cost) int64 {
	if len(h.leases) == 1 && h.left.Covers(cost) {
		return min(max(h.leases[0].ripens(cost), now), h.leases[0].expires)
	}
	last := now
	for i := range h.leases {
		last = max(last, h.leases[i].ripe)
	}
	if !h.usable(last).Covers(cost) {
		// Something expires before all is ripe. Look again when the first does.
		first := int64(math.MaxInt64)
		for i := range h.leases {
			first = min(first, h.leases[i].expires)
		}
		return first
	}
	for now < last { // usable does not fall in between, or it would not cover at last
		mid := now + (last-now)/2
		if h.usable(mid).Covers(cost) {
			last = mid
		} else {
			now = mid + 1
		}
	}
	return last
}

// ripens is when cost, which o covers, is spendable.
func (o *open) ripens(cost Cost) (at int64) {
	for _, d := range o.drips {
		if n := cost.Of(d.Unit); n > 0 {
			at = max(at, int64(d.Ready-d.Until(o.left.Of(d.Unit)-n)))
		}
	}
	return at
}

// charge takes up to cost for something that was used already, ripe or not, and
// returns what is not covered.
func (h *hand) charge(cost Cost) (rest Cost) {
	for i := range h.leases {
		o := &h.leases[i]
		part := cost.Min(o.left)
		o.left, o.spent = o.left.Sub(part), o.spent.Add(part)
		h.left, cost = h.left.Sub(part), cost.Sub(part)
	}
	return cost
}

// shut removes the leases for which gone holds and appends their settlements to
// done.
func (h *hand) shut(key string, done []Settlement, gone func(*open) bool) []Settlement {
	h.leases = slices.DeleteFunc(h.leases, func(o open) bool {
		if !gone(&o) {
			return false
		}
		h.left = h.left.Sub(o.left)
		done = append(done, Settlement{Key: key, ID: o.id, Spent: o.spent})
		return true
	})
	return done
}
