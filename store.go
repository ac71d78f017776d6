package choked

import (
	"context"
	"errors"

	"github.com/choked/choked/bucket"
)

// What buckets are made of, under the names by which users meet them.
type (
	Rate       = bucket.Rate
	Limits     = bucket.Limits
	Cost       = bucket.Cost
	Ask        = bucket.Ask
	Lease      = bucket.Lease
	Settlement = bucket.Settlement
	Adjustment = bucket.Adjustment
)

// Store keeps the buckets that workers share. It is safe for concurrent use.
//
// An error means that nothing was decided, or that the request can never be
// met as it stands ([ErrCostExceedsBurst]); a refusal is an answer.
type Store interface {
	// Lease leases at least ask.Need and at most ask.Want from a key's bucket,
	// waiting its turn for at most ask.MaxWait. Asks for one key are served in
	// the order in which they came. A refusal has OK false and says by
	// RetryAfter when to come again; a wait that cannot end within MaxWait is
	// refused at once. An ask without Need is never kept waiting.
	//
	// The settlements in ask.Done are applied first, and at once, also while
	// the ask waits. If ctx ends before the answer, Lease returns its error.
	// After an error the store takes back what it may have granted, at once or
	// later: the next ask has a new id.
	Lease(ctx context.Context, ask Ask) (Lease, error)

	// Settle closes leases: what was spent is gone, the rest returns to the
	// bucket. Settling twice, or an unknown lease, changes nothing, so an
	// unclear answer is resolved by settling again.
	Settle(ctx context.Context, done []Settlement) error

	// Adjust moves a key's level after the fact. It is applied at most once:
	// after an error, it may have been applied or not.
	Adjust(ctx context.Context, a Adjustment) error

	// Close releases what the store holds. It may be called twice.
	Close() error
}

var (
	// ErrCostExceedsBurst means that a cost is above the burst of its limit
	// and could never be admitted. The error that wraps it names both numbers.
	ErrCostExceedsBurst = bucket.ErrCostExceedsBurst

	// ErrNoQuorum means that the store cannot decide for now, because no
	// majority of it can be reached. What is leased already is still spent.
	ErrNoQuorum = bucket.ErrNoQuorum

	// ErrDeadline means that a wait could not end before the deadline of its
	// context, so it was not begun, or was given up. Nothing was spent. It
	// comes together with [context.DeadlineExceeded].
	ErrDeadline = errors.New("choked: the deadline comes before the turn")

	// ErrClosed means that the limiter, or the store below it, is closed.
	ErrClosed = bucket.ErrClosed
)
