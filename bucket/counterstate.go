package bucket

import (
	"cmp"
	"errors"
	"fmt"
)

// Counters is the state of the windows and calendars of a bucket, for a codec. Instants
// are nanoseconds of the store's time, but for those of the wall clock.
type Counters struct {
	Rates []Counter       // by the index of [State.TATs]; the zero Counter for a token bucket
	Shut  [NumUnits]int64 // the instants before which no unit is granted
	Since int64           // units that were charged before this instant are not taken back
}

// Counter is the state of one window or calendar.
type Counter struct {
	Slots []Slot // of a window, in the order of time
	Day   Day    // of a calendar
}

// Slot is the units that were booked in one slot of a window: the time from Index to
// Index + 1 times a sixtieth of Per, rounded up.
type Slot struct {
	Index int64
	N     int64 // units, above zero
}

// Day is the days in which a calendar counts, see the comments of its fields there.
type Day struct {
	From, Reset               int64 // Unix nanoseconds; Reset 0: no day yet
	Today, Tomorrow           int64 // units
	TodaySince, TomorrowSince int64
	Pending                   int64 // units
	Wall                      int64 // of the last stamp, in Unix nanoseconds
	Stamped                   int64 // the instant of the last stamp
}

// state returns the state of c, in memory of its own. c may be nil.
func (c *counters) state() *Counters {
	if c == nil {
		return nil
	}
	s := &Counters{Rates: make([]Counter, len(c.of)), Shut: c.shut, Since: c.since}
	for i, k := range c.of {
		if k.window != nil {
			for x := range k.window.slots() {
				s.Rates[i].Slots = append(s.Rates[i].Slots, Slot{x.index, x.n})
			}
		}
		if d := k.calendar; d != nil {
			s.Rates[i].Day = Day{d.from, d.reset, d.today, d.tomorrow, d.todaySince, d.tomorrowSince, d.pending, d.wall, d.stamped}
		}
	}
	return s
}

// restore fills the counters with the state s, which has passed its check.
func (c *counters) restore(s *Counters) {
	c.shut, c.since = s.Shut, s.Since
	for i, k := range c.of {
		if k.window != nil {
			var buf [windowSlots + 2]slot
			slots := buf[:0]
			for _, x := range s.Rates[i].Slots {
				slots = append(slots, slot{x.Index, x.N})
			}
			k.window.keep(slots)
		}
		if k.calendar != nil {
			d := s.Rates[i].Day
			*k.calendar = calendar{d.From, d.Reset, d.Today, d.Tomorrow, d.Pending, d.Wall, d.Stamped, d.TodaySince, d.TomorrowSince}
		}
	}
}

// checkCounters reports why the counters are not those of the rates.
func (s *State) checkCounters() error {
	none := s.Limits.tokenBucketsOnly() && (s.Former == nil || s.Former.tokenBucketsOnly())
	switch c := s.Counters; {
	case none && c == nil:
		return nil
	case none:
		return errors.New("counters of token buckets: want none")
	case c == nil:
		return errors.New("windows or calendars without counters")
	case len(c.Rates) != len(s.TATs):
		return fmt.Errorf("%d counters: want one for each of %d rates", len(c.Rates), len(s.TATs))
	}
	err := checkInstant(s.Counters.Since)
	for _, t := range s.Counters.Shut {
		err = cmp.Or(err, checkInstant(t))
	}
	check := func(i int, u Unit, r *Rate) {
		if e := s.Counters.Rates[i].check(r, s.TATs[i]); e != nil && err == nil {
			err = fmt.Errorf("%s of %v: %w", r.text(u), u, e)
		}
	}
	if n := s.Limits.each(0, check); s.Former != nil {
		s.Former.each(n, check)
	}
	return err
}

// check reports why c with this arrival time is not a counter of r.
func (c *Counter) check(r *Rate, tat int64) error {
	switch {
	case r.Kind != Window && len(c.Slots) > 0:
		return fmt.Errorf("a %v with slots", r.Kind)
	case r.Kind != Calendar && c.Day != Day{}:
		return fmt.Errorf("a %v with a day", r.Kind)
	case r.Kind == Window && r.Pace == 0 && tat != 0, r.Kind == Calendar && tat != 0:
		return fmt.Errorf("arrival time %d without a pace: want 0", tat)
	}
	return cmp.Or(c.checkSlots(r), c.Day.check())
}

func (c *Counter) checkSlots(r *Rate) error {
	if n := len(c.Slots); n > windowSlots+2 {
		return fmt.Errorf("%d slots: want at most %d", n, windowSlots+2)
	}
	for i, x := range c.Slots {
		switch {
		case x.N < 1 || x.N > maxBooked:
			return fmt.Errorf("slot of %d units: want 1 to %d", x.N, int64(maxBooked))
		case x.Index < 0 || x.Index > r.windowRate().slotOf(MaxInstant):
			return fmt.Errorf("slot %d: want 0 to the end of time", x.Index)
		case i > 0 && x.Index <= c.Slots[i-1].Index:
			return fmt.Errorf("slot %d after slot %d: want the order of time", x.Index, c.Slots[i-1].Index)
		}
	}
	return nil
}

// check reports why d is not the day of a calendar.
func (d *Day) check() error {
	for _, t := range []int64{d.From, d.Reset, d.Wall, d.Stamped, d.TodaySince, d.TomorrowSince} {
		if err := checkInstant(t); err != nil {
			return err
		}
	}
	for _, n := range []int64{d.Today, d.Tomorrow, d.Pending} {
		if n < 0 || n > maxDay {
			return fmt.Errorf("%d units in a day: want 0 to %d", n, int64(maxDay))
		}
	}
	switch {
	case d.Tomorrow > d.Today:
		return fmt.Errorf("%d units of tomorrow: want at most the %d of today", d.Tomorrow, d.Today)
	case d.From > d.Reset:
		return errors.New("a day that ends before it begins")
	case d.Reset == 0 && (d.Wall|d.Today) != 0 || d.Reset > 0 && d.Wall == 0:
		return errors.New("a day without a stamp")
	}
	return nil
}
