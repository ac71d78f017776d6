package bucket

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// history is a random history of holders that spend at the worst moments: as much as
// they may, at the very instant at which a unit becomes available or just before a
// lease expires, or not at all until then. In every window they spend at most the
// burst and the refill of that window. This is the bound that the library promises.
//
// Each holder has its own clock, up to 1% fast or slow. The store's clock is real
// time, the fastest that it may be.
type history struct {
	r       *rand.Rand
	now     int64
	limits  []Limits // alternatives; the first holds at the start
	defined int64
	b       *Bucket
	seq     uint64
	leases  map[LeaseID]*heldBy
	closed  []LeaseID // settled or abandoned
	overpay Cost      // charged and not spent: may be returned
	since   int64     // when the first units of overpay were charged
	unused  []unused  // reported as spent on a lease and not spent: may be refunded
	kinds   bool      // also windows and calendars
	start   int64     // the wall clock at the instant zero
	checks  []check
	worst   int64  // excess over all checks, in units of 1/Per under a token bucket; 0 or less is right
	over    string // the rate with the worst excess
}

// heldBy is a lease as its holder sees it.
type heldBy struct {
	granted, left Cost
	under         Limits // in force at the grant
	sent, came    int64  // real time of its ask and its answer
	clock         int64  // nanoseconds that its clock counts in 100 ns of real time: 99 to 101
	lease         Lease  //
	drips         []Drip // stretched for the error of its clock, as a limiter does
	parts         []spentPart
}

// spentPart is units that a holder spent at one instant.
type spentPart struct {
	at   int64
	unit Unit
	n    int64
}

// unused is units that the settlement of a lease reports as spent and that were not.
type unused struct {
	lease LeaseID
	since int64 // the grant
	cost  Cost
}

// check is a bucket of its own for one rate, exact: it counts units times Per.
// Spending fills it and time drains it. If it is above the burst, the bound is broken
// in a window that ends now.
type check struct {
	Rate
	unit   Unit
	filled int64
	at     int64
	spent  []spending // of a window and a calendar
}

type spending struct{ at, n int64 }

// spend returns the excess over the bound, in units of 1/Per under a token bucket. start
// is the wall clock at the instant zero.
func (c *check) spend(now, n, start int64) (excess int64) {
	switch c.Kind {
	case Window:
		return c.spendInWindow(now, n)
	case Calendar:
		return c.spendInDay(now, n, start)
	}
	c.filled = max(0, c.filled-(now-c.at)*c.N) + n*int64(c.Per)
	c.at = now
	return c.filled - c.Burst*int64(c.Per)
}

// spendInWindow adds up what was spent in the stretch of Per that ends now.
func (c *check) spendInWindow(now, n int64) (excess int64) {
	c.at = now
	c.spent = append(c.spent, spending{now, n})
	c.spent = slices.DeleteFunc(c.spent, func(s spending) bool { return s.at <= now-int64(c.Per) })
	for _, s := range c.spent {
		excess += s.n
	}
	return excess - c.N
}

// spendInDay adds up what may arrive in the provider's day of now or of δ later.
func (c *check) spendInDay(now, n, start int64) (excess int64) {
	c.at = now
	c.spent = append(c.spent, spending{now, n})
	loc, _ := loadZone(c.Zone)
	excess = -c.N
	for _, at := range []int64{now, now + int64(250*ms)} {
		from, to := c.Every.resets(loc, start+at)
		sum := int64(0)
		for _, s := range c.spent {
			if start+s.at < to && start+s.at+int64(250*ms) >= from {
				sum += s.n
			}
		}
		excess = max(excess, sum-c.N)
	}
	return excess
}

// newHistory returns a history under token buckets, or under rates of all kinds.
func newHistory(seed uint64, kinds bool) *history {
	h := &history{r: rand.New(rand.NewPCG(seed, 1)), leases: make(map[LeaseID]*heldBy), defined: 1, kinds: kinds, start: midnight - int64(4*s)}
	rate := func(per time.Duration) Rate {
		r := Rate{N: pickOf(h.r, 1, 3, 7, 50), Per: per}
		r.Burst = pickOf(h.r, 1, 2, 5, 20, r.N)
		return r
	}
	l := Limits{Requests: Rates{rate(s)}}
	if h.r.IntN(2) == 0 {
		l.Requests = append(l.Requests, rate(3*s))
	}
	if h.r.IntN(2) == 0 {
		l.Tokens = Rates{rate(s)}
	}
	if kinds {
		h.otherKinds(&l)
	}
	// A definition that adds a rate, or changes the order, keeps the bounds of the
	// other rates. No holder may gain by changing there and back.
	more := Limits{Requests: slices.Clone(l.Requests), Tokens: l.Tokens}
	more.Requests = append(Rates{{N: 40, Per: 2 * s, Burst: 30}}, more.Requests...)
	// A definition that drops a rate is not bound by it. But units that were leased
	// under that rate count when it is in force again.
	less := Limits{Requests: l.Requests[:1]}
	h.limits = []Limits{l, more, less}
	for u := range NumUnits {
		for _, r := range l.Of(u) {
			h.checks = append(h.checks, check{Rate: r, unit: u})
		}
	}
	if kinds {
		h.limits[2] = l.without(h.r)
		// The window of the definition that adds one begins with what was counted.
		h.limits[1].Requests = append(h.limits[1].Requests, h.window(pickOf(h.r, 2, 5)))
		h.checks = append(h.checks, check{Rate: h.limits[1].Requests[len(h.limits[1].Requests)-1], unit: Requests})
	}
	h.b = New(&h.limits[0], h.defined)
	return h
}

// without returns l without some of its windows and calendars. Token buckets stay: one
// that is dropped and comes back forgets leases that were granted meanwhile.
func (l Limits) without(r *rand.Rand) Limits {
	drop := func(q Rate) bool { return q.Kind != TokenBucket && r.IntN(2) == 0 }
	less := Limits{Requests: slices.DeleteFunc(slices.Clone(l.Requests), drop), Tokens: slices.DeleteFunc(slices.Clone(l.Tokens), drop)}
	if less.Len() == 0 {
		return l
	}
	return less
}

// otherKinds adds windows and calendars to l, or replaces its token buckets by them.
func (h *history) otherKinds(l *Limits) {
	if h.r.IntN(2) == 0 {
		l.Requests = nil
	}
	l.Requests = append(l.Requests, h.window(1))
	if h.r.IntN(2) == 0 {
		l.Requests = append(l.Requests, h.window(3))
	}
	if h.r.IntN(2) == 0 {
		l.Tokens = append(l.Tokens, h.window(pickOf(h.r, 1, 3, 20)))
	}
	if h.r.IntN(2) == 0 {
		l.Tokens = append(l.Tokens, Rate{N: pickOf(h.r, 5, 20, 100), Kind: Calendar, Zone: "UTC"})
	}
}

// window draws a window of so many seconds.
func (h *history) window(seconds int64) Rate {
	r := Rate{N: pickOf(h.r, 1, 3, 7, 20, 50), Per: time.Duration(seconds) * s, Kind: Window}
	if h.r.IntN(3) == 0 {
		r.Pace = pickOf(h.r, 1, r.N/3+1, r.N)
	}
	return r
}

func pickOf(r *rand.Rand, ns ...int64) int64 { return ns[r.IntN(len(ns))] }

func (h *history) run(steps int) int64 {
	h.worst = -1 << 62
	for range steps {
		h.pass()
		h.stamp()
		switch op := h.r.IntN(100); {
		case op < 25:
			h.ask()
		case op < 75:
			h.spend()
		case op < 90:
			h.settle()
		case op < 93 && len(h.closed) > 0:
			// A settlement that is delivered twice, or too late.
			h.b.Settle(h.now, h.closed[h.r.IntN(len(h.closed))], Cost{})
		case op < 97:
			h.adjust()
		case op < 98 && h.kinds:
			h.restore()
		default:
			h.defined++
			h.b.Redefine(h.now, &h.limits[h.r.IntN(len(h.limits))], h.defined)
			h.stamp()
		}
	}
	return h.worst
}

// stamp tells the bucket a wall clock that is up to ε fast or slow. Now and then a stamp
// is missing.
func (h *history) stamp() {
	if h.b.counters != nil && h.r.IntN(8) > 0 {
		off := h.r.Int64N(2*sec-1) - sec + 1
		h.b.Stamp(h.now, StampsAt(h.start+h.now+off, h.b.limits, h.b.former))
	}
}

// restore goes on with a bucket of the same state.
func (h *history) restore() {
	b, err := Restore(h.b.State())
	if err != nil {
		panic(err)
	}
	h.b = b
}

// pass advances the time: often not at all, often to an instant of interest.
func (h *history) pass() {
	if h.r.IntN(3) == 0 {
		if l := h.any(); l != nil {
			if at := h.moment(l); at > h.now {
				h.now = at
				return
			}
		}
	}
	h.now += pickOf(h.r, 0, 0, 1, 5, 20, 100) * pickOf(h.r, int64(10*ms), int64(ms))
	if h.b.counters != nil && h.r.IntN(60) == 0 { // to the next midnight
		_, reset := Daily.resets(time.UTC, h.start+h.now+2*sec)
		h.now = max(h.now, reset-h.start-h.r.Int64N(2*sec))
	}
}

// moment returns an instant at which spending of l is most likely to break the bound:
// when its next unit becomes available, or the last at which it is valid.
func (h *history) moment(l *heldBy) int64 {
	if len(l.drips) > 0 && h.r.IntN(2) == 0 {
		d := l.drips[h.r.IntN(len(l.drips))]
		n := d.Unavailable(d.Ready - h.elapsed(l, l.came))
		return l.real(l.came, d.Ready-d.Until(max(n-1, 0)))
	}
	return l.real(l.sent, l.lease.ValidFor) - 1
}

// elapsed returns what l's clock counts since an instant.
func (h *history) elapsed(l *heldBy, since int64) time.Duration {
	return time.Duration((h.now - since) * l.clock / 100)
}

// real returns the first instant at which l's clock has counted d since another.
func (l *heldBy) real(since int64, d time.Duration) int64 {
	return since + (int64(d)*100+l.clock-1)/l.clock
}

func (h *history) any() *heldBy {
	if len(h.leases) == 0 {
		return nil
	}
	return h.leases[h.anyID()]
}

func (h *history) anyID() LeaseID {
	ids := slices.SortedFunc(maps.Keys(h.leases), func(a, b LeaseID) int { return int(a.Seq) - int(b.Seq) })
	return ids[h.r.IntN(len(ids))]
}

func (h *history) ask() {
	a := &Ask{}
	burst := h.b.Limits().Burst()
	want := func(n int64) int64 { return 1 + h.r.Int64N(min(n, 50)) }
	a.Want = Cost{Requests: want(burst.Requests), Tokens: want(burst.Tokens)}
	if h.r.IntN(4) > 0 {
		a.Need = Cost{Requests: 1 + h.r.Int64N(a.Want.Requests), Tokens: 1 + h.r.Int64N(a.Want.Tokens)}
	}
	if len(h.leases) > 0 && h.r.IntN(8) == 0 {
		// The answer was delayed, so the holder repeats the ask. Meanwhile it spent
		// units of the first answer.
		id := h.anyID()
		l := h.leases[id]
		a.ID = id
		if g, err := h.b.Lease(h.now, a); err == nil && g.OK && h.now < l.real(l.sent, l.lease.ValidFor) {
			l.answer(h, g, id)
			l.left = g.Granted.Sub(l.granted.Sub(l.left))
			l.granted = g.Granted
		}
		return
	}
	h.seq++
	a.ID = LeaseID{1, h.seq}
	if g, err := h.b.Lease(h.now, a); err == nil && g.OK {
		l := &heldBy{granted: g.Granted, left: g.Granted, under: h.b.Limits(), clock: pickOf(h.r, 99, 100, 101)}
		l.answer(h, g, a.ID)
		h.leases[a.ID] = l
	}
}

// answer receives a grant, at once: a network would only delay it. It stretches the
// drips as a limiter does, since the clock may be fast.
func (l *heldBy) answer(h *history, g Grant, id LeaseID) {
	l.sent, l.came, l.lease, l.drips = h.now, h.now, g.Lease(id, 0), nil
	for _, d := range g.Drips {
		d.Ready = Late(d.Ready)
		l.drips = append(l.drips, d)
	}
}

// spend spends the available units of a lease, or part of them, by the holder's own
// clock.
func (h *history) spend() {
	l := h.any()
	if l == nil || h.elapsed(l, l.sent) >= l.lease.ValidFor {
		return
	}
	usable := l.left
	for _, d := range l.drips {
		unavailable := d.Unavailable(d.Ready - h.elapsed(l, l.came))
		usable = usable.With(d.Unit, min(usable.Of(d.Unit), max(l.left.Of(d.Unit)-unavailable, 0)))
	}
	part := h.r.IntN(3) == 0
	for u := range NumUnits {
		n := usable.Of(u)
		if part && n > 0 {
			n = h.r.Int64N(n + 1)
		}
		if n <= 0 {
			continue
		}
		l.left = l.left.With(u, l.left.Of(u)-n)
		l.parts = append(l.parts, spentPart{h.now, u, n})
		for i := range h.checks {
			if c := &h.checks[i]; c.unit == u && slices.Contains(l.under.Of(u), c.Rate) {
				if over := c.spend(h.now, n, h.start); over > h.worst {
					h.worst, h.over = over, c.text(u)
				}
			}
		}
	}
}

// settle closes a lease with the units spent, or with more, as an estimate does.
func (h *history) settle() {
	if len(h.leases) == 0 {
		return
	}
	id := h.anyID()
	l := h.leases[id]
	spent := l.granted.Sub(l.left)
	if h.r.IntN(4) == 0 {
		more := Cost{Requests: h.r.Int64N(4), Tokens: h.r.Int64N(4)}
		u := unused{id, l.lease.At, more}
		if h.kinds && h.r.IntN(8) == 0 { // the refund overtakes the settlement, or the lease has expired
			more = more.Min(l.left)
			u.cost = more
			h.refund(u)
			u.cost = Cost{}
		}
		if h.b.Settle(h.now, id, spent.Add(more), h.parts(l)...) {
			h.overcharged(more)
			h.unused = append(h.unused, u)
		}
	} else {
		h.b.Settle(h.now, id, spent, h.parts(l)...)
	}
	delete(h.leases, id)
	h.closed = append(h.closed, id)
}

// parts says how long ago units of l were spent, by the clock of its holder; rarely, and
// of a part only, it says nothing.
func (h *history) parts(l *heldBy) (parts []Spending) {
	for _, p := range l.parts {
		if h.kinds && h.r.IntN(10) > 0 {
			parts = append(parts, Spending{h.elapsed(l, p.at), Cost{}.With(p.unit, p.n)})
		}
	}
	return parts
}

// refund takes back units that were reported as spent on a lease. A window and a calendar
// do so only if the lease is named, a token bucket by the instant of the charge.
func (h *history) refund(u unused) {
	if h.b.counters != nil {
		h.b.advance(h.now)
		h.b.refund(h.now, &Adjustment{Return: u.cost, Since: u.since, Lease: u.lease})
	}
}

func (h *history) overcharged(more Cost) {
	if h.overpay.IsZero() {
		h.since = h.now
	}
	h.overpay = h.overpay.Add(more)
}

func (h *history) adjust() {
	a := &Adjustment{}
	cases := 3
	if h.kinds {
		cases = 4
	}
	switch h.r.IntN(cases) {
	case 3:
		if n := len(h.unused); n > 0 {
			i := h.r.IntN(n)
			h.refund(h.unused[i])
			h.unused = slices.Delete(h.unused, i, i+1)
		}
		return
	case 0:
		a.Return, a.Since, h.overpay = h.overpay, h.since, Cost{}
	case 1:
		a.Charge = Cost{Requests: h.r.Int64N(4), Tokens: h.r.Int64N(4)}
		h.overcharged(a.Charge)
	case 2:
		a.Empty = time.Duration(h.r.Int64N(int64(300 * ms)))
	}
	h.b.Adjust(h.now, a)
}

func TestHistories(t *testing.T) { playHistories(t, 4000, false) }

// Under rates of all kinds, each rate's own bound holds, through expiries, refunds,
// changes of the limits and restores at any point.
func TestHistoriesOfAllKinds(t *testing.T) { playHistories(t, 4000, true) }

func playHistories(t *testing.T, histories int, kinds bool) {
	if testing.Short() {
		histories /= 8 // the others only differ in their seeds
	}
	spent, full := 0, 0
	for seed := range histories {
		h := newHistory(uint64(seed), kinds)
		worst := h.run(150)
		if worst > 0 {
			t.Fatalf("history %d, %v: %d units, or parts of them, above the bound of %s", seed, h.limits, worst, h.over)
		}
		if worst == 0 {
			full++
		}
		for _, c := range h.checks {
			if c.at > 0 {
				spent++
			}
		}
	}
	if spent < histories {
		t.Errorf("%d histories spent of only %d rates, want at least one each", histories, spent)
	}
	if kinds && full < histories/4 {
		t.Errorf("a limit was reached in %d of %d histories: they are too weak", full, histories)
	}
}
