package bucket

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// Random histories of holders that spend at the worst moment: all that they
// may, at the very instant at which a unit ripens or just before a lease ends,
// or not at all until then. Whatever they do, no window may see more than the
// burst and the refill of that window. This is the promise of the library.
//
// Each holder has a clock of its own, up to 1% fast or slow. The store's clock
// is real time, the fastest that it may be.
type history struct {
	r       *rand.Rand
	now     int64
	limits  []Limits // alternatives; the first holds at the start
	defined int64
	b       *Bucket
	seq     uint64
	leases  map[LeaseID]*inHand
	closed  []LeaseID // settled or given up
	overpay Cost      // charged and not spent: may be returned
	since   int64     // when the first of that was charged
	checks  []check
	worst   int64 // excess, in units of 1/Per, over all checks; 0 or less is right
}

// inHand is a lease as its holder sees it.
type inHand struct {
	granted, left Cost
	under         Limits // in force at the grant
	sent, came    int64  // real time of its ask and its answer
	clock         int64  // what its clock counts in 100 of real time: 99 to 101
	lease         Lease  //
	drips         []Drip // as the limiter stretches them for its clock's error
}

// check is a bucket of its own for one rate, exact: it counts units times Per.
// It fills by what is spent and drains with time; above the burst there is a
// window that ends now and saw too much.
type check struct {
	Rate
	unit   Unit
	filled int64
	at     int64
}

func (c *check) spend(now, n int64) (excess int64) {
	c.filled = max(0, c.filled-(now-c.at)*c.N) + n*int64(c.Per)
	c.at = now
	return c.filled - c.Burst*int64(c.Per)
}

func newHistory(seed uint64) *history {
	h := &history{r: rand.New(rand.NewPCG(seed, 1)), leases: make(map[LeaseID]*inHand), defined: 1}
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
	// A definition that adds a rate, or has them in another order, leaves the
	// bounds of the others in force. Nobody may gain by going there and back.
	more := Limits{Requests: slices.Clone(l.Requests), Tokens: l.Tokens}
	more.Requests = append(Rates{{N: 40, Per: 2 * s, Burst: 30}}, more.Requests...)
	// One that drops a rate is not held to it. But what was leased under that rate
	// counts when it comes back.
	less := Limits{Requests: l.Requests[:1]}
	h.limits = []Limits{l, more, less}
	for u := range Tokens + 1 {
		for _, r := range l.Of(u) {
			h.checks = append(h.checks, check{Rate: r, unit: u})
		}
	}
	h.b = New(&h.limits[0], h.defined)
	return h
}

func pickOf(r *rand.Rand, ns ...int64) int64 { return ns[r.IntN(len(ns))] }

func (h *history) run(steps int) int64 {
	h.worst = -1 << 62
	for range steps {
		h.pass()
		switch op := h.r.IntN(100); {
		case op < 25:
			h.ask()
		case op < 75:
			h.spend()
		case op < 90:
			h.settle()
		case op < 93 && len(h.closed) > 0:
			// A settlement that was on the way twice, or came too late.
			h.b.Settle(h.now, h.closed[h.r.IntN(len(h.closed))], Cost{})
		case op < 97:
			h.adjust()
		default:
			h.defined++
			h.b.Redefine(h.now, &h.limits[h.r.IntN(len(h.limits))], h.defined)
		}
	}
	return h.worst
}

// pass lets time pass: often none, often just until something changes.
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
}

// moment is an instant at which it is tempting to spend of l: when its next
// unit ripens, or the last at which it is valid.
func (h *history) moment(l *inHand) int64 {
	if len(l.drips) > 0 && h.r.IntN(2) == 0 {
		d := l.drips[h.r.IntN(len(l.drips))]
		n := d.Unavailable(d.Ready - h.elapsed(l, l.came))
		return l.real(l.came, d.Ready-d.Until(max(n-1, 0)))
	}
	return l.real(l.sent, l.lease.ValidFor) - 1
}

// elapsed is what l's clock counts since an instant.
func (h *history) elapsed(l *inHand, since int64) time.Duration {
	return time.Duration((h.now - since) * l.clock / 100)
}

// real is the first instant at which l's clock has counted d since another.
func (l *inHand) real(since int64, d time.Duration) int64 {
	return since + (int64(d)*100+l.clock-1)/l.clock
}

func (h *history) any() *inHand {
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
	a.Want = Cost{want(burst.Requests), want(burst.Tokens)}
	if h.r.IntN(4) > 0 {
		a.Need = Cost{1 + h.r.Int64N(a.Want.Requests), 1 + h.r.Int64N(a.Want.Tokens)}
	}
	if len(h.leases) > 0 && h.r.IntN(8) == 0 {
		// Its answer was long on the way, so it asks again. What it spent
		// meanwhile it had by the first answer.
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
		l := &inHand{granted: g.Granted, left: g.Granted, under: h.b.Limits(), clock: pickOf(h.r, 99, 100, 101)}
		l.answer(h, g, a.ID)
		h.leases[a.ID] = l
	}
}

// answer takes a grant in hand, at once: a network would only make it later.
// The limiter stretches drips as is done here, since its clock may be fast.
func (l *inHand) answer(h *history, g Grant, id LeaseID) {
	l.sent, l.came, l.lease, l.drips = h.now, h.now, g.Lease(id, 0), nil
	for _, d := range g.Drips {
		d.Ready = Late(d.Ready)
		l.drips = append(l.drips, d)
	}
}

// spend takes what is ripe of a lease, or part of it, as far as its own clock
// allows.
func (h *history) spend() {
	l := h.any()
	if l == nil || h.elapsed(l, l.sent) >= l.lease.ValidFor {
		return
	}
	usable := l.left
	for _, d := range l.drips {
		unripe := d.Unavailable(d.Ready - h.elapsed(l, l.came))
		usable = usable.with(d.Unit, min(usable.Of(d.Unit), max(l.left.Of(d.Unit)-unripe, 0)))
	}
	part := h.r.IntN(3) == 0
	for u := range Tokens + 1 {
		n := usable.Of(u)
		if part && n > 0 {
			n = h.r.Int64N(n + 1)
		}
		if n <= 0 {
			continue
		}
		l.left = l.left.with(u, l.left.Of(u)-n)
		for i := range h.checks {
			if c := &h.checks[i]; c.unit == u && slices.Contains(l.under.Of(u), c.Rate) {
				h.worst = max(h.worst, c.spend(h.now, n))
			}
		}
	}
}

// settle closes a lease with what was spent of it, or with more by an estimate.
func (h *history) settle() {
	if len(h.leases) == 0 {
		return
	}
	id := h.anyID()
	spent := h.leases[id].granted.Sub(h.leases[id].left)
	if h.r.IntN(4) == 0 {
		more := Cost{h.r.Int64N(4), h.r.Int64N(4)}
		if h.b.Settle(h.now, id, spent.Add(more)) {
			h.overcharged(more)
		}
	} else {
		h.b.Settle(h.now, id, spent)
	}
	delete(h.leases, id)
	h.closed = append(h.closed, id)
}

func (h *history) overcharged(more Cost) {
	if h.overpay.IsZero() {
		h.since = h.now
	}
	h.overpay = h.overpay.Add(more)
}

func (h *history) adjust() {
	a := &Adjustment{}
	switch h.r.IntN(3) {
	case 0:
		a.Return, a.Since, h.overpay = h.overpay, h.since, Cost{}
	case 1:
		a.Charge = Cost{h.r.Int64N(4), h.r.Int64N(4)}
		h.overcharged(a.Charge)
	case 2:
		a.Empty = time.Duration(h.r.Int64N(int64(300 * ms)))
	}
	h.b.Adjust(h.now, a)
}

func TestHistories(t *testing.T) {
	histories := 4000
	if testing.Short() {
		histories = 500 // the rest repeats the same with other dice
	}
	spent := 0
	for seed := range histories {
		h := newHistory(uint64(seed))
		if worst := h.run(150); worst > 0 {
			t.Fatalf("history %d, %v: %s above the bound", seed, h.limits[0], fraction(worst, h.checks[0].Per))
		}
		for _, c := range h.checks {
			if c.at > 0 {
				spent++
			}
		}
	}
	if spent < histories {
		t.Errorf("%d histories, and only %d rates were spent: the histories test nothing", histories, spent)
	}
}

func fraction(n int64, per time.Duration) string {
	return fmt.Sprintf("%d and %d/%d units", n/int64(per), n%int64(per), int64(per))
}
