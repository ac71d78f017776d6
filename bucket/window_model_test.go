package bucket

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"
)

// brokenRule is a set of the rules of a window that a model breaks on purpose. Zero
// breaks none.
type brokenRule uint

const (
	countFromSlotStart     brokenRule = 1 << iota // a unit returns Per after the start of its slot, not after the end
	ignoreLeased                                  // leased units do not count
	grantOverLimit                                // a grant needs some room, not room for all of it
	bookAtGrant                                   // a settlement books as of the grant, not as of the spending
	trustAges                                     // the age of a spending is not shortened
	trustLongAges                                 // a spending may be booked before its grant
	creditExpired                                 // an expired lease is not booked
	refundLatest                                  // a refund takes from the latest slot first
	refundReturned                                // a refund counts after the slot of the charge has returned
	trustRefundAges                               // the age of a refund is not lengthened
	refundBeforeSettlement                        // a refund counts while its lease is open, and the settlement reports all units
)

// unitCounter is a window, real or slow, under one rate.
type unitCounter interface {
	counted(now int64) int64
	book(now, at, n int64)
	refund(now, since, n int64) int64
}

// realWindow is a window with its rate.
type realWindow struct {
	r windowRate
	w window
}

func (w *realWindow) counted(now int64) int64          { return w.w.counted(w.r, now) }
func (w *realWindow) book(now, at, n int64)            { w.w.book(w.r, now, at, n) }
func (w *realWindow) refund(now, since, n int64) int64 { return w.w.refund(w.r, now, since, n) }

// slowWindow is the reference for a window: the units of each slot in a map, nothing
// kept between calls, and rules that can be broken.
type slowWindow struct {
	r      windowRate
	broken brokenRule
	slots  map[int64]int64
}

func newSlowWindow(r windowRate, broken brokenRule) *slowWindow {
	return &slowWindow{r, broken, make(map[int64]int64)}
}

func (w *slowWindow) width() int64 {
	width := w.r.per / 60
	if w.r.per%60 > 0 {
		width++
	}
	return width
}

func (w *slowWindow) returned(i, now int64) bool {
	from := (i + 1) * w.width()
	if w.broken&countFromSlotStart != 0 {
		from = i * w.width()
	}
	return from+w.r.per <= now
}

func (w *slowWindow) drop(now int64) {
	maps.DeleteFunc(w.slots, func(i, n int64) bool { return n == 0 || w.returned(i, now) })
}

func (w *slowWindow) counted(now int64) (n int64) {
	w.drop(now)
	for _, m := range w.slots {
		n += m
	}
	return n
}

func (w *slowWindow) book(now, at, n int64) {
	w.slots[at/w.width()] += n
	w.drop(now)
}

func (w *slowWindow) refund(now, since, n int64) (taken int64) {
	w.drop(now)
	if since > now || w.returned(since/w.width(), now) && w.broken&refundReturned == 0 {
		return 0
	}
	order := slices.Sorted(maps.Keys(w.slots))
	if w.broken&refundLatest != 0 {
		slices.Reverse(order)
	}
	for _, i := range order {
		t := min(w.slots[i], n-taken)
		w.slots[i] -= t
		taken += t
	}
	return taken
}

// clock is the speed of a holder's clock against the store's: it counts num while the
// store counts den. Both may be wrong by [Drift].
type clock struct{ num, den int64 }

var (
	slowClock  = clock{slowest, fastest}
	exactClock = clock{1, 1}
	fastClock  = clock{fastest, slowest}
)

func (c clock) count(d int64) time.Duration { return time.Duration(mulDiv(d, c.num, c.den)) }

// windowModel is a key with one window, its open leases, and their holders.
type windowModel struct {
	r      windowRate
	broken brokenRule
	unitCounter
	now   int64
	open  []*windowLease
	calls []*windowCall
}

type windowLease struct {
	granted, left int64
	at, expiry    int64
	calls         []*windowCall // spent on the lease
	clock         clock         // of its holder
}

// windowCall is units that a holder spent at one instant.
type windowCall struct {
	lease *windowLease
	at, n int64 // n is the units that the settlement reports
	spent int64 // the units that were used
}

func (m *windowModel) has(rule brokenRule) bool { return m.broken&rule != 0 }

// advance moves the time, and books the leases that expire meanwhile.
func (m *windowModel) advance(to int64) {
	m.now = to
	m.open = slices.DeleteFunc(m.open, func(l *windowLease) bool {
		if l.expiry <= to && !m.has(creditExpired) {
			m.book(to, l.expiry, l.granted)
		}
		return l.expiry <= to
	})
}

func (m *windowModel) leased() (n int64) {
	for _, l := range m.open {
		n += l.granted
	}
	return n
}

// lease grants n units for ttl. It returns nil if the window has no room.
func (m *windowModel) lease(n, ttl int64, c clock) *windowLease {
	counted := m.counted(m.now)
	if !m.has(ignoreLeased) {
		counted += m.leased()
	}
	if counted+n > m.r.n && !(m.has(grantOverLimit) && counted < m.r.n) {
		return nil
	}
	l := &windowLease{granted: n, left: n, at: m.now, expiry: m.now + ttl, clock: c}
	m.open = append(m.open, l)
	return l
}

// spend spends n units of l now, which the store does not see.
func (m *windowModel) spend(l *windowLease, n int64) *windowCall {
	c := &windowCall{lease: l, at: m.now, n: n, spent: n}
	l.left -= n
	l.calls = append(l.calls, c)
	m.calls = append(m.calls, c)
	return c
}

// settle closes l by a settlement that is sent now and travels for so long.
func (m *windowModel) settle(l *windowLease, travels int64) {
	sent := m.now
	parts := make([]windowCall, len(l.calls))
	for i, c := range l.calls {
		parts[i] = *c
	}
	m.advance(m.now + travels)
	if !slices.Contains(m.open, l) {
		return // expired on the way
	}
	m.open = slices.DeleteFunc(m.open, func(o *windowLease) bool { return o == l })
	for _, c := range parts {
		m.book(m.now, m.bookedAs(l, l.clock.count(sent-c.at)), c.n)
	}
}

// bookedAs returns the instant as of which units are booked that were spent on l so
// long ago.
func (m *windowModel) bookedAs(l *windowLease, age time.Duration) int64 {
	switch {
	case m.has(bookAtGrant):
		return l.at
	case m.has(trustAges):
		return max(m.now-int64(age), l.at)
	case m.has(trustLongAges):
		return max(m.now-int64(Early(age)), 0)
	}
	return spentAt(m.now, age, l.at)
}

// refund reports that n units of c were not used after all.
func (m *windowModel) refund(c *windowCall, n int64) {
	c.spent -= n
	open := slices.Contains(m.open, c.lease)
	if open && !m.has(refundBeforeSettlement) {
		c.n -= n // part of the settlement
		return
	}
	age := c.lease.clock.count(m.now - c.at)
	since := chargedSince(m.now, age)
	if m.has(trustRefundAges) {
		since = m.now - int64(age)
	}
	m.unitCounter.refund(m.now, since, n)
}

// excess returns the most units by which any stretch of Per is over the limit.
func (m *windowModel) excess() int64 {
	worst := -m.r.n
	for i, c := range m.calls {
		var sum int64
		for _, d := range m.calls[:i+1] {
			if d.at > c.at-m.r.per {
				sum += d.spent
			}
		}
		worst = max(worst, sum-m.r.n)
	}
	return worst
}

// windowHistory returns a model after a random history of holders that spend at the
// worst moments: at the instant at which a slot returns, or at either end of a slot.
func windowHistory(seed uint64, counter func(windowRate) unitCounter, broken brokenRule) *windowModel {
	r := rand.New(rand.NewPCG(seed, 1))
	rate := windowRate{
		n:   oneOf(r, int64(1), 2, 5, 20, 100),
		per: oneOf(r, int64(time.Second), int64(3*time.Second), int64(time.Minute)),
	}
	m := &windowModel{r: rate, broken: broken, unitCounter: counter(rate)}
	ttl := oneOf(r, rate.per/10, rate.per/2, int64(2*time.Second), 2*rate.per)
	s := rate.width()
	for range 150 {
		to := m.now + oneOf(r, 0, 0, 1, s/7, s-1-m.now%s, s-m.now%s, 3*s, rate.per/3, rate.per-1)
		if len(m.calls) > 0 && r.IntN(10) < 3 {
			to = max(m.now, rate.returns(rate.slotOf(oneOf(r, m.calls...).at)))
		}
		m.advance(to)
		m.act(r, ttl)
	}
	return m
}

// act is one random step of a holder.
func (m *windowModel) act(r *rand.Rand, ttl int64) {
	switch op := r.IntN(10); {
	case op < 3:
		n := oneOf(r, 1+r.Int64N(m.r.n), max(m.r.n-m.counted(m.now)-m.leased(), 1))
		m.lease(n, ttl, oneOf(r, slowClock, exactClock, fastClock))
	case op < 7 && len(m.open) > 0:
		if l := oneOf(r, m.open...); l.left > 0 {
			m.spend(l, oneOf(r, l.left, 1+r.Int64N(l.left)))
		}
	case op < 9 && len(m.open) > 0:
		s := m.r.width()
		m.settle(oneOf(r, m.open...), oneOf(r, 0, 1, s/3, s))
	case len(m.calls) > 0:
		if c := oneOf(r, m.calls...); c.spent > 0 {
			m.refund(c, 1+r.Int64N(c.spent))
		}
	}
}

func oneOf[T any](r *rand.Rand, xs ...T) T { return xs[r.IntN(len(xs))] }
