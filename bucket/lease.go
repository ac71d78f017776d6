package bucket

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// TTL is how long a lease is valid once all of it is available, in the store's
// time. It bounds how long the unspent quota of a crashed holder is lost.
const TTL = 2 * time.Second

// A lease is promised ahead of the refill by at most the time that one unit takes,
// within these bounds: enough that a busy holder can spend while it asks again,
// little enough that a new holder is soon served.
const (
	minHorizon = 250 * time.Millisecond
	maxHorizon = time.Second
)

// Horizon returns how far ahead of its refill quota under r may be promised: the
// time of one unit, at least 250 ms and at most 1 s. A window and a calendar promise no
// units ahead.
func (r Rate) Horizon() time.Duration {
	if r.Kind != TokenBucket {
		return 0
	}
	return min(max(time.Duration(r.span(1)), minHorizon), maxHorizon)
}

// LeaseID identifies a lease. The holder chooses it. An ask that is repeated with its
// id, as after an unclear answer, gets the lease that it was granted before. The id
// of a lease that was settled or withdrawn is not used again.
type LeaseID struct {
	Holder uint64 `json:"holder"` // of all leases of one worker; random
	Seq    uint64 `json:"seq"`    // counts the asks of the holder
}

// String returns id in the form "7f-12": the holder in hexadecimal and the number.
func (id LeaseID) String() string { return fmt.Sprintf("%x-%d", id.Holder, id.Seq) }

// MaxDone is the most settlements that one [Ask] carries.
const MaxDone = 1 << 10

// Ask requests a lease on the quota of a key.
type Ask struct {
	Key    string  // of the bucket, 1 to [MaxKey] bytes
	ID     LeaseID // of the lease, if it is granted
	Limits Limits  // of the key; they create the bucket, or change it if they are newer

	// Defined is when Limits were defined, in Unix nanoseconds. Of two
	// definitions the later one holds.
	Defined int64

	Need Cost // least to grant, in units; zero: any part of Want that is available now
	Want Cost // most to grant, in units

	// MaxWait is how long the ask may be queued for Need. Zero: decide at once.
	MaxWait time.Duration

	Done []Settlement // applied first, also if the ask is refused; at most [MaxDone]
}

// Check returns an error that says why a is malformed, or nil.
func (a *Ask) Check() error {
	if err := CheckKey(a.Key); err != nil {
		return err
	}
	if err := a.Limits.Check(); err != nil {
		return err
	}
	if err := a.Need.Check(); err != nil {
		return cmp.Or(a.Limits.Fits(a.Need), err) // more than MaxUnits is more than any burst
	}
	if err := a.Want.Check(); err != nil {
		return err
	}
	if n := len(a.Done); n > MaxDone {
		return fmt.Errorf("%d settlements with an ask: want at most %d", n, MaxDone)
	}
	for i := range a.Done {
		if err := a.Done[i].Check(); err != nil {
			return err
		}
	}
	return nil
}

// Settlement closes a lease: the spent units are gone and the rest is returned.
type Settlement struct {
	Key   string  // of the bucket
	ID    LeaseID // of the lease
	Spent Cost    // in units; more than was granted puts the bucket in debt

	// Parts may say how long ago, by the clock of the holder, parts of Spent were spent.
	// Windows below 10 s then book them as of that instant, and not as of the arrival of
	// the settlement. Only members of a cluster are trusted with it. At most [MaxParts].
	Parts []Spending
}

// Spending is units that were spent at one instant.
type Spending struct {
	Age  time.Duration // since the instant; when the settlement was sent
	Cost Cost          // in units
}

// MaxParts is the most parts of one [Settlement].
const MaxParts = 64

// Check returns an error that says why s is malformed, or nil.
func (s *Settlement) Check() error {
	if err := errors.Join(CheckKey(s.Key), s.Spent.Check()); err != nil || len(s.Parts) == 0 {
		return err
	}
	if n := len(s.Parts); n > MaxParts {
		return fmt.Errorf("settlement in %d parts: want at most %d", n, MaxParts)
	}
	var sum Cost
	for _, p := range s.Parts {
		if p.Age < 0 || p.Age > maxEmpty {
			return fmt.Errorf("units spent %v before their settlement: want 0 to %v", p.Age, maxEmpty)
		}
		if err := p.Cost.Check(); err != nil {
			return err
		}
		sum = sum.Add(p.Cost)
	}
	if !s.Spent.Covers(sum) {
		return fmt.Errorf("parts of %v: want at most the %v of their settlement", sum, s.Spent)
	}
	return nil
}

// Adjustment corrects the level of a key after units were spent.
type Adjustment struct {
	Key     string // of the bucket
	Limits  Limits // as in [Ask]
	Defined int64  // as in [Ask]

	// Return is the units that were charged after Since and not used. They are
	// returned up to the least shortfall of the bucket since then: had they never
	// been charged, the bucket would have overflowed by the rest.
	Return Cost

	// Since is an instant of the store's time, in nanoseconds, such as [Lease.At] of
	// an answer that came before the units were spent. Zero: the beginning. If it is
	// in the future, Return is worth no units.
	Since int64

	// Lease is the lease that the units of Return were charged on. Windows and calendars
	// ignore Return if Lease is zero, and while the lease is open: its settlement gives
	// the spent units. Afterwards they take back units until the units charged at Since
	// may have returned. Token buckets do not need Lease.
	Lease LeaseID

	Charge Cost // units that were used and not charged; the level may fall below zero

	// Empty, if positive, empties the bucket for so long, because the provider said
	// when to retry. Only units that are returned are available meanwhile, in windows and
	// calendars none. At most a day.
	Empty time.Duration
}

// maxEmpty bounds [Adjustment.Empty].
const maxEmpty = 24 * time.Hour

// Check returns an error that says why a is malformed, or nil.
func (a *Adjustment) Check() error {
	if a.Empty < 0 || a.Empty > maxEmpty {
		return fmt.Errorf("empty for %v: want 0 to %v", a.Empty, maxEmpty)
	}
	return errors.Join(CheckKey(a.Key), a.Limits.Check(), a.Return.Check(), a.Charge.Check())
}

// Drip says how promised quota becomes available: of the granted units of Unit, all
// but ⌈d·N/Per⌉ may be spent while d is left until Ready.
type Drip struct {
	Unit  Unit          `json:"unit"`
	Ready time.Duration `json:"ready"` // until all units are available
	N     int64         `json:"n"`     // units that become available every Per
	Per   time.Duration `json:"per"`
}

// Unavailable returns how many units may not be spent yet when left is the time until
// [Drip.Ready].
func (d Drip) Unavailable(left time.Duration) int64 {
	if left <= 0 {
		return 0
	}
	return mulDivCeil(int64(left), d.N, int64(d.Per))
}

// Until returns the time before Ready at which all but n of the units are available,
// rounded so that it is never too early.
func (d Drip) Until(n int64) time.Duration {
	return time.Duration(mulDiv(max(n, 0), int64(d.Per), d.N))
}

// Grant is a bucket's decision on an [Ask], in the store's time.
type Grant struct {
	OK      bool          // false: refused, see RetryAfter
	Granted Cost          // in units
	TTL     time.Duration // until the lease expires at the store
	Drips   []Drip        // counted from the decision; nil: all units are available

	RetryAfter time.Duration // of a refusal: until Need could be granted without other asks
	Level      Cost          // of the bucket afterwards, in units; below zero when quota is promised ahead
	At         int64         // the instant of the decision, in nanoseconds of the store's time
}

// Lease is a store's answer to an [Ask], in the asker's time.
type Lease struct {
	ID      LeaseID // of the ask
	OK      bool    // false: refused, see RetryAfter
	Granted Cost    // in units

	// ValidFor counts from the instant at which the ask was sent, not from the
	// answer. Until it has passed the lease is open at the store, whatever the two
	// clocks do within [Drift]. Use a clock that runs while the machine is suspended.
	ValidFor time.Duration

	// Drips hold back quota that is promised ahead. They count from the
	// instant at which the answer arrived.
	Drips []Drip

	RetryAfter time.Duration // of a refusal: when to ask again
	Level      Cost          // of the bucket, in units; below zero when quota is promised ahead
	At         int64         // the instant of the decision, in nanoseconds of the store's time
}

// Lease returns g as the answer to the ask with the given id. waited is how long the
// store had the ask, by its own clock: at least so much time has passed since the ask
// was sent, so ValidFor is that much longer, less the margin of [Early].
func (g Grant) Lease(id LeaseID, waited time.Duration) Lease {
	return Lease{
		ID: id, OK: g.OK, Granted: g.Granted,
		ValidFor: Early(waited + g.TTL),
		Drips:    g.Drips, RetryAfter: g.RetryAfter, Level: g.Level, At: g.At,
	}
}
