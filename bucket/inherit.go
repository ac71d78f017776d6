package bucket

// A new window or calendar begins with the units that earlier rates count, so that no
// holder gains units by a change of the limits.

// inherit fills the counters of b, whose limits have just replaced those of old.
func (b *Bucket) inherit(now int64, old *Bucket) {
	if c := old.counters; c != nil {
		b.rates(func(i int, u Unit, r *Rate) {
			if c.shut[u] > now {
				b.tats[i] = max(b.tats[i], later(c.shut[u], r.span(r.Burst)))
			}
		})
	}
	if b.counters == nil {
		return
	}
	b.counters.since = now + 1
	if old.counters != nil {
		b.counters.shut = old.counters.shut
	} else {
		b.dateLeases(now)
	}
	b.others(func(i int, u Unit, r *Rate) {
		switch r.Kind {
		case Window:
			*b.counters.of[i].window = old.windowFor(now, u, r)
			b.tats[i] = old.paceFor(now, u, r)
		case Calendar:
			*b.counters.of[i].calendar = old.calendarFor(now, u, r)
		}
	})
}

// dateLeases sets the instant of the grant of leases that were granted before b had
// windows to now. A later instant is safe: units are never booked before it.
func (b *Bucket) dateLeases(now int64) {
	for i := range b.leases {
		b.leases[i].At = now
	}
}

// windowFor returns the window with which r begins on unit u. It takes over the slots of
// the known window with the longest Per, each as of the end of its slot. If that Per is
// shorter, its N counts in addition for the units that it has forgotten. Where no window
// is known, the largest debt of the unit is booked now.
func (b *Bucket) windowFor(now int64, u Unit, r *Rate) (w window) {
	from := b.windowBefore(now, u, r)
	if from < 0 {
		w.book(r.windowRate(), now, now, min(b.owed(now, u), r.N))
		return w
	}
	q := b.rateAt(from).windowRate()
	if q.per == int64(r.Per) {
		return b.counters.of[from].window.clone()
	}
	if q.per < int64(r.Per) {
		w.book(r.windowRate(), now, max(now-q.per, 0), q.n)
	}
	for s := range b.counters.of[from].window.slots() {
		if q.returns(s.index) > now {
			w.book(r.windowRate(), now, (s.index+1)*q.width(), s.n)
		}
	}
	return w
}

// windowBefore returns the index of the window on u that r takes over. It prefers a window
// with the same Per, then one with a longer Per. It returns -1 if no window is known.
func (b *Bucket) windowBefore(now int64, u Unit, r *Rate) int {
	best := -1
	b.allOthers(func(i int, v Unit, q *Rate) {
		if v != u || q.Kind != Window {
			return
		}
		if best < 0 || b.before(now, r, i, q, best) {
			best = i
		}
	})
	return best
}

// before reports whether window i under q is preferred to window j.
func (b *Bucket) before(now int64, r *Rate, i int, q *Rate, j int) bool {
	p := b.rateAt(j)
	switch {
	case q.Per == p.Per:
		return b.counters.of[i].window.counted(q.windowRate(), now) > b.counters.of[j].window.counted(p.windowRate(), now)
	case q.Per == r.Per || p.Per == r.Per:
		return q.Per == r.Per
	}
	return q.Per > p.Per
}

// rateAt returns the rate with index i in tats.
func (b *Bucket) rateAt(i int) (rate *Rate) {
	find := func(j int, _ Unit, r *Rate) {
		if i == j {
			rate = r
		}
	}
	if n := b.limits.each(0, find); b.former != nil {
		b.former.each(n, find)
	}
	return rate
}

// owed returns the largest debt of the known rates on u, without leased units.
func (b *Bucket) owed(now int64, u Unit) (most int64) {
	b.all(func(i int, v Unit, r *Rate) {
		if v == u {
			most = max(most, b.missing(i, r, now)-b.leased.Of(u))
		}
	})
	b.allOthers(func(i int, v Unit, r *Rate) {
		if v != u {
			return
		}
		if c := b.counters.of[i]; c.window != nil {
			most = max(most, c.window.counted(r.windowRate(), now))
		} else {
			most = max(most, c.calendar.today+c.calendar.pending)
		}
	})
	return most
}

// paceFor returns the instant at which the pace of r is full, which begins with the debt
// of the paces that it replaces; zero if r has none.
func (b *Bucket) paceFor(now int64, u Unit, r *Rate) (full int64) {
	if r.Pace == 0 {
		return 0
	}
	b.others(func(i int, v Unit, q *Rate) {
		if v == u && q.Pace > 0 {
			full = max(full, pace{b.tats[i]}.replaced(q.paceRate(), r.paceRate(), now).full)
		}
	})
	return full
}

// calendarFor returns the calendar with which r begins on unit u: a known one with the
// same resets, or the largest debt of the unit in both days of the first stamp.
func (b *Bucket) calendarFor(now int64, u Unit, r *Rate) (c calendar) {
	found := false
	b.allOthers(func(i int, v Unit, q *Rate) {
		if d := b.counters.of[i].calendar; v == u && q.samePeriod(r) && (!found || d.today > c.today) {
			c, found = *d, true
		}
	})
	if !found {
		c.bookLater(min(b.owed(now, u), r.N))
	}
	return c
}

// counterOf returns the counter of rate i, the zero counter for a token bucket.
func (b *Bucket) counterOf(i int) counter {
	if b.counters == nil {
		return counter{}
	}
	return b.counters.of[i]
}

// keepCounter appends the counter of a former rate.
func (b *Bucket) keepCounter(c counter, old *Bucket) {
	if b.counters == nil && c == (counter{}) {
		return
	}
	if b.counters == nil {
		b.counters = &counters{of: make([]counter, len(b.tats)), shut: old.counters.shut, since: old.counters.since}
	}
	b.counters.of = append(b.counters.of, c)
}
