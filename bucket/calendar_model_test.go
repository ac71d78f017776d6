package bucket

import (
	"math/rand/v2"
	"slices"
	"time"
)

// brokenDay is a set of the rules of a calendar that a model breaks on purpose.
type brokenDay uint

const (
	onlyToday        brokenDay = 1 << iota // no unit counts in both days
	noClockError                           // ε is zero
	noTravel                               // δ is zero
	leasedNotInDay                         // leased units do not count
	expiredNotInDay                        // an expired lease is not booked
	dayGoesBack                            // a wall clock that goes back brings a past day back
	refundToday                            // a refund enters today, whenever it was charged
	refundTomorrow                         // a refund enters tomorrow, whenever it was charged
	lastCalendarRule = refundTomorrow
)

// calendarModel is a key with one calendar rate, its leases, and a provider that counts
// each call in the day that hurts most. The store's time is the provider's, from the
// instant zero. The store's wall clock is off by up to ε.
type calendarModel struct {
	r      calendarRate
	loc    *time.Location
	period Period
	broken brokenDay
	c      calendar
	start  int64 // the provider's clock at the store's instant zero, in Unix nanoseconds
	now    int64
	off    int64 // the wall clock less the provider's clock
	open   []*dayLease
	calls  []*dayCall
}

type dayLease struct{ granted, spent, at, expiry int64 }

type dayCall struct {
	since int64 // of a refund: when its lease was granted
	at    int64 // when it was spent, by the provider's clock
	n     int64 // units, less those that were refunded
}

func newCalendarModel(n int64, zone string, p Period, start int64, broken brokenDay) *calendarModel {
	loc, err := loadZone(zone)
	if err != nil {
		panic(err)
	}
	m := &calendarModel{r: newCalendarRate(n), loc: loc, period: p, broken: broken, start: start}
	if m.has(noClockError) {
		m.r.clocks = 0
	}
	if m.has(noTravel) {
		m.r.travel = 0
	}
	return m
}

func (m *calendarModel) has(rule brokenDay) bool { return m.broken&rule != 0 }

// entry is an entry of the store's log: it brings the calendar to now and books the
// leases that have expired.
func (m *calendarModel) entry() stamp {
	s := stamp{wall: m.start + m.now + m.off}
	s.before, s.next = m.period.resets(m.loc, s.wall)
	if m.has(dayGoesBack) && s.before < m.c.from {
		m.c = calendar{}
	}
	m.c.advance(m.r, m.now, s)
	m.open = slices.DeleteFunc(m.open, func(l *dayLease) bool {
		if l.expiry <= m.now && !m.has(expiredNotInDay) {
			m.book(s, l.expiry, l.granted)
		}
		return l.expiry <= m.now
	})
	return s
}

func (m *calendarModel) book(s stamp, at, n int64) {
	m.c.book(m.r, m.now, s, at, n)
	if m.has(onlyToday) {
		m.c.tomorrow = 0
	}
}

func (m *calendarModel) leased() (n int64) {
	if m.has(leasedNotInDay) {
		return 0
	}
	for _, l := range m.open {
		n += l.granted
	}
	return n
}

// lease grants n units for life. It returns nil if there is no room.
func (m *calendarModel) lease(n, life int64) *dayLease {
	m.entry()
	if n > m.c.room(m.r, m.leased()) {
		return nil
	}
	l := &dayLease{granted: n, at: m.now, expiry: m.now + life}
	m.open = append(m.open, l)
	return l
}

// spend spends n units of l, which the store does not see.
func (m *calendarModel) spend(l *dayLease, n int64) *dayCall {
	l.spent += n
	c := &dayCall{l.at, m.start + m.now, n}
	m.calls = append(m.calls, c)
	return c
}

func (m *calendarModel) settle(l *dayLease) {
	s := m.entry()
	if i := slices.Index(m.open, l); i >= 0 {
		m.open = slices.Delete(m.open, i, i+1)
		m.book(s, m.now, l.spent)
	}
}

// refund reports that n units of c were not used after all.
func (m *calendarModel) refund(c *dayCall, n int64) {
	m.entry()
	c.n -= n
	if m.has(refundToday) {
		m.c.todaySince = 0
	}
	if m.has(refundTomorrow) {
		m.c.tomorrowSince = 0
	}
	m.c.refund(m.now, c.since, n)
}

// excess returns the most units by which a day of the provider may be over the limit,
// if every call arrives between the instant of its spending and δ later.
func (m *calendarModel) excess() int64 {
	days := make(map[int64]int64) // by the reset that begins the day
	for _, c := range m.calls {
		first, _ := m.period.resets(m.loc, c.at)
		last, _ := m.period.resets(m.loc, c.at+int64(newCalendarRate(1).travel))
		days[first] += c.n
		if last != first {
			days[last] += c.n
		}
	}
	worst := -m.r.n
	for _, n := range days {
		worst = max(worst, n-m.r.n)
	}
	return worst
}

// calendarHistory returns a model after a random history of holders and leaders around
// a few resets.
func calendarHistory(seed uint64) *calendarModel {
	r := rand.New(rand.NewPCG(seed, 2))
	zone := oneOf(r, "UTC", "America/Los_Angeles", "America/Havana", "Africa/Cairo", "America/St_Johns")
	n := oneOf(r, int64(1), 2, 5, 20)
	start := oneOf(r, int64(13_449), 20_393, 20_519, 20_566, 20_757) * int64(day) // a change of some zone's offset follows
	m := newCalendarModel(n, zone, Daily, start+r.Int64N(int64(day)), 0)
	for range 120 {
		m.step(r)
	}
	return m
}

// step is one random step: time passes, the leader may change, a holder acts.
func (m *calendarModel) step(r *rand.Rand) {
	_, reset := m.period.resets(m.loc, m.start+m.now+2*sec)
	toReset := max(reset-m.start-m.now, 0)
	m.now += oneOf(r, 0, 0, 1, sec/4, sec, 3*sec, toReset-oneOf(r, 0, 1, sec/4, sec, 5*sec/4, min(toReset, 3*sec)))
	m.now = max(m.now, 0)
	if r.IntN(3) == 0 {
		m.off = oneOf(r, -sec+1, 0, sec-1, r.Int64N(sec))
	}
	switch op := r.IntN(10); {
	case op < 4:
		m.lease(oneOf(r, 1+r.Int64N(m.r.n), m.r.n), oneOf(r, sec/2, 2*sec, 30*sec))
	case op < 7 && len(m.open) > 0:
		if l := oneOf(r, m.open...); l.expiry > m.now && l.spent < l.granted {
			m.spend(l, oneOf(r, l.granted-l.spent, 1))
		}
	case op < 9 && len(m.open) > 0:
		m.settle(oneOf(r, m.open...))
	case len(m.calls) > 0:
		if c := oneOf(r, m.calls...); c.n > 0 && !slices.ContainsFunc(m.open, func(l *dayLease) bool { return l.at == c.since }) {
			m.refund(c, 1+r.Int64N(c.n))
		}
	}
}
