package choked

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/choked/choked/internal/pool"
)

// Limiter admits calls so that, on all workers together, no more is admitted in
// any window of time than burst + rate · window.
//
// Use [Limiter.Reserve] or [Wrap] for calls whose real usage is known afterwards,
// [Limiter.Wait] for calls whose cost is known before, [Limiter.Allow] and
// [Limiter.TryReserve] for callers that do not wait. Safe for concurrent use. The
// zero Limiter refuses every call with an error.
type Limiter struct {
	pool       *pool.Pool
	closed     atomic.Bool
	estimator  Estimator
	failOpen   bool
	maxOveruse int64 // bursts
	onError    func(error)
	handle     handle
	cleanup    runtime.Cleanup
}

// Verdict is the answer to a caller that does not wait.
type Verdict struct {
	OK         bool          // the cost is spent: the call may go
	RetryAfter time.Duration // if not OK: when it could be admitted if no other call came
	Unit       Unit          // if not OK: the unit that takes longest to be available
}

// Stats counts the calls for one key in this worker.
type Stats struct {
	Admitted     int64 // calls
	Spent        Cost  // by them, as reserved
	Refused      int64 // calls refused: by deadline, cost above the burst, or lack of quota
	Failed       int64 // calls that got an error of the store
	FailedOpen   int64 // calls admitted without quota, by LimiterConfig.FailOpen
	InvalidUsage int64 // settlements with a usage that wraps ErrUsage
	Waiting      int   // callers in the queue now
	Leased       Cost  // held now and not spent
	Exchanges    int64 // with the store

	Level     Cost          // of the bucket, by the store's last answer and the refill since; below zero: owed or promised
	NextUnit  Unit          // if calls wait: the unit that the first of them waits for
	NextAfter time.Duration // if calls wait: until the first of them can be admitted, as far as is known
}

var errNoLimiter = errors.New("choked: limiter is not open: want one from Choke.Limiter or Choke.Open")

// Key returns the key.
func (l *Limiter) Key() string {
	if l == nil || l.pool == nil {
		return ""
	}
	return l.pool.Key()
}

// Limits returns the limits with which the limiter was opened.
func (l *Limiter) Limits() Limits {
	if l == nil || l.pool == nil {
		return Limits{}
	}
	return *l.pool.Limits()
}

// Stats returns the counts of the key in this worker, over all its limiters.
func (l *Limiter) Stats() Stats {
	if l == nil || l.pool == nil {
		return Stats{}
	}
	return Stats(l.pool.Stats())
}

// Close ends the limiter: calls that wait through it, and later ones, get
// [ErrClosed]. Calls admitted before can still be settled. When the last limiter of
// the key in this worker is closed, its quota is returned to the store. Close does
// not wait for that, and returns nil. A second Close has no effect. A limiter that is
// no longer referenced is closed by the garbage collector.
func (l *Limiter) Close() error {
	if l == nil || l.pool == nil {
		return nil
	}
	if l.closed.Swap(true) {
		return nil
	}
	l.cleanup.Stop()
	if last := l.handle.release(); last {
		l.pool.Drain()
	} else {
		l.pool.Release(&l.closed)
	}
	return nil
}

// Estimate returns the cost of a call with this input: that of the estimator, and one
// request if it names none. An estimate that does not divide its tokens, while input or
// output is limited, is an error.
func (l *Limiter) Estimate(input any) (Cost, error) {
	if l == nil || l.pool == nil {
		return Cost{}, errNoLimiter
	}
	var c Cost
	var err error
	if l.estimator != nil {
		c, err = l.estimator.Estimate(input)
	}
	if err == nil {
		_, err = l.pool.Limits().Charge(c)
	}
	if err != nil {
		return Cost{}, l.error(fmt.Errorf("estimate: %w", err))
	}
	c.Requests = cmp.Or(c.Requests, 1)
	return c, nil
}

// Wait returns nil when cost is spent and the call may go. It queues, first come,
// first served among the callers of this worker. A call that fails has spent no
// quota. Its error is
//
//   - that of ctx, when ctx ends first;
//   - a [*DeadlineError], at once, when the call cannot be admitted before ctx's
//     deadline;
//   - [ErrCostExceedsBurst], at once, when it can never be admitted;
//   - [ErrClosed] after Close;
//   - the store's error, which wraps [ErrUnavailable], unless the limiter fails open.
//
// Every error names the key. Units that the key does not limit are free. Where tokens
// are limited and cost has none, its input and output are charged. A cost with tokens
// alone, where input or output is limited, is an error.
func (l *Limiter) Wait(ctx context.Context, cost Cost) error {
	_, err := l.admit(ctx, &cost)
	return err
}

// Allow spends cost if it is available now. It does not wait for quota and never
// overtakes callers that do. When the leases held do not cover cost it asks the
// store, which takes a round trip that ctx bounds. A refusal has spent no quota
// and is not an error. Errors are those of [Limiter.Wait].
func (l *Limiter) Allow(ctx context.Context, cost Cost) (Verdict, error) {
	v, _, err := l.try(ctx, &cost)
	return v, err
}

// admit is Wait. Its checks, which try repeats, are not a function of their own: the
// call would be 2% of a take.
func (l *Limiter) admit(ctx context.Context, cost *Cost) (pool.Admission, error) {
	if l == nil || l.pool == nil {
		return pool.Admission{}, errNoLimiter
	}
	var c Cost
	if !l.pool.Charge(&c, cost) || l.closed.Load() || ctx.Err() != nil {
		return pool.Admission{}, l.refuse(ctx, *cost)
	}
	if a, ok := l.pool.Take(&c); ok {
		return a, nil
	}
	a, err := l.pool.Wait(ctx, pool.Call{Cost: c, FailOpen: l.failOpen, Closed: &l.closed})
	if err != nil {
		return a, l.waitError(ctx, err)
	}
	return a, nil
}

func (l *Limiter) try(ctx context.Context, cost *Cost) (Verdict, pool.Admission, error) {
	if l == nil || l.pool == nil {
		return Verdict{}, pool.Admission{}, errNoLimiter
	}
	var c Cost
	if !l.pool.Charge(&c, cost) || l.closed.Load() || ctx.Err() != nil {
		return Verdict{}, pool.Admission{}, l.refuse(ctx, *cost)
	}
	a, r, decided := l.pool.Try(&c)
	if !decided {
		a, err := l.pool.Wait(ctx, pool.Call{Cost: c, AtOnce: true, FailOpen: l.failOpen, Closed: &l.closed})
		if refused := (*pool.Refusal)(nil); errors.As(err, &refused) {
			return Verdict{RetryAfter: refused.RetryAfter, Unit: refused.Unit}, a, nil
		}
		if err != nil {
			return Verdict{}, a, l.waitError(ctx, err)
		}
		return Verdict{OK: true}, a, nil
	}
	if r.RetryAfter > 0 {
		return Verdict{RetryAfter: r.RetryAfter, Unit: r.Unit}, a, nil
	}
	return Verdict{OK: true}, a, nil
}

// refuse returns the error of a call that is not worth deciding: the limiter is
// closed, the cost cannot be admitted, or ctx has ended.
func (l *Limiter) refuse(ctx context.Context, cost Cost) error {
	if l.closed.Load() {
		return l.error(ErrClosed)
	}
	charged, err := l.pool.Limits().Charge(cost)
	if err == nil {
		err = l.pool.Limits().Fits(charged)
	}
	if cost.IsNegative() {
		err = cost.Check()
	}
	if err != nil {
		l.pool.CountRefused()
		return l.error(err)
	}
	return l.waitError(ctx, ctx.Err())
}

// waitError is the error of a call for which the pool returned err.
func (l *Limiter) waitError(ctx context.Context, err error) error {
	var refused *pool.Refusal
	if errors.As(err, &refused) {
		return &DeadlineError{Key: l.Key(), Unit: refused.Unit, Level: refused.Level, RetryAfter: refused.RetryAfter, Err: refused.Err}
	}
	if err != ctx.Err() {
		return l.error(err)
	}
	if cause := context.Cause(ctx); !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return &DeadlineError{Key: l.Key(), Err: err}
	}
	return l.error(err)
}

func (l *Limiter) error(err error) error { return keyError(l.pool.Key(), err) }

// Cooldown empties the key's bucket for d, from 0 to 24 h, for all workers: the
// provider has asked, by a status of 429, to retry after that time. Leases already
// granted, to any worker, can still be spent. Quota returned later is available at
// once. It takes one exchange with the store, or two if leases are held.
func (l *Limiter) Cooldown(ctx context.Context, d time.Duration) error {
	if l == nil || l.pool == nil {
		return errNoLimiter
	}
	if l.closed.Load() {
		return l.error(ErrClosed)
	}
	if err := l.pool.Cooldown(ctx, d); err != nil {
		return l.error(fmt.Errorf("cooldown: %w", err))
	}
	return nil
}

// DeadlineError is a call that could not be admitted before the deadline of its
// context, so that waiting was not begun or was given up. Its cost was not spent.
// errors.Is holds for [ErrDeadline], [context.DeadlineExceeded] and Err.
type DeadlineError struct {
	Key        string
	Unit       Unit          // the unit that takes longest to be available
	Level      int64         // of Unit in the bucket, as far as is known; below zero: owed or promised
	RetryAfter time.Duration // when the call could be admitted if no other call came; 0: not known

	// Err is the reason besides quota, or nil: the store's error, which wraps
	// [ErrUnavailable], while the store cannot decide.
	Err error
}

// Error implements error.
func (e *DeadlineError) Error() string {
	err := ErrDeadline
	if e.RetryAfter > 0 {
		err = fmt.Errorf("%w: %s available in %v, level %d", err, e.Unit, cmp.Or(e.RetryAfter.Round(time.Millisecond), e.RetryAfter), e.Level)
	}
	if e.Err != nil {
		err = fmt.Errorf("%w: %w", err, e.Err)
	}
	return keyError(e.Key, err).Error()
}

// Unwrap returns ErrDeadline, context.DeadlineExceeded and Err.
func (e *DeadlineError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrDeadline, context.DeadlineExceeded}
	}
	return []error{ErrDeadline, context.DeadlineExceeded, e.Err}
}
