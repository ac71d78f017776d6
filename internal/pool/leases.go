package pool

import (
	"math"
	"slices"
	"time"

	"github.com/choked/choked/bucket"
)

// leases are the leases that a worker holds for one key, the oldest first.
// Instants are the worker's clock. The zero value holds none.
type leases struct {
	left bucket.Cost // over all of them, available yet or not
	held []heldLease
}

type heldLease struct {
	id          bucket.LeaseID
	granted     bucket.Cost
	left        bucket.Cost // of granted
	used        int64       // when it was last spent from, or arrived
	expires     int64       // the instant from which it must not be spent
	availableAt int64       // when all of it may be spent
	drips       []bucket.Drip
}

func (l *heldLease) spent() bucket.Cost { return l.granted.Sub(l.left) }

// returnMargin is how long before its end an unused lease is returned.
const returnMargin = 100 * time.Millisecond

// closeAt returns when to return the lease: early enough before its end that the
// settlement reaches the store in time.
func (l *heldLease) closeAt() int64 { return l.expires - int64(returnMargin) }

// usedUp reports whether no lease is held, or the oldest one is spent.
func (h *leases) usedUp() bool {
	if len(h.held) == 0 {
		return true
	}
	l := &h.held[0].left
	return l.Requests|l.Tokens|l.Input|l.Output|l.Spend == 0 // IsZero would copy it, at each take
}

// add adds a lease that was asked for at sent and arrived at now. Validity counts
// from the ask: an answer may take any time to arrive.
func (h *leases) add(l bucket.Lease, sent, now int64) {
	o := heldLease{id: l.ID, granted: l.Granted, left: l.Granted, used: now, expires: sent + int64(l.ValidFor)}
	for _, d := range l.Drips {
		d.Ready = bucket.Late(d.Ready) + time.Duration(now)
		o.drips = append(o.drips, d)
		o.availableAt = max(o.availableAt, int64(d.Ready))
	}
	h.held = append(h.held, o)
	h.left = h.left.Add(o.left)
}

// spend takes cost at now, whole or not at all, and returns the sequence number of
// the lease if a single one covered it. The first branch is the fast path of every
// call: the oldest lease covers the cost.
func (h *leases) spend(now int64, c *bucket.Cost) (lease uint64, ok bool) {
	if len(h.held) > 0 {
		if o := &h.held[0]; now < o.expires && now >= o.availableAt && o.left.Has(c) {
			o.left.Dec(c)
			o.used = now
			h.left.Dec(c)
			return o.id.Seq, true
		}
	}
	cost := *c
	if !h.available(now).Covers(cost) {
		return 0, false
	}
	parts := 0
	for i := range h.held {
		o := &h.held[i]
		part := cost.Min(o.available(now))
		if part.IsZero() {
			continue
		}
		o.left, o.used = o.left.Sub(part), now
		h.left, cost = h.left.Sub(part), cost.Sub(part)
		parts++
		lease = o.id.Seq
	}
	if parts > 1 {
		lease = 0
	}
	return lease, true
}

// unspend returns up to cost to the lease with this id, from which it was spent. It
// returns the part that the lease took back, and false if the lease is not held.
func (h *leases) unspend(id bucket.LeaseID, cost bucket.Cost) (part bucket.Cost, ok bool) {
	for i := range h.held {
		o := &h.held[i]
		if o.id == id {
			part = cost.Min(o.spent())
			o.left = o.left.Add(part)
			h.left = h.left.Add(part)
			return part, true
		}
	}
	return bucket.Cost{}, false
}

// available returns what may be spent at now.
func (h *leases) available(now int64) bucket.Cost {
	var sum bucket.Cost
	for i := range h.held {
		sum = sum.Add(h.held[i].available(now))
	}
	return sum
}

func (l *heldLease) available(now int64) bucket.Cost {
	switch {
	case now >= l.expires:
		return bucket.Cost{}
	case now >= l.availableAt:
		return l.left
	}
	c := l.left
	for _, d := range l.drips {
		later := d.Unavailable(d.Ready - time.Duration(now))
		c = c.With(d.Unit, min(c.Of(d.Unit), l.left.Of(d.Unit)-later))
	}
	return c.Max(bucket.Cost{})
}

// whenAvailable returns the first instant from now on at which cost may be spent.
// If the leases will never cover it, it is the next instant at which they change,
// or the end of time.
func (h *leases) whenAvailable(now int64, cost bucket.Cost) int64 {
	if len(h.held) == 1 && h.left.Covers(cost) {
		return min(max(h.held[0].whenAvailable(cost), now), h.held[0].expires)
	}
	last := now
	for i := range h.held {
		last = max(last, h.held[i].availableAt)
	}
	if !h.available(last).Covers(cost) {
		// A lease expires before everything is available.
		first := int64(math.MaxInt64)
		for i := range h.held {
			first = min(first, h.held[i].expires)
		}
		return first
	}
	// available does not fall between now and last, or it would not cover at last.
	for now < last {
		mid := now + (last-now)/2
		if h.available(mid).Covers(cost) {
			last = mid
		} else {
			now = mid + 1
		}
	}
	return last
}

// whenAvailable returns when cost, which l.left covers, may be spent.
func (l *heldLease) whenAvailable(cost bucket.Cost) (at int64) {
	for _, d := range l.drips {
		if n := cost.Of(d.Unit); n > 0 {
			at = max(at, int64(d.Ready-d.Until(l.left.Of(d.Unit)-n)))
		}
	}
	return at
}

// charge takes up to cost for units that were used already, available or not, and
// returns the part of cost that the leases do not cover.
func (h *leases) charge(cost bucket.Cost) (rest bucket.Cost) {
	for i := range h.held {
		o := &h.held[i]
		part := cost.Min(o.left)
		o.left = o.left.Sub(part)
		h.left, cost = h.left.Sub(part), cost.Sub(part)
	}
	return cost
}

// close removes the leases for which end returns true and appends their
// settlements to done.
func (h *leases) close(key string, done []bucket.Settlement, end func(*heldLease) bool) []bucket.Settlement {
	h.held = slices.DeleteFunc(h.held, func(l heldLease) bool {
		if !end(&l) {
			return false
		}
		h.left = h.left.Sub(l.left)
		done = append(done, bucket.Settlement{Key: key, ID: l.id, Spent: l.spent()})
		return true
	})
	return done
}
