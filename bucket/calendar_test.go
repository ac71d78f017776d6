package bucket

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// dayHistories are histories under 10 units a day around a midnight in UTC. In each of
// them the limit holds by all rules, and does not hold if the one rule is broken.
var dayHistories = []struct {
	name   string
	broken brokenDay
	play   func(m *calendarModel)
}{
	{"a unit close to the reset counts in both days", onlyToday, func(m *calendarModel) {
		m.at(-0.2).use(10) // may arrive 0.05 s after midnight
		m.at(2).use(10)
	}},
	{"the wall clock may be behind", noClockError, func(m *calendarModel) {
		m.off = -sec * 9 / 10
		m.at(0.5).use(10) // by the store's clock yesterday
		m.at(2).use(10)
	}},
	{"the wall clock may be ahead", noClockError, func(m *calendarModel) {
		m.at(-3600).use(10)
		m.off = sec * 9 / 10
		m.at(-0.5).use(10) // by the store's clock tomorrow
	}},
	{"the day before a reset has its units also after a day without an entry", noClockError, func(m *calendarModel) {
		m.at(-0.2).use(10) // may arrive after midnight
		m.off = sec * 9 / 10
		m.at(86_399.6).use(10) // by the store's clock after the next midnight
	}},
	{"a call takes a while to arrive", noTravel, func(m *calendarModel) {
		m.off = -sec
		m.at(-0.1).use(10) // by the store's clock 1.1 s before midnight
		m.at(2).use(10)
	}},
	{"a leased unit counts in both days", leasedNotInDay, func(m *calendarModel) {
		l := m.at(-20).lease(10, 60*sec)
		m.at(5).use(10)
		m.spend(l, 10)
	}},
	{"an expired lease is booked", expiredNotInDay, func(m *calendarModel) {
		l := m.at(-3600).lease(10, 2*sec)
		m.at(-3599).spend(l, 10)
		m.at(-3000).use(10)
	}},
	{"today never goes back", dayGoesBack, func(m *calendarModel) {
		m.off = sec * 9 / 10
		m.at(0.2).use(10)
		m.off = -sec * 9 / 10 // another leader
		m.at(0.3).use(10)
	}},
	{"a refund does not enter a later day", refundToday, func(m *calendarModel) {
		c := m.at(-3600).use(10)
		m.at(2).use(10)
		m.at(3).refund(c, 10)
		m.use(10)
	}},
	{"a refund does not enter tomorrow if its charge did not", refundTomorrow, func(m *calendarModel) {
		c := m.at(-3600).use(5)
		m.at(-0.2).use(5)
		m.at(-0.1).refund(c, 5)
		m.use(5)
		m.at(2).use(5)
	}},
}

// midnight is when the histories' days change: 2026-05-06 00:00 UTC.
const midnight = 20_579 * int64(day)

// at moves the time to so many seconds after midnight.
func (m *calendarModel) at(seconds float64) *calendarModel {
	m.now = midnight + int64(seconds*float64(sec)) - m.start
	return m
}

// use leases, spends and settles n units at once, if there is room for them.
func (m *calendarModel) use(n int64) *dayCall {
	l := m.lease(n, 2*sec)
	if l == nil {
		return nil
	}
	c := m.spend(l, n)
	m.settle(l)
	return c
}

// Each rule of a calendar is needed, and the library follows it: in each history more
// than 10 units may be counted in a day only if its rule is broken.
func TestCalendarRulesAreNeededAndFollowed(t *testing.T) {
	var all brokenDay
	for _, tt := range dayHistories {
		all |= tt.broken
		t.Run(tt.name, func(t *testing.T) {
			play := func(broken brokenDay) int64 {
				m := newCalendarModel(10, "UTC", Daily, midnight-int64(day)/2, broken)
				tt.play(m)
				return m.excess()
			}
			if over := play(0); over > 0 {
				t.Errorf("a day is %d units over its limit", over)
			}
			if over := play(tt.broken); over <= 0 {
				t.Errorf("with the rule broken the limit holds by %d units: the history does not show the rule", -over)
			}
		})
	}
	if want := lastCalendarRule<<1 - 1; all != want {
		t.Errorf("histories for the rules %b, want %b", all, want)
	}
}

// In random histories no day has more than N units, and in some of them one has all N.
func TestCalendarHoldsInRandomHistories(t *testing.T) {
	full := 0
	for seed := range uint64(1500) {
		over := calendarHistory(seed).excess()
		if over > 0 {
			t.Fatalf("history %d: %d units over the limit", seed, over)
		}
		if over == 0 {
			full++
		}
	}
	if full < 250 {
		t.Errorf("the limit was reached in %d of 1,500 histories: they are too weak", full)
	}
}

// A calendar over time: 10 units a day, seen from 12 hours before a midnight on.
func TestCalendarOverTime(t *testing.T) {
	m := newCalendarModel(10, "UTC", Daily, midnight-int64(day)/2, 0)
	for _, step := range []struct {
		at    float64 // seconds after midnight
		use   int64
		level int64
		need  int64
		ready float64 // when need may be granted
		why   string
	}{
		{-43_200, 0, 10, 10, -43_200, "a new day is empty"},
		{-43_200, 4, 6, 7, 1, "a unit counts until ε after the reset"},
		{-1.3, 2, 4, 4, -1.3, "a unit counts today only"},
		{-1.25, 1, 3, 3, -1.25, "from ε + δ before the reset in both days"},
		{0.999, 0, 3, 4, 1, "today lasts until ε after the reset"},
		{1, 0, 9, 9, 1, "then the unit before the reset is left"},
		{1, 0, 9, 10, 86_401, "and counts all day"},
		{86_399, 2, 7, 7, 86_399, "so do units of this day"},
		{5*86_400 + 7, 0, 10, 10, 5*86_400 + 7, "days without an entry begin empty"},
	} {
		m.at(step.at)
		if step.use > 0 {
			m.use(step.use)
		}
		s := m.entry()
		assert.Equalf(t, step.level, m.c.level(m.r, 0), "level at %v s: %s", step.at, step.why)
		wait, ok := m.c.ready(m.r, s, 0, step.need)
		assert.True(t, ok)
		assert.InDeltaf(t, step.ready-step.at, wait.Seconds(), 1e-9, "%d ready at %v s: %s", step.need, step.at, step.why)
	}
	assert.True(t, m.c.idle())
	_, ok := m.c.ready(m.r, m.entry(), 8, 3)
	assert.False(t, ok, "leased units leave no room on any day")
	assert.Zero(t, m.c.room(m.r, 12))
}

// Leases that expired on a day before do not count today, however late the next entry
// comes: the store's time says how long ago they expired.
func TestExpiredLeasesCountOnTheirDay(t *testing.T) {
	m := newCalendarModel(10, "UTC", Daily, midnight-int64(day)/2, 0)
	m.at(-7200).lease(10, 2*sec)
	m.at(3 * 3600).entry()
	assert.Equal(t, int64(10), m.c.level(m.r, 0))
	m = newCalendarModel(10, "UTC", Daily, midnight-int64(day)/2, 0)
	m.at(-2).lease(10, 2*sec)
	m.at(3).entry()
	assert.Zero(t, m.c.level(m.r, 0))
}

// A refund enters the days that its charge entered, as far as its instant tells.
func TestRefundEntersTheDaysOfItsCharge(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(m *calendarModel)
		left int64
	}{
		{"the first charge of a key", func(m *calendarModel) {
			m.refund(m.at(-3600).use(5), 5)
		}, 10},
		{"the charge entered both days: so does the refund, before the reset", func(m *calendarModel) {
			m.at(-1.2).use(1)
			c := m.at(-1.1).use(5)
			m.at(-1).refund(c, 5)
			m.at(2)
		}, 9},
		{"and after it", func(m *calendarModel) {
			m.at(-1.2).use(1)
			c := m.at(-1.1).use(5)
			m.at(2).refund(c, 5)
		}, 9},
		{"the charge of a day that began late", func(m *calendarModel) {
			m.at(-3600).use(1)
			m.at(3600).use(1)
			m.refund(m.at(3601).use(5), 5)
		}, 9},
		{"tomorrow has no more units than today", func(m *calendarModel) {
			l := m.at(-3).lease(10, 30*sec) // of an instant at which charges enter today only
			c := m.at(-0.5).spend(l, 10)
			m.settle(l)
			m.refund(c, 10)
			m.at(2)
		}, 10},
		{"the instant of the first charge that enters both days", func(m *calendarModel) {
			m.off = -sec / 2
			c := m.at(-1.2).use(5) // by the store's clock 1.7 s before midnight
			m.off = 0
			m.use(5) // at the same instant of the store's time
			m.refund(c, 5)
			m.at(2)
		}, 5},
		{"the store's time stood still for three days", func(m *calendarModel) {
			c := m.at(-3600).use(5)
			m.start += 3 * int64(day)
			m.use(7)
			m.refund(c, 5)
		}, 3},
		{"the future, of a store whose state was lost", func(m *calendarModel) {
			m.at(-3600).use(5)
			m.c.refund(m.now, m.now+1, 5)
		}, 5},
		{"more than was charged", func(m *calendarModel) {
			m.at(-3600).use(1)
			m.at(-1.2).use(1)
			m.at(-1.1).use(1)
			m.c.refund(m.now, m.now, 9)
			m.use(2)
		}, 8},
		{"more than was charged, seen tomorrow", func(m *calendarModel) {
			m.at(-1.2).use(1)
			m.at(-1.1).use(1)
			m.c.refund(m.now, m.now, 9)
			m.use(2)
			m.at(2)
		}, 8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newCalendarModel(10, "UTC", Daily, midnight-int64(day)/2, 0)
			tt.play(m)
			m.entry()
			assert.Equal(t, tt.left, m.c.level(m.r, 0))
		})
	}
}

// A wall clock that is wrong by more than ε may count units in a day that they do not
// belong to, but counts all of them.
func TestWrongWallClockCountsEveryUnit(t *testing.T) {
	m := newCalendarModel(10, "UTC", Daily, midnight-int64(day)/2, 0)
	m.at(1.1).use(5)
	m.off = -5 * sec
	m.at(1.2).use(5)
	assert.Zero(t, m.c.level(m.r, 0))

	m = newCalendarModel(10, "UTC", Daily, midnight-int64(day)/2, 0)
	m.at(-1.2).entry()
	m.off = -5 * sec
	m.at(-1).use(10)
	m.off = 0
	m.at(2).entry()
	assert.Zero(t, m.c.level(m.r, 0))
}

// The store's clock may be fast: a lease that expired 101 s ago by it may have expired
// 99 s ago by the wall clock.
func TestExpiryAllowsForTheErrorOfTheClocks(t *testing.T) {
	r := newCalendarRate(10)
	var c calendar
	s := stamp{wall: midnight + 99*sec, before: midnight, next: midnight + int64(day)}
	c.advance(r, 200*sec, s)
	c.book(r, 200*sec, s, 99*sec, 10)
	assert.Zero(t, c.level(r, 0))
}

// A reset that a new version of the zone database moves does not begin a day anew
// before the old reset is over.
func TestMovedResetDoesNotBeginADay(t *testing.T) {
	r := newCalendarRate(10)
	var c calendar
	hour := int64(time.Hour)
	c.advance(r, 0, stamp{wall: midnight - 2*hour, before: midnight - 24*hour, next: midnight})
	c.book(r, 0, stamp{wall: midnight - 2*hour}, 0, 10)
	for _, moved := range []int64{-hour, hour} {
		d := c
		d.advance(r, hour, stamp{wall: midnight - hour + 1, before: midnight + min(moved, -24*hour), next: midnight + max(moved, -hour+2)})
		assert.Zero(t, d.room(r, 0), "reset moved by %v", time.Duration(moved))
	}
}

// Debts of any size are counted without overflow.
func TestCalendarCountsHugeDebts(t *testing.T) {
	r := newCalendarRate(MaxUnits)
	var c calendar
	s := stamp{wall: midnight - 1, before: midnight - int64(day), next: midnight}
	c.advance(r, 0, s)
	for range 3 {
		c.book(r, 0, s, 0, math.MaxInt64/2)
	}
	assert.Equal(t, r.n-maxDay, c.level(r, 0))
	c.advance(r, 5*sec, stamp{wall: midnight + 5*sec, before: midnight, next: midnight + int64(day)})
	assert.Equal(t, r.n-maxDay, c.level(r, 0))
}
