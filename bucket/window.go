package bucket

import (
	"encoding/binary"
	"iter"
	"time"
)

// windowSlots is K, the number of slots into which a window is cut. A unit is counted
// for up to Per/K longer than Per, so a window admits at least K/(K+1) of its limit.
const windowSlots = 60

// maxBooked bounds the units booked in one slot, so that the sum of all slots fits in
// an int64. It is far above [MaxUnits]: no limit has room while such a slot counts.
const maxBooked = 1 << 56

// windowRate is a limit of n units in every stretch of per, wherever it begins.
type windowRate struct {
	n   int64 // units
	per int64 // nanoseconds
}

// width returns the length of a slot, in nanoseconds.
func (r windowRate) width() int64 { return (r.per + windowSlots - 1) / windowSlots }

// slotOf returns the index of the slot that holds the instant at.
func (r windowRate) slotOf(at int64) int64 { return at / r.width() }

// returns returns the instant at which the units of slot i are no longer counted: the
// end of the slot plus Per. From the start of the slot it would be too early for a
// unit that was spent at the end of the slot.
func (r windowRate) returns(i int64) int64 { return later((i+1)*r.width(), r.per) }

// window counts the units that were booked under a [windowRate]. Time is cut into
// slots, and the units of each slot are summed. In every stretch of Per,
//
//	spent ≤ N
//
// provided that each unit is booked at or after the instant at which it was spent,
// and that a grant of n needs counted + leased + n ≤ N, where leased units are neither
// booked nor returned.
//
// At most K+1 slots count at once. Most windows count few or small numbers, and there
// may be a million of them, so all slots but the newest are kept as a string of bytes.
// The zero window is empty. Instants are nanoseconds of the store's time; they must not
// run backwards from one call to the next.
type window struct {
	newest slot  // the latest slot with units; no units: the window is empty
	oldest int64 // index of the earliest slot with units
	total  int64 // units in all slots

	// older has the slots from oldest up to the newest, in the order of time, as
	// unsigned varints: the units of a slot, or zero and the number of slots without
	// units.
	older []byte
}

// slot is the units that were booked in one slot of a window.
type slot struct {
	index int64 // the slot lasts from index·width to (index+1)·width
	n     int64 // units
}

// slots returns the slots that have units, in the order of time.
func (w *window) slots() iter.Seq[slot] {
	return func(yield func(slot) bool) {
		index := w.oldest
		for b := w.older; len(b) > 0; {
			n, size := binary.Uvarint(b)
			b = b[size:]
			if n == 0 {
				empty, size := binary.Uvarint(b)
				b = b[size:]
				index += int64(empty)
				continue
			}
			if !yield(slot{index, int64(n)}) {
				return
			}
			index++
		}
		if w.newest.n > 0 {
			yield(w.newest)
		}
	}
}

// counted returns the units that count at now: those of the slots that have not
// returned.
func (w *window) counted(r windowRate, now int64) int64 {
	n := w.total
	if n == 0 || r.returns(w.oldest) > now {
		return n
	}
	for s := range w.slots() {
		if r.returns(s.index) > now {
			break
		}
		n -= s.n
	}
	return n
}

// level returns the units that may be granted at now while leased units are on open
// leases. It is below zero if more than N count.
func (w *window) level(r windowRate, now, leased int64) int64 {
	return r.n - w.counted(r, now) - leased
}

// room is the level, at least zero: the largest grant at now. A window promises
// no quota ahead of the instant at which it returns.
func (w *window) room(r windowRate, now, leased int64) int64 {
	return max(w.level(r, now, leased), 0)
}

// ready returns the first instant from now on at which n units may be granted, if the
// leased units stay leased and no other operation comes. It reports false if the
// leased units leave no room for n however long the window waits.
func (w *window) ready(r windowRate, now, leased, n int64) (at int64, ok bool) {
	lacking := n - w.level(r, now, leased)
	if lacking <= 0 {
		return now, true
	}
	for s := range w.slots() {
		t := r.returns(s.index)
		if t <= now {
			continue // counted no longer
		}
		if lacking -= s.n; lacking <= 0 {
			return t, true
		}
	}
	return 0, false
}

// idle reports whether no units count at now: the window behaves as a new one.
func (w *window) idle(r windowRate, now int64) bool { return w.counted(r, now) == 0 }

// book counts n units as spent at the instant at, no later than now. It never refuses:
// a charge may bring the window above N. Units that have returned by now are not
// booked.
func (w *window) book(r windowRate, now, at, n int64) {
	i := r.slotOf(min(at, now))
	switch {
	case n <= 0 || r.returns(i) <= now:
		return
	case w.newest.n > 0 && i == w.newest.index:
		n = min(n, maxBooked-w.newest.n)
		w.newest.n += n
		w.total += n
		return
	}
	var buf [windowSlots + 2]slot
	w.keep(insert(w.live(r, now, buf[:0]), slot{i, n}))
}

// refund takes back up to n booked units that were charged at the instant since, or
// later, and not used. It returns the number of units taken. They are taken from the
// earliest slots: had they been taken from the slot of another, later charge, that
// charge would return too early. If the units may have returned by now, they are worth
// none, since others were granted in their place.
func (w *window) refund(r windowRate, now, since, n int64) (taken int64) {
	if since > now || r.returns(r.slotOf(since)) <= now {
		return 0
	}
	var buf [windowSlots + 2]slot
	slots := w.live(r, now, buf[:0])
	for i := range slots {
		t := min(slots[i].n, n-taken)
		slots[i].n -= t
		taken += t
	}
	w.keep(slots)
	return taken
}

// clone returns a copy that shares no memory with w.
func (w *window) clone() window {
	c := *w
	c.older = append([]byte(nil), w.older...)
	return c
}

// live appends the slots that count at now to buf.
func (w *window) live(r windowRate, now int64, buf []slot) []slot {
	for s := range w.slots() {
		if r.returns(s.index) > now {
			buf = append(buf, s)
		}
	}
	return buf
}

// insert adds the units of s to the slots, which are in the order of time.
func insert(slots []slot, s slot) []slot {
	at := len(slots)
	for at > 0 && slots[at-1].index >= s.index {
		at--
	}
	if at < len(slots) && slots[at].index == s.index {
		slots[at].n = min(slots[at].n+s.n, maxBooked)
		return slots
	}
	slots = append(slots, slot{})
	copy(slots[at+1:], slots[at:])
	slots[at] = slot{s.index, min(s.n, maxBooked)}
	return slots
}

// keep makes slots, in the order of time, the content of w.
func (w *window) keep(slots []slot) {
	var buf [windowSlots * 2]byte
	b := buf[:0]
	w.newest, w.oldest, w.total = slot{}, 0, 0
	for _, s := range slots {
		if s.n == 0 {
			continue
		}
		if w.newest.n == 0 {
			w.oldest = s.index
		} else {
			b = binary.AppendUvarint(b, uint64(w.newest.n))
			if empty := s.index - w.newest.index - 1; empty > 0 {
				b = binary.AppendUvarint(append(b, 0), uint64(empty))
			}
		}
		w.newest = s
		w.total += s.n
	}
	w.older = fit(w.older, b)
}

// fit returns a copy of b, in the memory of dst if that is neither too small nor far
// too large. New memory is an eighth larger than b, where append would double it, and
// a multiple of 16 bytes, as the allocator hands it out.
func fit(dst, b []byte) []byte {
	if c := cap(dst); c < len(b) || c > 2*len(b)+16 {
		dst = make([]byte, 0, (len(b)+len(b)/8+15)/16*16)
	}
	return append(dst[:0], b...)
}

// spentAt returns the instant at which a settlement books its units. The settlement
// arrives at now, the units were spent age ago by the holder's clock, and the lease was
// granted at the instant granted. The result is never before the spending: the age is
// shortened by the error of the two clocks, and no unit is spent before its grant.
func spentAt(now int64, age time.Duration, granted int64) int64 {
	return max(now-int64(Early(age)), granted)
}

// chargedSince returns the earliest instant at which units may have been charged that
// were charged age ago by the holder's clock. It is for [window.refund], where the age
// is lengthened by the error of the two clocks.
func chargedSince(now int64, age time.Duration) int64 {
	return max(now-int64(Late(age)), 0)
}
