package bucket

import "time"

// maxDay bounds the units counted in one day of a calendar, so that sums fit in an
// int64. It is far above [MaxUnits].
const maxDay = 1 << 60

// calendarRate is a limit of n units between one reset of a calendar and the next.
type calendarRate struct {
	n int64 // units

	// clocks (ε) is how far the store's wall clock and the provider's may differ, and
	// travel (δ) how long a call takes from its admission to the provider.
	clocks, travel time.Duration
}

// newCalendarRate returns the rate of n units with ε = 1 s and δ = 250 ms.
func newCalendarRate(n int64) calendarRate {
	return calendarRate{n: n, clocks: time.Second, travel: 250 * time.Millisecond}
}

// stamp is the wall clock of the store at an entry, and the resets of a calendar around
// it, in Unix nanoseconds. The store's leader sets it, so that a calendar knows no time
// zone and all replicas count alike.
type stamp struct {
	wall         int64 // the time of the entry
	before, next int64 // the last reset at or before wall, and the first after it
}

// calendar counts the units of a day: the time from one reset to the next, whatever its
// length. In each day of the provider,
//
//	spent ≤ N
//
// provided that a grant of n needs counted + leased + n ≤ N.
//
// A unit counts in both days if the provider may count it before or after a reset:
// if it may be spent from ε + δ before the reset to ε after it. Leased units count in
// every day, since they may be spent until the lease ends. So the calendar counts in
// two days, today and tomorrow, until ε after the reset between them. Then tomorrow
// becomes today. Today never goes back, even when the wall clock does after a change of
// leaders. All units of tomorrow are units of today, too: a grant that fits
// today fits both.
//
// The zero calendar has no day yet. Instants are nanoseconds of the store's time unless
// they are said to be of the wall clock.
type calendar struct {
	from  int64 // the reset that today began with, by the wall clock
	reset int64 // the next reset, by the wall clock; 0: no day yet

	today, tomorrow int64 // units

	// pending units were booked without a stamp. They count in both days of the next one,
	// and until then in today.
	pending int64

	wall, stamped int64 // the last stamp and the instant it was for; wall 0: none yet

	// All charges from todaySince on entered today, and all from tomorrowSince on
	// entered tomorrow, too; end: charges enter today only.
	todaySince, tomorrowSince int64
}

// advance brings the calendar to the entry at now with stamp s. All other methods
// expect that.
func (c *calendar) advance(r calendarRate, now int64, s stamp) {
	if s.wall >= c.reset+int64(r.clocks) {
		c.begin(r, now, s)
	}
	if c.tomorrowSince == end && c.reachesTomorrow(r, s.wall) {
		c.tomorrowSince = now + 1 // an earlier entry at this instant did not reach it
	}
	c.wall, c.stamped = s.wall, now
	if c.pending > 0 {
		c.today = min(c.today+c.pending, maxDay)
		c.tomorrow = min(c.tomorrow+c.pending, maxDay)
		c.pending = 0
	}
}

// begin makes the day of s today. For ε after a reset that is the day before it, in
// which a unit may still count.
func (c *calendar) begin(r calendarRate, now int64, s stamp) {
	old := *c
	*c = calendar{from: s.before, reset: s.next, pending: old.pending, todaySince: now + 1, tomorrowSince: end}
	if s.wall < s.before+int64(r.clocks) {
		c.from, c.reset = old.reset, s.before
	}
	switch {
	case old.reset == 0:
		c.todaySince = now // no charge came before
	case old.reset >= c.from: // no day without an entry lies between
		c.today, c.todaySince = old.tomorrow, min(old.tomorrowSince, now+1)
	}
}

// reachesTomorrow reports whether the provider may count a unit in the next day that is
// spent at the latest at the instant wall of the wall clock.
func (c *calendar) reachesTomorrow(r calendarRate, wall int64) bool {
	return wall >= c.reset-int64(r.clocks)-int64(r.travel)
}

// level returns the units that may be granted while leased units are on open leases. It
// is below zero if more than N count.
func (c *calendar) level(r calendarRate, leased int64) int64 {
	return r.n - c.today - c.pending - leased
}

// room is the level, at least zero: the largest grant.
func (c *calendar) room(r calendarRate, leased int64) int64 { return max(c.level(r, leased), 0) }

// ready returns the time from stamp s until n units may be granted, if the leased units
// stay leased and no other operation comes: zero, or until ε after the next reset. If
// units of tomorrow leave no room then, either, another reset has to pass, which the
// calendar does not know yet. It reports false if the leased units leave no room for n
// on any day.
func (c *calendar) ready(r calendarRate, s stamp, leased, n int64) (wait time.Duration, ok bool) {
	switch {
	case n <= c.level(r, leased):
		return 0, true
	case leased+n > r.n:
		return 0, false
	}
	return time.Duration(c.reset + int64(r.clocks) - s.wall), true
}

// isStamped reports whether the last stamp was for the instant now.
func (c *calendar) isStamped(now int64) bool { return c.wall > 0 && c.stamped == now }

// bookLater counts n units that were spent at a time for which the calendar has no stamp.
func (c *calendar) bookLater(n int64) { c.pending = min(c.pending+n, maxDay) }

// wallAt returns the wall clock at the instant now, as the last stamp predicts it.
func (c *calendar) wallAt(now int64) int64 { return later(c.wall, max(now-c.stamped, 0)) }

// book counts n units that were spent by the instant at, no later than now: as of a
// settlement that arrives at now, or of the expiry of a lease. It never refuses.
func (c *calendar) book(r calendarRate, now int64, s stamp, at, n int64) {
	// The store's time may stand still while the wall clock goes on, never the other
	// way round. So by the wall clock the units were spent no later than this.
	spent := s.wall - int64(Early(time.Duration(now-at)))
	if at < c.todaySince && spent < c.from-int64(r.clocks)-int64(r.travel) {
		return // on a day before
	}
	c.today = min(c.today+n, maxDay)
	if at >= c.tomorrowSince || c.reachesTomorrow(r, spent) {
		c.tomorrow = min(c.tomorrow+n, maxDay)
	}
}

// refund takes back up to n units that were charged at the instant since, or later, and
// not used, from the days that the charge entered.
func (c *calendar) refund(now, since, n int64) {
	if since > now {
		return // the time of a lost store
	}
	if since >= c.todaySince {
		c.today = max(c.today-n, 0)
	}
	if since >= c.tomorrowSince {
		c.tomorrow = max(c.tomorrow-n, 0)
	}
	c.tomorrow = min(c.tomorrow, c.today)
}

// idle reports whether no units count: the calendar behaves as a new one.
func (c *calendar) idle() bool { return c.today|c.tomorrow|c.pending == 0 }
