package bucket

import (
	"cmp"
	"fmt"
	"time"
)

// MaxInstant is the end of time as a store counts it, in nanoseconds: 146 years,
// which no wait reaches, and half of an int64, so that sums do not overflow.
const MaxInstant = end

// State is the full state of a [Bucket], for a codec: [Bucket.State] returns it and
// [Restore] makes a bucket of it. Instants are nanoseconds of the store's time, from
// 0 to [MaxInstant].
type State struct {
	Limits  *Limits // in force
	Defined int64   // when Limits were defined, in Unix nanoseconds
	Former  *Limits // rates of earlier definitions that are not full yet; nil: none

	// TATs are the theoretical arrival times of the rates: those on requests,
	// those on tokens, then those of Former in the same order. Of a window it is the one
	// of its pace, zero if it has none; of a calendar it is zero.
	TATs []int64

	Counters *Counters // of windows and calendars; nil: all rates are token buckets

	Leases     []HeldLease // open leases, by expiry
	Shortfalls []Shortfall // bound the worth of a return; of each rate by instant
}

// HeldLease is an open lease as its bucket keeps it.
type HeldLease struct {
	ID      LeaseID
	Granted Cost   // in units
	Expiry  int64  // the instant from which the lease counts as spent, in nanoseconds of the store's time
	Drips   []Drip // Ready is an instant; nil: all is available from the start

	// At is the instant of the grant, or a later one: the settlement books no unit before
	// it. It is zero where all rates are token buckets, which do not need it.
	At int64
}

// State returns the bucket's state. Its slices are the bucket's own: read them
// before the bucket changes, and do not write to them.
func (b *Bucket) State() State {
	return State{
		Limits: b.limits, Defined: b.defined, Former: b.former, TATs: b.tats, Counters: b.counters.state(),
		Leases: b.leases, Shortfalls: b.shortfalls,
	}
}

// StateAt returns the state of the bucket at now, a later instant, provided that no
// operation comes before. Two buckets that behave alike from now on have the same.
func (b *Bucket) StateAt(now int64) State {
	c := b.copy()
	c.advance(now)
	c.shortfalls = b.shortfalls
	if c.counters != nil {
		c.counters.normalize(&c, now)
	}
	return c.State()
}

// Restore returns the bucket with the state s, or an error that says why no bucket
// can have it. Restore keeps s.Limits and s.Leases and copies the rest.
func Restore(s State) (*Bucket, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	b := New(s.Limits, s.Defined)
	if s.Former != nil {
		b.former = s.Former
		b.tats, b.counters = make([]int64, len(s.TATs)), newCounters(s.Limits, s.Former)
	}
	if s.Counters != nil {
		b.counters.restore(s.Counters)
	}
	copy(b.tats, s.TATs)
	b.shortfalls = append(b.shortfalls, s.Shortfalls...)
	b.leases = s.Leases
	for i := range b.leases {
		b.leased = b.leased.Add(b.leases[i].Granted)
	}
	return b, nil
}

// check reports why s is not the state of any bucket, or nil.
func (s *State) check() error {
	if err := s.Limits.Check(); err != nil {
		return err
	}
	return cmp.Or(s.checkTATs(), s.checkCounters(), s.checkShortfalls(), s.checkLeases())
}

func (s *State) checkTATs() error {
	want := s.Limits.Len()
	if s.Former != nil {
		var err error
		want += s.Former.each(0, func(_ int, _ Unit, r *Rate) { err = cmp.Or(err, r.Check()) })
		if err != nil {
			return fmt.Errorf("former limits: %w", err)
		}
	}
	if len(s.TATs) != want {
		return fmt.Errorf("%d arrival times: want one for each of %d rates", len(s.TATs), want)
	}
	for _, tat := range s.TATs {
		if err := checkInstant(tat); err != nil {
			return fmt.Errorf("arrival time: %w", err)
		}
	}
	return nil
}

func (s *State) checkShortfalls() error {
	if most := s.Limits.Len() * (keptShortfalls + 1); len(s.Shortfalls) > most {
		return fmt.Errorf("%d shortfalls: want at most %d", len(s.Shortfalls), most)
	}
	for _, x := range s.Shortfalls {
		if int(x.Rate) >= s.Limits.Len() {
			return fmt.Errorf("shortfall of rate %d: want 0 to %d", x.Rate, s.Limits.Len()-1)
		}
		if err := cmp.Or(checkInstant(x.At), checkInstant(x.Least)); err != nil {
			return fmt.Errorf("shortfall: %w", err)
		}
	}
	return nil
}

func (s *State) checkLeases() error {
	for i := range s.Leases {
		l := &s.Leases[i]
		if err := l.Granted.Check(); err != nil {
			return fmt.Errorf("lease %v: %w", l.ID, err)
		}
		if err := cmp.Or(checkInstant(l.Expiry), checkInstant(l.At)); err != nil {
			return fmt.Errorf("instants of lease %v: %w", l.ID, err)
		}
		if i > 0 && l.Expiry < s.Leases[i-1].Expiry {
			return fmt.Errorf("lease %v expires before the lease ahead of it", l.ID)
		}
	}
	return nil
}

func checkInstant(t int64) error {
	if t < 0 || t > MaxInstant {
		return fmt.Errorf("instant %d: want 0 to %d", t, int64(MaxInstant))
	}
	return nil
}

// Info describes a bucket at one instant, as status pages show it.
type Info struct {
	Key    string
	Limits Limits        // in force
	Level  Cost          // units available; below zero when quota is promised ahead or owed
	Leased Cost          // units on open leases
	Leases int           // open leases
	Full   time.Duration // until the bucket is full, if all that is leased is spent
}
