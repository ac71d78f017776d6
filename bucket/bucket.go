package bucket

import (
	"cmp"
	"slices"
	"time"
)

// Bucket is the quota of one key: how much is there, and who holds leases on
// it. It upholds, over every window W, on all holders together,
//
//	spent ≤ Burst + N/Per · W      for each of its rates,
//
// by two rules. What is leased is still in the bucket: level plus leased units
// never exceed the burst, as if the holders had not taken them yet. And what is
// promised ahead of its refill drips: the holder may not spend it before the
// refill would have brought it.
//
// A Bucket is not safe for concurrent use, and the instants it is given must
// not run backwards.
type Bucket struct {
	limits  *Limits // shared, never changed
	defined int64
	former  *Limits // rates of earlier definitions that are not full yet; nil: none

	// tats holds the theoretical arrival time of each rate, those on requests
	// first: the instant at which its bucket would be full if all that is
	// granted were spent and nothing more taken. Those of former come last.
	tats []int64

	out    Cost        // leased and neither settled nor expired
	leases []HeldLease // in the order in which they expire
	lows   lows        // nil in a copy that only looks ahead
}

// New returns a full bucket with the given limits, which it keeps and shares.
func New(limits *Limits, defined int64) *Bucket {
	n := limits.len()
	if n > 2 {
		return &Bucket{limits: limits, defined: defined, tats: make([]int64, n), lows: make(lows, 0, n)}
	}
	// Most have a rate or two. Those are allocated once, not three times: there may
	// be a million of them.
	b := new(struct {
		Bucket
		tats [2]int64
		lows [2]Low
	})
	b.Bucket = Bucket{limits: limits, defined: defined, tats: b.tats[:n:n], lows: b.lows[:0:n]}
	return &b.Bucket
}

// NewEmpty returns a bucket that was empty at the instant at.
func NewEmpty(limits *Limits, defined, at int64) *Bucket {
	b := New(limits, defined)
	b.rates(func(i int, _ Unit, r Rate) { b.tats[i] = later(at, r.span(r.Burst)) })
	return b
}

// Limits returns the limits in force.
func (b *Bucket) Limits() Limits { return *b.limits }

// Defined is when the limits in force were defined.
func (b *Bucket) Defined() int64 { return b.defined }

// Idle reports whether the bucket is full and nothing of it leased: it then
// stands as if it had never been used, and may be forgotten.
//
// One whose limits were changed stays until it would have been full under those
// before, too. Else who still has the old definition would find a full bucket
// each time that the new one is.
func (b *Bucket) Idle(now int64) bool {
	if n := len(b.leases); n > 0 {
		if b.leases[n-1].Expiry > now {
			return false
		}
		c := b.at(now) // what expired may have held the level down
		b = &c
	}
	return !slices.ContainsFunc(b.tats, func(tat int64) bool { return tat > now })
}

// rates calls f for each rate in force with its unit and its index in tats.
func (b *Bucket) rates(f func(i int, u Unit, r Rate)) { b.limits.each(0, f) }

// all calls f for former rates, too.
func (b *Bucket) all(f func(i int, u Unit, r Rate)) {
	n := b.limits.each(0, f)
	if b.former != nil {
		b.former.each(n, f)
	}
}

// each calls f for each rate with its unit, counting from i, and returns the
// count.
func (l *Limits) each(i int, f func(i int, u Unit, r Rate)) int {
	for u := range Tokens + 1 {
		for _, r := range l.Of(u) {
			f(i, u, r)
			i++
		}
	}
	return i
}

// Level is what the bucket holds at now in each unit, the least over its rates.
// It is below zero when quota is promised ahead or owed.
func (b *Bucket) Level(now int64) Cost {
	c := b.at(now)
	return c.level(now)
}

func (b *Bucket) level(now int64) Cost {
	c := unlimited
	b.rates(func(i int, u Unit, r Rate) {
		c = c.with(u, min(c.Of(u), r.Burst-b.missing(i, r, now)))
	})
	return c
}

// missing is how many units rate i lacks of a full bucket, rounded up.
func (b *Bucket) missing(i int, r Rate, now int64) int64 {
	if b.tats[i] <= now {
		return 0
	}
	return mulDivCeil(b.tats[i]-now, r.N, int64(r.Per))
}

// Info describes the bucket of key at now.
func (b *Bucket) Info(key string, now int64) Info {
	c := b.at(now)
	return Info{
		Key: key, Limits: *c.limits, Level: c.level(now), Leased: c.out, Leases: len(c.leases),
		Full: time.Duration(slices.Max(c.tats[:c.limits.len()]) - now),
	}
}

// Leased is what is out on leases at now.
func (b *Bucket) Leased(now int64) Cost {
	c := b.at(now)
	return c.out
}

// Room is the largest grant that the bucket could promise at now.
func (b *Bucket) Room(now int64) Cost {
	c := b.at(now)
	return c.room(now, true)
}

// Holders calls f for the holder of each lease, once a lease.
func (b *Bucket) Holders(f func(holder uint64)) {
	for i := range b.leases {
		f(b.leases[i].ID.Holder)
	}
}

// Wait is how long after now a grant of need could be promised if nobody
// settled or asked meanwhile. Zero: now.
func (b *Bucket) Wait(now int64, need Cost) time.Duration {
	c := b.at(now)
	return c.wait(now, need, true)
}

// Refill is how long after now the refill alone would have brought need, had
// it not to wait for leases that are out: spendable, or with promise near
// enough to be promised.
func (b *Bucket) Refill(now int64, need Cost, promise bool) time.Duration {
	c := b.at(now)
	return c.refill(now, need, func(r Rate) int64 {
		if promise {
			return r.ahead(true)
		}
		return 0
	})
}

// Holds reports whether lease id is out.
func (b *Bucket) Holds(id LeaseID) bool {
	return slices.ContainsFunc(b.leases, func(l HeldLease) bool { return l.ID == id })
}

// Lease decides an ask at now. A refused ask leaves the bucket as it was. The
// error wraps [ErrCostExceedsBurst].
func (b *Bucket) Lease(now int64, a *Ask) (Grant, error) {
	b.advance(now)
	if i := slices.IndexFunc(b.leases, func(l HeldLease) bool { return l.ID == a.ID }); i >= 0 {
		return b.grant(now, &b.leases[i]), nil
	}
	if err := b.limits.Fits(a.Need); err != nil {
		return Grant{}, err
	}
	// Without a need the holder asks ahead of its demand: it gets what is there
	// and no promise, which those who wait want more.
	promise := !a.Need.IsZero()
	give := Share(a.Need, a.Want.Max(a.Need), b.room(now, promise))
	if !give.Covers(a.Need) || give.IsZero() {
		first := a.Need
		if !promise {
			first = a.Want.Min(Cost{1, 1})
		}
		return Grant{RetryAfter: max(b.wait(now, first, promise), 1), Level: b.level(now), At: now}, nil
	}
	l := HeldLease{ID: a.ID, Granted: give}
	last := now
	b.out = b.out.Add(give)
	b.rates(func(i int, u Unit, r Rate) {
		full, n := max(b.tats[i], now), give.Of(u)
		b.tats[i] = later(full, r.span(n))
		if ready := r.ready(full, n); ready > now && n > 0 {
			l.Drips = append(l.Drips, Drip{Unit: u, Ready: time.Duration(ready), N: r.N, Per: r.Per})
			last = max(last, ready)
		}
	})
	l.Expiry = later(last, int64(TTL))
	at, _ := slices.BinarySearchFunc(b.leases, l.Expiry+1, func(m HeldLease, t int64) int { return cmp.Compare(m.Expiry, t) })
	b.leases = slices.Insert(b.leases, at, l)
	return b.grant(now, &b.leases[at]), nil
}

// Share is the part of want that fits into room, negative room counting as
// none. When one unit falls short, the other is cut in proportion, though not
// below need: requests without tokens serve nobody.
func Share(need, want, room Cost) Cost {
	fit := want.Min(room).Max(Cost{})
	give := fit
	if fit.Tokens < want.Tokens {
		give.Requests = min(fit.Requests, max(need.Requests, mulDivCeil(want.Requests, fit.Tokens, want.Tokens)))
	}
	if fit.Requests < want.Requests {
		give.Tokens = min(fit.Tokens, max(need.Tokens, mulDivCeil(want.Tokens, fit.Requests, want.Requests)))
	}
	return give
}

// grant describes lease l as of now.
func (b *Bucket) grant(now int64, l *HeldLease) Grant {
	g := Grant{OK: true, Granted: l.Granted, TTL: time.Duration(l.Expiry - now), Level: b.level(now), At: now}
	for _, d := range l.Drips {
		if d.Ready -= time.Duration(now); d.Ready > 0 {
			g.Drips = append(g.Drips, d)
		}
	}
	return g
}

// room is the largest grant at now: the level, with promise the level that the
// refill will have reached a horizon later, and never so much that more than the
// burst is leased. It is the largest n for which Rate.ready lies within reach.
func (b *Bucket) room(now int64, promise bool) Cost {
	room := unlimited
	b.rates(func(i int, u Unit, r Rate) {
		n := min(r.Burst-b.missing(i, r, now+r.ahead(promise)), r.Burst-b.out.Of(u))
		room = room.with(u, max(min(room.Of(u), n), 0))
	})
	return room
}

// ahead is how far ahead of its refill, in nanoseconds, an ask may reach. For an
// ask without a promise that is only as much as rounding costs. Where a unit takes
// no whole number of nanoseconds, the time charged for each lease is rounded up. So
// the last unit of a full bucket may lie 1ns ahead for as long as the others are
// leased, and an ask that could not reach it would wait until they expire.
func (r Rate) ahead(promise bool) int64 {
	switch {
	case promise:
		return int64(r.Horizon())
	case int64(r.Per)%r.N != 0:
		return 2
	}
	return 0
}

// refill is how long after now the refill alone takes until every rate has need
// within reach of an ask, which is ahead of its refill by ahead.
func (b *Bucket) refill(now int64, need Cost, ahead func(Rate) int64) time.Duration {
	var wait int64
	b.rates(func(i int, u Unit, r Rate) {
		if n := need.Of(u); n > 0 {
			wait = max(wait, r.ready(max(b.tats[i], now), n)-now-ahead(r))
		}
	})
	return time.Duration(wait)
}

func (b *Bucket) wait(now int64, need Cost, promise bool) time.Duration {
	c := b.at(now)
	for t := now; ; {
		at := t + int64(c.refill(t, need, func(r Rate) int64 { return r.ahead(promise) }))
		over := false
		c.rates(func(_ int, u Unit, r Rate) {
			over = over || need.Of(u) > 0 && c.out.Of(u)+need.Of(u) > r.Burst
		})
		if len(c.leases) == 0 || !over && at < c.leases[0].Expiry {
			return time.Duration(at - now)
		}
		// Too much is out, or what is out holds the refill back: until a lease
		// has expired, which may lower the level.
		t = c.leases[0].Expiry
		c.advance(t)
	}
}

// Settle closes lease id: of what it granted, spent is gone and the rest comes
// back; if more was spent, the bucket owes it. An id that is unknown, expired
// or settled already changes nothing. It reports whether it closed a lease.
func (b *Bucket) Settle(now int64, id LeaseID, spent Cost) bool {
	b.advance(now)
	at := slices.IndexFunc(b.leases, func(l HeldLease) bool { return l.ID == id })
	if at < 0 {
		return false
	}
	granted := b.leases[at].Granted
	b.leases = slices.Delete(b.leases, at, at+1)
	b.out = b.out.Sub(granted)
	b.move(now, granted.Sub(spent))
	return true
}

// Adjust applies a at now: what it returns, as far as that would not have run
// over meanwhile, what it charges, then how long it empties the bucket. What is
// out on leases stays out.
func (b *Bucket) Adjust(now int64, a *Adjustment) {
	b.advance(now)
	b.rates(func(i int, u Unit, r Rate) {
		worth := min(r.back(a.Return.Of(u)), b.lows.since(i, a.Since))
		if a.Since > now { // by the time of a store that is no more, which counted what this one does not
			worth = 0
		}
		b.tats[i] -= worth
		b.lows.shift(i, worth)
	})
	b.move(now, Cost{}.Sub(a.Charge))
	if a.Empty > 0 {
		b.rates(func(i int, u Unit, r Rate) {
			b.tats[i] = max(b.tats[i], later(now+int64(a.Empty), r.span(r.Burst)))
		})
	}
}

// move brings units back to the bucket, or takes them where c is negative.
func (b *Bucket) move(now int64, c Cost) {
	b.rates(func(i int, u Unit, r Rate) {
		if n := c.Of(u); n >= 0 {
			b.tats[i] -= min(r.back(n), max(b.tats[i], 0))
		} else {
			b.tats[i] = later(max(b.tats[i], now), r.span(-n))
		}
	})
	b.clamp(now)
}

// Redefine gives the bucket other limits at now if they were defined later than
// those in force. What the bucket lacked of being full it still lacks, so that
// nobody gains by a new definition: a rate takes over the debt of the old rate
// over the same window, else it begins with the largest debt of its unit, at
// the most empty. A rate that comes back has at least the debt with which it
// went. limits is kept and shared.
func (b *Bucket) Redefine(now int64, limits *Limits, defined int64) {
	switch c := cmp.Compare(defined, b.defined); {
	case c < 0:
		return
	case limits == b.limits || limits.Equal(*b.limits):
		b.defined = defined
		return
	case c == 0 && limits.String() < b.limits.String():
		return // two at the same instant: any order will do, if it is the same everywhere
	}
	b.advance(now)
	old := *b
	b.limits, b.defined = limits, defined
	b.tats = make([]int64, limits.len())
	b.rates(func(i int, u Unit, r Rate) {
		b.tats[i] = later(now, r.span(old.debt(now, u, r)))
		old.all(func(j int, v Unit, q Rate) {
			if v == u && q.refillsAs(r) {
				b.tats[i] = max(b.tats[i], old.tats[j])
			}
		})
	})
	b.remember(now, &old)
	b.clamp(now)
	b.lows = b.lows[:0]
	b.rates(func(i int, _ Unit, _ Rate) { b.lows = b.lows.note(i, now, 0) })
}

// remember makes former what is not full of old's rates and not in force now:
// who still has the old definition may bring them back. Of one unit, only so
// many as limits can have, those that take longest to be full.
func (b *Bucket) remember(now int64, old *Bucket) {
	type rate struct {
		Rate
		tat int64
	}
	var left [Tokens + 1][]rate
	old.all(func(i int, u Unit, r Rate) {
		if old.tats[i] > now && !slices.ContainsFunc(b.limits.Of(u), r.refillsAs) {
			left[u] = append(left[u], rate{r, old.tats[i]})
		}
	})
	b.former = nil
	if len(left[Requests])+len(left[Tokens]) == 0 {
		return
	}
	b.former = new(Limits)
	for u, rs := range left {
		slices.SortStableFunc(rs, func(x, y rate) int { return cmp.Compare(y.tat, x.tat) })
		for _, r := range rs[:min(len(rs), MaxRates)] {
			if Unit(u) == Requests {
				b.former.Requests = append(b.former.Requests, r.Rate)
			} else {
				b.former.Tokens = append(b.former.Tokens, r.Rate)
			}
			b.tats = append(b.tats, r.tat)
		}
	}
}

// debt is what rate r on unit u takes over from the bucket.
func (b *Bucket) debt(now int64, u Unit, r Rate) int64 {
	var most, same int64
	found := false
	b.rates(func(i int, v Unit, q Rate) {
		if v != u {
			return
		}
		n := b.missing(i, q, now)
		most = max(most, n)
		if q.Per == r.Per {
			same, found = n, true
		}
	})
	if found {
		return same
	}
	return min(most, r.Burst)
}

// at returns the bucket as it will stand at now if nothing is done to it
// before. It shares with b what neither changes.
func (b *Bucket) at(now int64) Bucket {
	c := *b
	c.tats, c.lows = slices.Clone(b.tats), nil
	c.advance(now)
	return c
}

// advance lets the leases expire that are due by now, in the order of time.
// Their units leave without coming back, for they may have been spent up to
// their last instant; until that instant they were still in the bucket.
func (b *Bucket) advance(now int64) {
	for len(b.leases) > 0 && b.leases[0].Expiry <= now {
		b.clamp(b.leases[0].Expiry)
		b.note(b.leases[0].Expiry)
		b.out = b.out.Sub(b.leases[0].Granted)
		b.leases = b.leases[1:]
	}
	if len(b.leases) == 0 {
		b.leases = nil
	}
	b.clamp(now)
	b.note(now)
}

// note remembers how little the bucket lacks at t, before that grows.
func (b *Bucket) note(t int64) {
	if b.lows == nil {
		return
	}
	b.rates(func(i int, u Unit, r Rate) {
		b.lows = b.lows.note(i, t, max(b.tats[i]-t-r.span(b.out.Of(u)), 0))
	})
}

// clamp keeps what is leased in the bucket: at instant t its level plus the
// units out do not exceed the burst, so no rate is full before t plus the time
// that those units take. Without this, leases that lie idle while the bucket
// refills would add up to more than a burst.
func (b *Bucket) clamp(t int64) {
	b.all(func(i int, u Unit, r Rate) {
		b.tats[i] = max(b.tats[i], later(t, r.span(b.out.Of(u))))
	})
}
