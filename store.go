package choked

import (
	"context"
	"errors"

	"github.com/choked/choked/bucket"
)

// Rate is one limit: a token bucket, which restores N units every Per up to Burst; a
// window, which admits N in every Per; or a calendar, which admits N between two resets.
//
//	type Rate struct {
//		N     int64         // units
//		Per   time.Duration // 1 ms to 366 days
//		Burst int64         // of a bucket: most units that can be spent at once
//		Pace  int64         // of a window: the burst that spreads its grants; 0: none
//		Zone  string        // of a calendar: an IANA time zone
//		Every Period        // of a calendar: Daily, Weekly or Monthly
//		Kind  Kind          // TokenBucket, Window or Calendar
//	}
type Rate = bucket.Rate

// Limits are the rates of a key on each unit. All of them hold at once; a unit
// without rates is not limited. [ParseLimits] and [MustLimits] read them.
//
//	type Limits struct {
//		Requests []Rate // API calls; at most 8 rates a unit
//		Tokens   []Rate // LLM tokens, input and output together
//		Input    []Rate // LLM tokens of prompts
//		Output   []Rate // LLM tokens of replies
//		Spend    []Rate // money, in millionths of a dollar
//	}
type Limits = bucket.Limits

// Cost is what one call takes from a bucket, in units.
//
//	type Cost struct {
//		Requests int64 // API calls
//		Tokens   int64 // LLM tokens, input and output together
//		Input    int64 // LLM tokens of the prompt
//		Output   int64 // LLM tokens of the reply
//		Spend    int64 // money, in millionths of a dollar
//	}
type Cost = bucket.Cost

// Unit names a kind of quota: requests, tokens, input, output or spend.
type Unit = bucket.Unit

// Ask asks a [Store] for a lease on a key's quota. Its fields: Key, ID, Limits,
// Defined, Need (the least to grant), Want (the most), MaxWait, and Done, settlements
// that are applied first.
type Ask = bucket.Ask

// Lease is a [Store]'s answer to an [Ask]. Its fields: ID, OK, Granted, ValidFor
// (from when the ask was made), Drips (quota that becomes available later),
// RetryAfter, Level, and At, the store's time.
type Lease = bucket.Lease

// Settlement closes a lease. Its fields: Key, ID and Spent.
type Settlement = bucket.Settlement

// Adjustment moves the level of a key after the fact. Its fields: Key, Limits,
// Defined, Return, Since, Charge and Empty.
type Adjustment = bucket.Adjustment

// Store keeps the buckets that workers share. It is safe for concurrent use.
//
// A refusal is an answer, not an error. An error means that the store has made no
// decision: it wraps [ErrUnavailable] and its cause when the same call may succeed
// later, [ErrCostExceedsBurst] when it never will, or [ErrClosed]. Errors name neither
// the library nor the key: the caller adds both.
type Store interface {
	// Lease leases at least ask.Need and at most ask.Want from a key's bucket, and
	// queues for at most ask.MaxWait. Asks for one key are served in the order in
	// which they arrived. A refusal has OK false, and RetryAfter says when to ask
	// again; an ask that cannot be served within MaxWait is refused at once. An ask
	// without Need is never queued.
	//
	// The settlements in ask.Done are applied first, and at once, also while the
	// ask is queued. If ctx ends before the answer, Lease returns its error. After an
	// error the store takes back any grant, at once or later: the next ask has a new
	// id.
	Lease(ctx context.Context, ask Ask) (Lease, error)

	// Settle closes leases: spent quota is gone, the rest returns to the bucket. A
	// second settlement, or one of an unknown lease, has no effect, so an unclear
	// answer is resolved by settling again.
	Settle(ctx context.Context, done []Settlement) error

	// Adjust moves a key's level after the fact. It is applied at most once: after
	// an error, it may have been applied or not.
	Adjust(ctx context.Context, a Adjustment) error

	// Close releases the store's resources. A second Close has no effect.
	Close() error
}

var (
	// ErrCostExceedsBurst means that a cost is above the burst of its limit and can
	// never be admitted. The error that wraps it names both numbers.
	ErrCostExceedsBurst = bucket.ErrCostExceedsBurst

	// ErrUnavailable means that the store cannot decide for now. Every store's
	// error of this kind wraps it, together with the cause. Leases already granted
	// are still spent.
	ErrUnavailable = bucket.ErrUnavailable

	// ErrNoQuorum is [ErrUnavailable] because no majority of the cluster can be
	// reached.
	ErrNoQuorum = bucket.ErrNoQuorum

	// ErrDeadline means that a call could not be admitted before the deadline of
	// its context. Its cost was not spent. It is wrapped together with
	// [context.DeadlineExceeded]; see [DeadlineError].
	ErrDeadline = errors.New("cannot be admitted before the context deadline")

	// ErrUsage means that a settlement reported a usage that is negative, that names
	// tokens alone where input or output is limited, or that is beyond
	// [LimiterConfig.MaxOveruse].
	ErrUsage = errors.New("invalid usage")

	// ErrClosed means that the limiter, its Choke, or the store is closed.
	ErrClosed = bucket.ErrClosed
)
