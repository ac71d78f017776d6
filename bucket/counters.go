package bucket

import (
	"slices"
	"time"
)

// counters are the counters of the windows and calendars of a bucket. A bucket of token
// buckets alone has none.
type counters struct {
	of []counter // of each rate, by its index in Bucket.tats

	// shut is the instant before which no unit is granted, because the provider said
	// when to retry. The cooldown itself books no units.
	shut [NumUnits]int64

	// since is the instant of the last change of the limits, plus one: units that were
	// charged before it are not taken back.
	since int64
}

// counter is the counter of one rate, by its kind. A token bucket has none: its arrival
// time is in Bucket.tats. So is the one of a window's pace.
type counter struct {
	window   *window
	calendar *calendar
}

// newCounters returns the counters of new rates under limits and former, which may be
// nil. It returns nil if all of them are token buckets.
func newCounters(limits, former *Limits) *counters {
	if limits.tokenBucketsOnly() && (former == nil || former.tokenBucketsOnly()) {
		return nil
	}
	var of []counter
	add := func(_ int, _ Unit, r *Rate) {
		var c counter
		switch r.Kind {
		case Window:
			c.window = new(window)
		case Calendar:
			c.calendar = new(calendar)
		}
		of = append(of, c)
	}
	limits.each(0, add)
	if former != nil {
		former.each(0, add)
	}
	return &counters{of: of}
}

// clone returns a copy that shares no memory with c.
func (c *counters) clone() *counters {
	if c == nil {
		return nil
	}
	d := *c
	d.of = slices.Clone(c.of)
	for i, k := range d.of {
		switch {
		case k.window != nil:
			w := k.window.clone()
			d.of[i].window = &w
		case k.calendar != nil:
			day := *k.calendar
			d.of[i].calendar = &day
		}
	}
	return &d
}

// windowRate returns the limit that a window counts for.
func (r *Rate) windowRate() windowRate { return windowRate{r.N, int64(r.Per)} }

// calendarRate returns the limit that a calendar counts for.
func (r *Rate) calendarRate() calendarRate { return newCalendarRate(r.N) }

// paceRate returns the token bucket of a window's pace.
func (r *Rate) paceRate() Rate { return Rate{N: r.N, Per: r.Per, Burst: r.Pace} }

// others calls f for each window and calendar in force.
func (b *Bucket) others(f func(i int, u Unit, r *Rate)) {
	if b.counters == nil {
		return
	}
	b.limits.each(0, func(i int, u Unit, r *Rate) {
		if r.Kind != TokenBucket {
			f(i, u, r)
		}
	})
}

// allOthers is others for the former rates, too.
func (b *Bucket) allOthers(f func(i int, u Unit, r *Rate)) {
	b.others(f)
	if b.counters == nil || b.former == nil {
		return
	}
	b.former.each(b.limits.Len(), func(i int, u Unit, r *Rate) {
		if r.Kind != TokenBucket {
			f(i, u, r)
		}
	})
}

// otherLevel returns the level of the window or calendar i: below zero if more than N
// count. It is at most zero while the unit is shut. A pace is no limit and does not
// count.
func (b *Bucket) otherLevel(i int, u Unit, r *Rate, now int64) int64 {
	var n int64
	if c := b.counters.of[i]; c.window != nil {
		n = c.window.level(r.windowRate(), now, b.leased.Of(u))
	} else {
		n = c.calendar.level(r.calendarRate(), b.leased.Of(u))
	}
	if b.counters.shut[u] > now {
		n = min(n, 0)
	}
	return n
}

// otherRoom returns the largest grant of the window or calendar i at now to an ask that
// needs at least need units. A window promises no units ahead.
func (b *Bucket) otherRoom(i int, u Unit, r *Rate, now, need int64) int64 {
	n := max(b.otherLevel(i, u, r, now), 0)
	if r.Pace > 0 {
		n = min(n, pace{b.tats[i]}.room(r.paceRate(), now, need))
	}
	return n
}

// otherReady returns the first instant from now on at which the window or calendar i may
// grant n units, if no operation comes before. If the open leases leave no room for n,
// they count as spent now.
func (b *Bucket) otherReady(i int, u Unit, r *Rate, now, n int64) int64 {
	at := max(now, b.counters.shut[u])
	if r.Pace > 0 {
		at = max(at, pace{b.tats[i]}.ready(r.paceRate(), now, n))
	}
	if w := b.counters.of[i].window; w != nil {
		t, ok := w.ready(r.windowRate(), now, b.leased.Of(u), n)
		if !ok {
			t = r.windowRate().returns(r.windowRate().slotOf(now))
		}
		return max(at, t)
	}
	return max(at, later(now, b.untilDay(i, u, r, now, n)))
}

// untilDay returns the nanoseconds from now until calendar i has room for n units.
func (b *Bucket) untilDay(i int, u Unit, r *Rate, now, n int64) int64 {
	c := b.counters.of[i].calendar
	switch {
	case n <= c.level(r.calendarRate(), b.leased.Of(u)):
		return 0
	case c.reset == 0:
		return int64(time.Second) // the next stamp says when the day ends
	}
	return max(c.reset+int64(r.calendarRate().clocks)-c.wallAt(now), 0)
}

// chargePaces charges the paces for a grant at now, and credits them where c is negative.
func (b *Bucket) chargePaces(now int64, c Cost) {
	b.others(func(i int, u Unit, r *Rate) {
		if r.Pace == 0 {
			return
		}
		p := pace{b.tats[i]}
		if n := c.Of(u); n >= 0 {
			p.charge(r.paceRate(), now, n)
		} else {
			p.credit(r.paceRate(), -n)
		}
		b.tats[i] = p.full
	})
}

// book counts spent units in all windows and calendars, known to be spent by the instant
// at, which is no later than now.
func (b *Bucket) book(now, at int64, spent Cost) {
	b.allOthers(func(i int, u Unit, r *Rate) { b.bookIn(i, r, now, at, spent.Of(u)) })
}

func (b *Bucket) bookIn(i int, r *Rate, now, at, n int64) {
	switch c := b.counters.of[i]; {
	case n <= 0:
	case c.window != nil:
		c.window.book(r.windowRate(), now, at, n)
	case c.calendar.isStamped(now):
		c.calendar.book(r.calendarRate(), now, stamp{wall: c.calendar.wall}, at, n)
	default:
		c.calendar.bookLater(n)
	}
}

// agesBelow is the length of a window below which a settlement says how long ago its
// units were spent. In longer ones the time until it arrives is worth too little.
const agesBelow = 10 * time.Second

// settled books the spent units of lease l, which a settlement closed at now.
func (b *Bucket) settled(now int64, l *HeldLease, spent Cost, parts []Spending) {
	if b.counters == nil {
		return
	}
	b.chargePaces(now, spent.Sub(l.Granted))
	b.allOthers(func(i int, u Unit, r *Rate) {
		rest := spent.Of(u)
		if r.Kind == Window && r.Per < agesBelow {
			for _, p := range parts {
				n := min(p.Cost.Of(u), rest)
				b.bookIn(i, r, now, spentAt(now, p.Age, l.At), n)
				rest -= max(n, 0)
			}
		}
		b.bookIn(i, r, now, now, rest)
	})
}

// refund takes back booked units that were charged on a closed lease and not used. While
// the lease is open a refund is void, because the settlement gives the spent units.
func (b *Bucket) refund(now int64, a *Adjustment) {
	switch {
	case b.counters == nil || a.Return.IsZero():
		return
	case a.Lease == LeaseID{} || b.Holds(a.Lease):
		return
	case a.Since < b.counters.since || a.Since > now:
		return
	}
	b.others(func(i int, u Unit, r *Rate) {
		n := a.Return.Of(u)
		if c := b.counters.of[i].calendar; c != nil {
			c.refund(now, a.Since, n)
			return
		}
		n = b.counters.of[i].window.refund(r.windowRate(), now, a.Since, n)
		if r.Pace > 0 {
			p := pace{b.tats[i]}
			p.credit(r.paceRate(), n)
			b.tats[i] = p.full
		}
	})
}

// shutUntil grants no unit of a window or a calendar before the instant until.
func (b *Bucket) shutUntil(until int64) {
	if b.counters != nil {
		for u := range b.counters.shut {
			b.counters.shut[u] = max(b.counters.shut[u], until)
		}
	}
}

// othersIdle reports whether all windows and calendars behave as new ones.
func (b *Bucket) othersIdle(now int64) bool {
	if b.counters == nil {
		return true
	}
	idle := slices.Max(b.counters.shut[:]) <= now
	b.allOthers(func(i int, _ Unit, r *Rate) { idle = idle && b.otherIdle(i, r, now) })
	return idle
}

func (b *Bucket) otherIdle(i int, r *Rate, now int64) bool {
	if w := b.counters.of[i].window; w != nil {
		return w.idle(r.windowRate(), now)
	}
	return b.counters.of[i].calendar.idle()
}

// otherFull returns the instant at which the window or calendar i is full, if the leased
// units are spent now. It is for status pages.
func (b *Bucket) otherFull(i int, u Unit, r *Rate, now int64) int64 {
	c := b.counters.of[i]
	full := max(now, b.counters.shut[u], b.tats[i])
	leased := b.leased.Of(u) > 0
	switch {
	case c.calendar != nil && (leased || !c.calendar.idle()):
		return max(full, later(now, b.untilDay(i, u, r, now, r.N+1)))
	case c.window != nil && leased:
		return max(full, r.windowRate().returns(r.windowRate().slotOf(now)))
	case c.window != nil && !c.window.idle(r.windowRate(), now):
		return max(full, r.windowRate().returns(c.window.newest.index))
	}
	return full
}

// normalize drops slots, cooldowns and debts that are over by now, so that buckets that
// behave alike have equal states.
func (c *counters) normalize(b *Bucket, now int64) {
	for u, t := range c.shut {
		if t <= now {
			c.shut[u] = 0
		}
	}
	b.allOthers(func(i int, _ Unit, r *Rate) {
		if w := c.of[i].window; w != nil {
			w.keep(w.live(r.windowRate(), now, nil))
		}
		if b.tats[i] <= now { // the pace is full
			b.tats[i] = 0
		}
	})
}
