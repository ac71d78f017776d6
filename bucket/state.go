package bucket

import (
	"cmp"
	"fmt"
	"time"
)

// MaxInstant is the end of time as a store counts it, in nanoseconds: 146 years,
// which no wait reaches, and half of an int64, so that sums do not overflow.
const MaxInstant = end

// State is everything that a [Bucket] holds, for a codec: [Bucket.State] returns
// it and [Restore] makes a bucket of it. Instants are nanoseconds of the store's
// time, from 0 to [MaxInstant].
type State struct {
	Limits  *Limits // in force
	Defined int64   // when Limits were defined, in Unix nanoseconds
	Former  *Limits // rates of earlier definitions that are not full yet; nil: none

	// TATs are the theoretical arrival times of the rates: those on requests,
	// those on tokens, then those of Former in the same order.
	TATs []int64

	Leases []HeldLease // open leases, by expiry
	Lows   []Low       // what bounds the worth of a return; of each rate by instant
}

// HeldLease is an open lease as its bucket keeps it.
type HeldLease struct {
	ID      LeaseID
	Granted Cost
	Expiry  int64  // the instant from which the lease counts as spent
	Drips   []Drip // Ready is an instant; nil: all is available from the start
}

// Low says that at At, and at all times since, a rate has lacked at least Least
// of being full, not counting leases.
type Low struct {
	At    int64
	Least int64 // nanoseconds of refill
	Rate  uint8 // index into [State.TATs], of a rate in force
}

// State returns the bucket's state. Its slices are the bucket's own: read them
// before the bucket changes, and do not write to them.
func (b *Bucket) State() State {
	return State{Limits: b.limits, Defined: b.defined, Former: b.former, TATs: b.tats, Leases: b.leases, Lows: b.lows}
}

// StateAt returns the state that the bucket will have at now if nothing is done
// to it before. Two buckets that behave alike from now on have the same.
func (b *Bucket) StateAt(now int64) State {
	c := b.at(now)
	c.lows = b.lows
	return c.State()
}

// Restore returns the bucket of which s is the state, or an error that says what
// of s no bucket can have. It keeps s.Limits and s.Leases and copies the rest.
func Restore(s State) (*Bucket, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	b := New(s.Limits, s.Defined)
	if s.Former != nil {
		b.former = s.Former
		b.tats = make([]int64, len(s.TATs))
	}
	copy(b.tats, s.TATs)
	b.lows = append(b.lows, s.Lows...)
	b.leases = s.Leases
	for i := range b.leases {
		b.out = b.out.Add(b.leases[i].Granted)
	}
	return b, nil
}

func (s *State) check() error {
	if err := s.Limits.Check(); err != nil {
		return err
	}
	want := s.Limits.len()
	var former error
	if s.Former != nil {
		want += s.Former.each(0, func(_ int, _ Unit, r Rate) { former = cmp.Or(former, r.Check()) })
	}
	if former != nil {
		return fmt.Errorf("former limits: %w", former)
	}
	if len(s.TATs) != want {
		return fmt.Errorf("%d arrival times: want one for each of %d rates", len(s.TATs), want)
	}
	for _, tat := range s.TATs {
		if err := checkInstant(tat); err != nil {
			return fmt.Errorf("arrival time: %w", err)
		}
	}
	if most := s.Limits.len() * (keptLows + 1); len(s.Lows) > most {
		return fmt.Errorf("%d lows: want at most %d", len(s.Lows), most)
	}
	for _, l := range s.Lows {
		if int(l.Rate) >= s.Limits.len() {
			return fmt.Errorf("low of rate %d: want 0 to %d", l.Rate, s.Limits.len()-1)
		}
		if err := checkInstant(l.At); err != nil {
			return fmt.Errorf("low: %w", err)
		}
		if err := checkInstant(l.Least); err != nil {
			return fmt.Errorf("low: %w", err)
		}
	}
	for i := range s.Leases {
		l := &s.Leases[i]
		if err := l.Granted.Check(); err != nil {
			return fmt.Errorf("lease %v: %w", l.ID, err)
		}
		if err := checkInstant(l.Expiry); err != nil {
			return fmt.Errorf("expiry of lease %v: %w", l.ID, err)
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

// Info is a bucket as status pages show it, at one instant.
type Info struct {
	Key    string
	Limits Limits
	Level  Cost // below zero when quota is promised ahead or owed
	Leased Cost
	Leases int
	Full   time.Duration // until it is full, if all that is leased is spent
}
