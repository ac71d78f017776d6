package bucket

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// TTL is how long a lease lives once all of it is spendable, in the store's
// time. It bounds how long the quota of a crashed holder stays out of reach.
const TTL = 2 * time.Second

// A lease may be promised ahead of the refill by the time that one unit takes,
// within these bounds: enough that a busy holder never runs dry while it asks
// again, little enough that a newcomer soon has its turn.
const (
	minHorizon = 250 * time.Millisecond
	maxHorizon = time.Second
)

// Horizon is how far ahead of its refill quota under r may be promised.
func (r Rate) Horizon() time.Duration {
	return min(max(time.Duration(r.span(1)), minHorizon), maxHorizon)
}

// LeaseID names a lease. Its holder picks it: Holder once, at random, and Seq
// counting up. An ask that a bucket has granted already gets the same lease when
// it comes again under its id, as it may after an unclear answer. Once a lease
// is settled or taken back, its id is not asked for again.
type LeaseID struct {
	Holder uint64 `json:"holder"`
	Seq    uint64 `json:"seq"`
}

func (id LeaseID) String() string { return fmt.Sprintf("%x-%d", id.Holder, id.Seq) }

// MaxDone bounds the settlements that one [Ask] carries.
const MaxDone = 1 << 10

// Ask asks for a lease on a key's quota.
type Ask struct {
	Key    string
	ID     LeaseID
	Limits Limits // of the key; they create the bucket, or change it if they are newer

	// Defined is when Limits were defined, in Unix nanoseconds. Of two
	// definitions the later one holds.
	Defined int64

	Need Cost // grant at least this much or nothing; zero: what can be had now
	Want Cost // grant at most this much

	// MaxWait is how long to wait in line for Need. Zero: decide at once.
	MaxWait time.Duration

	Done []Settlement // applied first, whatever becomes of the ask; at most [MaxDone]
}

// Check reports why a cannot be decided, or nil.
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

// Settlement closes a lease.
type Settlement struct {
	Key   string
	ID    LeaseID
	Spent Cost // of what was granted; more than that puts the bucket in debt
}

// Check reports why s cannot be applied, or nil.
func (s *Settlement) Check() error { return errors.Join(CheckKey(s.Key), s.Spent.Check()) }

// Adjustment moves a key's level after the fact.
type Adjustment struct {
	Key     string
	Limits  Limits // as in [Ask]
	Defined int64

	// Return is units that were charged after Since and not used. They come back
	// as far as the bucket would not have run over meanwhile, had they never
	// been charged. Since is an instant of the store's time, such as [Lease.At]
	// of an answer that came before the units were spent; zero: the beginning. Of
	// an instant that is yet to come nothing comes back.
	Return Cost
	Since  int64

	Charge Cost          // units that were used and not charged; the level may fall below zero
	Empty  time.Duration // when positive: no quota for so long (the provider said: retry after), but what comes back
}

// maxEmpty bounds [Adjustment.Empty].
const maxEmpty = 24 * time.Hour

// Check reports why a cannot be applied, or nil.
func (a *Adjustment) Check() error {
	if a.Empty < 0 || a.Empty > maxEmpty {
		return fmt.Errorf("empty for %v: want 0 to %v", a.Empty, maxEmpty)
	}
	return errors.Join(CheckKey(a.Key), a.Limits.Check(), a.Return.Check(), a.Charge.Check())
}

// Drip says how promised quota becomes spendable: of the granted units of Unit,
// all but ⌈d·N/Per⌉ may be spent while d is left until Ready.
type Drip struct {
	Unit  Unit          `json:"unit"`
	Ready time.Duration `json:"ready"` // until all of it is spendable
	N     int64         `json:"n"`
	Per   time.Duration `json:"per"`
}

// Unripe is how many units may not be spent yet when left is the time until
// [Drip.Ready].
func (d Drip) Unripe(left time.Duration) int64 {
	if left <= 0 {
		return 0
	}
	return mulDivCeil(int64(left), d.N, int64(d.Per))
}

// Until is the time before Ready at which all but n of the units are spendable,
// rounded so that it is never too early.
func (d Drip) Until(n int64) time.Duration {
	return time.Duration(mulDiv(max(n, 0), int64(d.Per), d.N))
}

// Grant is a bucket's decision on an [Ask], in the store's time.
type Grant struct {
	OK      bool
	Granted Cost
	TTL     time.Duration // until the store takes the lease for lost
	Drips   []Drip        // counted from the decision; nil when all is spendable

	RetryAfter time.Duration // when not OK: until Need could be granted if nobody else came
	Level      Cost          // of the bucket afterwards, below zero when quota is promised ahead
	At         int64         // the instant of the decision
}

// Lease is a store's answer to an [Ask], in the time of the one who asked.
type Lease struct {
	ID      LeaseID
	OK      bool // false: nothing was leased, see RetryAfter
	Granted Cost

	// ValidFor counts from the instant at which the ask was made, not from the
	// answer: spend before it has passed and the store still counts the lease
	// as out, whatever the two clocks do within [Drift]. Use a clock that runs
	// while the machine is suspended.
	ValidFor time.Duration

	// Drips hold back quota that is promised ahead. They count from the
	// instant at which the answer arrived.
	Drips []Drip

	RetryAfter time.Duration
	Level      Cost

	At int64 // the store's time at the decision
}

// Lease turns g into the answer to an ask. waited is how long the deciding side
// had the ask in hand, by a clock of its own: at least so much time has passed
// since it was made. What the asker's own clock has counted is added to ValidFor
// instead, and loses nothing, however long it was.
func (g Grant) Lease(id LeaseID, waited time.Duration) Lease {
	return Lease{
		ID: id, OK: g.OK, Granted: g.Granted,
		ValidFor: Early(waited + g.TTL),
		Drips:    g.Drips, RetryAfter: g.RetryAfter, Level: g.Level, At: g.At,
	}
}
