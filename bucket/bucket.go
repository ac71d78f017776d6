package bucket

import (
	"cmp"
	"slices"
	"time"
)

// Bucket is the quota of one key and its open leases. All holders together spend,
// over every stretch of time W and for each token bucket of its limits,
//
//	spent ≤ Burst + N/Per · W
//
// For each window they spend at most N in every Per, and for each calendar at most N
// between two resets of the provider. The file counters.go holds their arithmetic.
//
// Two rules uphold the bound of a token bucket. Leased units stay in the bucket: the level plus the
// leased units never exceed the burst, as if the holders had not taken them yet. And
// units that are promised ahead of the refill drip: the holder may not spend them
// before the refill has restored them.
//
// A Bucket is not safe for concurrent use, and the instants it is given must
// not run backwards.
type Bucket struct {
	limits  *Limits // shared, never changed
	defined int64   // when limits were defined, in Unix nanoseconds
	former  *Limits // rates of earlier definitions that are not full yet; nil: none

	// tats holds the theoretical arrival time of each rate: the instant at which its
	// bucket is full if all leases are spent and no more are granted. The rates on
	// requests come first, then those on tokens, then those of former. For a window it
	// is the one of its pace, and zero if it has none; for a calendar it is zero.
	tats []int64

	counters *counters // of windows and calendars; nil: all rates are token buckets

	leased     Cost        // units on open leases
	leases     []HeldLease // open, in the order in which they expire
	shortfalls shortfalls  // nil in a copy made by asOf
}

// New returns a full bucket with the given limits, which it keeps and shares. defined
// is when they were defined, in Unix nanoseconds.
func New(limits *Limits, defined int64) *Bucket {
	n := limits.Len()
	if n > 2 {
		return &Bucket{limits: limits, defined: defined, tats: make([]int64, n), shortfalls: make(shortfalls, 0, n), counters: newCounters(limits, nil)}
	}
	// Most buckets have a rate or two. They take one allocation, not three, since
	// there may be a million of them.
	b := new(struct {
		Bucket
		tats       [2]int64
		shortfalls [2]Shortfall
	})
	b.Bucket = Bucket{limits: limits, defined: defined, tats: b.tats[:n:n], shortfalls: b.shortfalls[:0:n], counters: newCounters(limits, nil)}
	return &b.Bucket
}

// NewEmpty returns a bucket that was empty at the instant at and refills since. Its
// windows have N units booked at that instant, and its calendars in both days of their
// first stamp.
func NewEmpty(limits *Limits, defined, at int64) *Bucket {
	b := New(limits, defined)
	b.rates(func(i int, _ Unit, r *Rate) { b.tats[i] = later(at, r.span(r.Burst)) })
	b.others(func(i int, _ Unit, r *Rate) { b.bookIn(i, r, at, at, r.N) })
	return b
}

// Limits returns the limits in force.
func (b *Bucket) Limits() Limits { return *b.limits }

// Defined returns when the limits in force were defined, in Unix nanoseconds.
func (b *Bucket) Defined() int64 { return b.defined }

// Idle reports whether the bucket is full and has no open leases. An idle bucket
// behaves like a new one, so a store may drop it. A window is not idle before all its
// units have returned, nor a calendar with units before the reset.
//
// A bucket whose limits were changed is idle only if it is full under the former
// limits, too. Otherwise a worker with the old definition would get a full bucket
// whenever the new one is full.
func (b *Bucket) Idle(now int64) bool {
	n := len(b.leases)
	if n > 0 && b.leases[n-1].Expiry > now {
		return false
	}
	if n > 0 || b.counters != nil {
		c := b.asOf(now) // expired leases may have held the level down
		b = &c
	}
	return !slices.ContainsFunc(b.tats, func(tat int64) bool { return tat > now }) && b.othersIdle(now)
}

// rates calls f for each token bucket in force with its unit and its index in tats.
func (b *Bucket) rates(f func(i int, u Unit, r *Rate)) { b.limits.tokenBuckets(0, f) }

// all is rates for the former rates, too.
func (b *Bucket) all(f func(i int, u Unit, r *Rate)) {
	n := b.limits.tokenBuckets(0, f)
	if b.former != nil {
		b.former.tokenBuckets(n, f)
	}
}

// Level returns the units in the bucket at now: of each unit, the least over its
// rates. It is below zero when quota is promised ahead or owed.
func (b *Bucket) Level(now int64) Cost {
	c := b.asOf(now)
	return c.level(now)
}

func (b *Bucket) level(now int64) Cost {
	c := allUnlimited
	b.rates(func(i int, u Unit, r *Rate) {
		c = c.With(u, min(c.Of(u), r.Burst-b.missing(i, r, now)))
	})
	b.others(func(i int, u Unit, r *Rate) { c = c.With(u, min(c.Of(u), b.otherLevel(i, u, r, now))) })
	return c
}

// missing returns how many units rate i is below full at now, rounded up.
func (b *Bucket) missing(i int, r *Rate, now int64) int64 {
	if b.tats[i] <= now {
		return 0
	}
	return mulDivCeil(b.tats[i]-now, r.N, int64(r.Per))
}

// Info describes the bucket of key at now.
func (b *Bucket) Info(key string, now int64) Info {
	c := b.asOf(now)
	full := now
	c.rates(func(i int, _ Unit, _ *Rate) { full = max(full, c.tats[i]) })
	c.others(func(i int, u Unit, r *Rate) { full = max(full, c.otherFull(i, u, r, now)) })
	return Info{
		Key: key, Limits: *c.limits, Level: c.level(now), Leased: c.leased, Leases: len(c.leases),
		Full: time.Duration(full - now),
	}
}

// Leased returns the units on open leases at now.
func (b *Bucket) Leased(now int64) Cost {
	c := b.asOf(now)
	return c.leased
}

// Room returns the largest grant that the bucket can promise at now, in units.
func (b *Bucket) Room(now int64) Cost { return b.RoomFor(now, Cost{}) }

// RoomFor returns the largest grant that the bucket can promise at now to an ask that
// needs need. Beside a pace a need above its burst has more room than a smaller one.
func (b *Bucket) RoomFor(now int64, need Cost) Cost {
	c := b.asOf(now)
	return c.room(now, need, true)
}

// Holders calls f for the holder of each open lease, once a lease.
func (b *Bucket) Holders(f func(holder uint64)) {
	for i := range b.leases {
		f(b.leases[i].ID.Holder)
	}
}

// Wait returns how long after now need can be promised if no operation comes before.
// Leases are counted until they expire.
func (b *Bucket) Wait(now int64, need Cost) time.Duration {
	c := b.asOf(now)
	return c.wait(now, need, true)
}

// Refill returns how long after now need is available by the refill, or with promise
// when it can be promised. It ignores that open leases may keep the bucket from
// covering need before they expire; [Bucket.Wait] does not.
func (b *Bucket) Refill(now int64, need Cost, promise bool) time.Duration {
	c := b.asOf(now)
	return c.refill(now, need, func(r *Rate) int64 {
		if promise {
			return r.ahead(true)
		}
		return 0
	})
}

// Holds reports whether lease id is open.
func (b *Bucket) Holds(id LeaseID) bool {
	return slices.ContainsFunc(b.leases, func(l HeldLease) bool { return l.ID == id })
}

// Lease decides a at now. A refusal changes nothing. The error wraps
// [ErrCostExceedsBurst]. Lease does not apply a.Done, which may concern other keys.
func (b *Bucket) Lease(now int64, a *Ask) (Grant, error) {
	b.advance(now)
	if i := slices.IndexFunc(b.leases, func(l HeldLease) bool { return l.ID == a.ID }); i >= 0 {
		return b.grant(now, &b.leases[i]), nil
	}
	if err := b.limits.Fits(a.Need); err != nil {
		return Grant{}, err
	}
	// An ask without a need is ahead of its holder's demand. It is granted available
	// units only: promises are left to the asks that need them.
	promise := !a.Need.IsZero()
	give := Share(a.Need, a.Want.Max(a.Need), b.room(now, a.Need, promise))
	if !give.Covers(a.Need) || give.IsZero() {
		first := a.Need
		if !promise {
			first = a.Want.Min(one)
		}
		return Grant{RetryAfter: max(b.wait(now, first, promise), 1), Level: b.level(now), At: now}, nil
	}
	l := HeldLease{ID: a.ID, Granted: give}
	last := now
	b.leased = b.leased.Add(give)
	b.rates(func(i int, u Unit, r *Rate) {
		full, n := max(b.tats[i], now), give.Of(u)
		b.tats[i] = later(full, r.span(n))
		if ready := r.ready(full, n); ready > now && n > 0 {
			l.Drips = append(l.Drips, Drip{Unit: u, Ready: time.Duration(ready), N: r.N, Per: r.Per})
			last = max(last, ready)
		}
	})
	if b.counters != nil {
		l.At = now
		b.chargePaces(now, give)
	}
	l.Expiry = later(last, int64(TTL))
	at, _ := slices.BinarySearchFunc(b.leases, l.Expiry+1, func(m HeldLease, t int64) int { return cmp.Compare(m.Expiry, t) })
	b.leases = slices.Insert(b.leases, at, l)
	return b.grant(now, &b.leases[at]), nil
}

// Share returns the part of want that fits into room, where negative room counts as
// zero. If a unit falls short, the others are cut in proportion, but not below need:
// a request without its tokens is useless.
func Share(need, want, room Cost) Cost {
	fit := want.Min(room).Max(Cost{})
	give := fit
	for scarce := range NumUnits {
		has, wanted := fit.Of(scarce), want.Of(scarce)
		if has >= wanted {
			continue
		}
		for u := range NumUnits {
			if u != scarce {
				part := max(need.Of(u), mulDivCeil(want.Of(u), has, wanted))
				give = give.With(u, min(give.Of(u), part))
			}
		}
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

// room returns the largest grant at now to an ask that needs need: the level, or with
// promise the level a horizon later, and at most what keeps the leased units within the
// burst. It is the largest n for which Rate.ready is no later than now + Rate.ahead.
func (b *Bucket) room(now int64, need Cost, promise bool) Cost {
	room := allUnlimited
	b.rates(func(i int, u Unit, r *Rate) {
		n := min(r.Burst-b.missing(i, r, now+r.ahead(promise)), r.Burst-b.leased.Of(u))
		room = room.With(u, max(min(room.Of(u), n), 0))
	})
	b.others(func(i int, u Unit, r *Rate) {
		room = room.With(u, min(room.Of(u), b.otherRoom(i, u, r, now, need.Of(u))))
	})
	return room
}

// ahead returns how far ahead of the refill, in nanoseconds, an ask may be granted.
// Without a promise that is only the effect of rounding: if a unit does not take a
// whole number of nanoseconds, the time charged for each lease is rounded up. While
// all units of a full bucket but one are leased, the last one is then 1 ns ahead, and
// an ask for it would have to wait until they expire.
func (r *Rate) ahead(promise bool) int64 {
	switch {
	case promise:
		return int64(r.Horizon())
	case int64(r.Per)%r.N != 0:
		return 2
	}
	return 0
}

// refill returns how long after now the refill alone brings need within the distance
// ahead of every token bucket, and into the room of all others.
func (b *Bucket) refill(now int64, need Cost, ahead func(*Rate) int64) time.Duration {
	var wait int64
	b.rates(func(i int, u Unit, r *Rate) {
		if n := need.Of(u); n > 0 {
			wait = max(wait, r.ready(max(b.tats[i], now), n)-now-ahead(r))
		}
	})
	b.others(func(i int, u Unit, r *Rate) {
		if n := need.Of(u); n > 0 {
			wait = max(wait, b.otherReady(i, u, r, now, n)-now)
		}
	})
	return time.Duration(wait)
}

// wait is [Bucket.Wait] with promise, for a bucket as of now.
func (b *Bucket) wait(now int64, need Cost, promise bool) time.Duration {
	c := b.asOf(now)
	for t := now; ; {
		at := t + int64(c.refill(t, need, func(r *Rate) int64 { return r.ahead(promise) }))
		over := false
		c.limits.each(0, func(_ int, u Unit, r *Rate) {
			over = over || need.Of(u) > 0 && c.leased.Of(u)+need.Of(u) > r.Most()
		})
		if len(c.leases) == 0 || !over && at < c.leases[0].Expiry {
			return time.Duration(at - now)
		}
		// The leased units leave no room for need, or hold the refill back until the
		// next expiry, which may lower the level.
		t = c.leases[0].Expiry
		c.predict(t)
		c.advance(t)
	}
}

// Settle closes lease id and returns the granted units less spent to the bucket. If
// spent is more than was granted, the bucket owes the difference. The parts may say when
// units were spent, see [Settlement]. Settle reports whether it closed a lease: an id
// that is unknown, expired or already settled changes nothing.
func (b *Bucket) Settle(now int64, id LeaseID, spent Cost, parts ...Spending) bool {
	b.advance(now)
	at := slices.IndexFunc(b.leases, func(l HeldLease) bool { return l.ID == id })
	if at < 0 {
		return false
	}
	l := b.leases[at]
	b.leases = slices.Delete(b.leases, at, at+1)
	b.leased = b.leased.Sub(l.Granted)
	b.credit(now, l.Granted.Sub(spent))
	b.settled(now, &l, spent, parts)
	return true
}

// Adjust applies a at now: first it returns units, up to the least shortfall since
// a.Since, then it charges units, then it empties the bucket. Leased units stay
// leased. A window and a calendar take back booked units of a closed lease, see
// [Adjustment], and grant none until a.Empty is over.
func (b *Bucket) Adjust(now int64, a *Adjustment) {
	b.advance(now)
	b.rates(func(i int, u Unit, r *Rate) {
		worth := min(r.spanDown(a.Return.Of(u)), b.shortfalls.since(i, a.Since))
		if a.Since > now { // the time of a lost store, whose charges this one has not counted
			worth = 0
		}
		b.tats[i] -= worth
		b.shortfalls.reduce(i, worth)
	})
	b.refund(now, a)
	b.credit(now, Cost{}.Sub(a.Charge))
	b.chargePaces(now, a.Charge)
	b.book(now, now, a.Charge)
	if a.Empty > 0 {
		b.shutUntil(later(now, int64(min(a.Empty, maxEmpty))))
		b.rates(func(i int, u Unit, r *Rate) {
			b.tats[i] = max(b.tats[i], later(now+int64(a.Empty), r.span(r.Burst)))
		})
	}
}

// credit returns units to the bucket, or charges them where c is negative.
func (b *Bucket) credit(now int64, c Cost) {
	b.rates(func(i int, u Unit, r *Rate) {
		if n := c.Of(u); n >= 0 {
			b.tats[i] -= min(r.spanDown(n), max(b.tats[i], 0))
		} else {
			b.tats[i] = later(max(b.tats[i], now), r.span(-n))
		}
	})
	b.clamp(now)
}

// Redefine puts other limits in force at now if they were defined later than the
// present ones. The bucket stays as many units below full as it was, so that no
// holder gains by a new definition: a rate takes over the shortfall of the old rate
// over the same window, or else the largest shortfall of its unit, up to an empty
// bucket. A rate that was in force before keeps at least the shortfall that it had.
// Redefine keeps and shares limits.
func (b *Bucket) Redefine(now int64, limits *Limits, defined int64) {
	switch c := cmp.Compare(defined, b.defined); {
	case c < 0:
		return
	case limits == b.limits || limits.Equal(*b.limits):
		b.defined = defined
		return
	case c == 0 && limits.String() < b.limits.String():
		return // of two definitions at one instant, the same one must hold on every replica
	}
	b.advance(now)
	old := *b
	b.limits, b.defined = limits, defined
	b.tats, b.counters = make([]int64, limits.Len()), newCounters(limits, nil)
	b.rates(func(i int, u Unit, r *Rate) {
		b.tats[i] = later(now, r.span(old.debt(now, u, r)))
		old.all(func(j int, v Unit, q *Rate) {
			if v == u && q.refillsAs(r) {
				b.tats[i] = max(b.tats[i], old.tats[j])
			}
		})
	})
	b.inherit(now, &old)
	b.keepFormer(now, &old)
	b.clamp(now)
	b.shortfalls = b.shortfalls[:0]
	b.rates(func(i int, _ Unit, _ *Rate) { b.shortfalls = b.shortfalls.note(i, now, 0) })
}

// keepFormer keeps old rates that are neither in force nor full: a worker with the
// old definition may bring them back. Of each unit it keeps at most [MaxRates], those
// that take longest to be full.
func (b *Bucket) keepFormer(now int64, old *Bucket) {
	type rate struct {
		Rate
		tat     int64
		counter counter
		until   int64 // the instant at which it is full
	}
	var left [NumUnits][]rate
	keep := func(i int, u Unit, r *Rate, until int64) {
		if until > now && !slices.ContainsFunc(b.limits.Of(u), func(q Rate) bool { return q.refillsAs(r) }) {
			left[u] = append(left[u], rate{*r, old.tats[i], old.counterOf(i), until})
		}
	}
	old.all(func(i int, u Unit, r *Rate) { keep(i, u, r, old.tats[i]) })
	old.allOthers(func(i int, u Unit, r *Rate) {
		if !old.otherIdle(i, r, now) || old.leased.Of(u) > 0 {
			keep(i, u, r, max(old.otherFull(i, u, r, now), now+1))
		}
	})
	b.former = nil
	for u, rs := range left {
		if len(rs) == 0 {
			continue
		}
		if b.former == nil {
			b.former = new(Limits)
		}
		slices.SortStableFunc(rs, func(x, y rate) int { return cmp.Compare(y.until, x.until) })
		for _, r := range rs[:min(len(rs), MaxRates)] {
			former := b.former.at(Unit(u))
			*former = append(*former, r.Rate)
			b.keepCounter(r.counter, old)
			b.tats = append(b.tats, r.tat)
		}
	}
}

// debt returns how many units below full rate r on unit u begins when it replaces the
// rates of b. A window or a calendar owes the units that it counts.
func (b *Bucket) debt(now int64, u Unit, r *Rate) int64 {
	var most, same int64
	found := false
	b.rates(func(i int, v Unit, q *Rate) {
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
	b.others(func(i int, v Unit, q *Rate) {
		if v == u {
			most = max(most, q.N-b.otherLevel(i, u, q, now))
		}
	})
	return min(most, r.Burst)
}

// asOf returns a copy of the bucket at the later instant now, provided that no
// operation comes before. The copy is for reading; it shares leases with b.
func (b *Bucket) asOf(now int64) Bucket {
	c := b.copy()
	c.predict(now)
	c.advance(now)
	return c
}

// copy returns a copy for reading, without shortfalls. It shares leases with b.
func (b *Bucket) copy() Bucket {
	c := *b
	c.tats, c.shortfalls, c.counters = slices.Clone(b.tats), nil, b.counters.clone()
	return c
}

// advance expires the leases that are due by now, in the order of time. Their units
// are gone, since they may have been spent up to the last instant. Until that instant
// they count as leased.
func (b *Bucket) advance(now int64) {
	for len(b.leases) > 0 && b.leases[0].Expiry <= now {
		b.clamp(b.leases[0].Expiry)
		b.noteShortfall(b.leases[0].Expiry)
		b.leased = b.leased.Sub(b.leases[0].Granted)
		b.book(now, b.leases[0].Expiry, b.leases[0].Granted)
		b.leases = b.leases[1:]
	}
	if len(b.leases) == 0 {
		b.leases = nil
	}
	b.clamp(now)
	b.noteShortfall(now)
}

// noteShortfall records how far each rate is below full at t, before that grows.
func (b *Bucket) noteShortfall(t int64) {
	if b.shortfalls == nil {
		return
	}
	b.rates(func(i int, u Unit, r *Rate) {
		b.shortfalls = b.shortfalls.note(i, t, max(b.tats[i]-t-r.span(b.leased.Of(u)), 0))
	})
}

// clamp keeps leased units in the bucket: at t, the level plus the leased units do
// not exceed the burst, so no rate is full before t plus the time of the leased
// units. Without this, leases that are not spent while the bucket refills would add
// up to more than a burst.
func (b *Bucket) clamp(t int64) {
	b.all(func(i int, u Unit, r *Rate) {
		b.tats[i] = max(b.tats[i], later(t, r.span(b.leased.Of(u))))
	})
}
