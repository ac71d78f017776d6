package choked

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// Limiter admits calls so that, on all workers together, no more is admitted in
// any window of time than burst + rate · window. Safe for concurrent use.
type Limiter struct {
	pool      *pool
	estimator Estimator
	failOpen  bool
}

// Verdict is the answer of [Limiter.Allow].
type Verdict struct {
	OK         bool          // the cost is spent, the call may go
	At         time.Time     // when OK: it was spent then, for [Limiter.Settle]
	RetryAfter time.Duration // when not OK: how soon it could, if nobody else came
}

// Stats counts what became of the calls for one key in this worker.
type Stats struct {
	Admitted  int64 // calls
	Spent     Cost  // by them, as estimated
	Refused   int64 // deadline before the turn, cost above the burst, or no quota for Allow
	Failed    int64 // by an error of the store
	Opened    int64 // admitted without limit, by FailOpen
	Waiting   int   // now
	Leased    Cost  // in hand now, and not spent
	Exchanges int64 // with the store
}

// Key returns the key.
func (l *Limiter) Key() string { return l.pool.key }

// Limits returns the limits with which the key was opened here.
func (l *Limiter) Limits() Limits { return l.pool.limits }

// Estimate returns what a call with this input will cost: one request, and the
// tokens that the estimator counts.
func (l *Limiter) Estimate(input any) (Cost, error) {
	c := Cost{Requests: 1}
	if l.estimator != nil {
		n, err := l.estimator.Estimate(input)
		if err != nil {
			return Cost{}, fmt.Errorf("choked: estimate for %.64q: %w", l.pool.key, err)
		}
		c.Tokens = n
	}
	return c, nil
}

// Wait returns nil when cost is spent and the call may go. It waits its turn,
// first come, first served among the callers of this worker. It fails, and has
// spent nothing, with
//
//   - the error of ctx, when that ends first;
//   - [ErrDeadline], at once, when the turn cannot come before ctx's deadline;
//   - [ErrCostExceedsBurst], at once, when it can never come;
//   - [ErrClosed] after Close;
//   - the store's error, such as [ErrNoQuorum], unless the limiter fails open.
//
// Units that the key does not limit cost nothing.
func (l *Limiter) Wait(ctx context.Context, cost Cost) error {
	_, err := l.admit(ctx, cost)
	return err
}

// Admit is [Limiter.Wait] for a call that is settled afterwards: at is when cost was
// spent, as [Limiter.Settle] wants to know.
func (l *Limiter) Admit(ctx context.Context, cost Cost) (at time.Time, err error) {
	spent, err := l.admit(ctx, cost)
	if err != nil {
		return time.Time{}, err
	}
	return l.pool.choke.clock.Time(spent), nil
}

// admit returns the instant at which cost was spent, by the worker's clock.
func (l *Limiter) admit(ctx context.Context, cost Cost) (int64, error) {
	p := l.pool
	c := p.limits.Limited(cost)
	if !p.burst.Covers(c) || cost.Requests < 0 || cost.Tokens < 0 {
		return 0, l.impossible(cost)
	}
	if ctx.Err() != nil {
		return 0, ended(ctx)
	}
	if now, ok := p.take(c); ok {
		return now, nil
	}
	w := &waiter{cost: c, failOpen: l.failOpen, admitted: make(chan error, 1), deadline: forever}
	if t, ok := ctx.Deadline(); ok {
		left := min(time.Until(t), forever/2)
		w.deadline = p.choke.clock.Now() + int64(left) // read after it, or a pause would make it early
	}
	err := p.wait(ctx, w)
	return w.spent, err
}

// Allow spends cost if it is to be had without waiting for quota, and never
// overtakes those who wait. It asks the store when what is in hand does not
// suffice, so it may take a round trip; ctx bounds that. A refusal has spent
// nothing. Errors are those of [Limiter.Wait].
func (l *Limiter) Allow(ctx context.Context, cost Cost) (Verdict, error) {
	p := l.pool
	c := p.limits.Limited(cost)
	if !p.burst.Covers(c) || cost.Requests < 0 || cost.Tokens < 0 {
		return Verdict{}, l.impossible(cost)
	}
	if ctx.Err() != nil {
		return Verdict{}, ended(ctx)
	}
	switch now, ok, after := p.try(c); {
	case ok:
		return Verdict{OK: true, At: p.choke.clock.Time(now)}, nil
	case after > 0:
		return Verdict{RetryAfter: after}, nil
	}
	w := &waiter{cost: c, atOnce: true, failOpen: l.failOpen, admitted: make(chan error, 1), deadline: forever}
	err := p.wait(ctx, w)
	var r *refusal
	if errors.As(err, &r) {
		return Verdict{RetryAfter: r.retryAfter}, nil
	}
	if err != nil {
		return Verdict{}, err
	}
	return Verdict{OK: true, At: p.choke.clock.Time(w.spent)}, nil
}

func (l *Limiter) impossible(cost Cost) error {
	p := l.pool
	p.mu.Lock()
	p.stats.Refused++
	p.mu.Unlock()
	return fmt.Errorf("choked: %.64q: %w", p.key, cmp.Or(cost.Check(), p.limits.Fits(cost)))
}

// ended is the error of a ctx that is done, its cause included.
func ended(ctx context.Context) error {
	err := ctx.Err()
	if cause := context.Cause(ctx); !errors.Is(err, cause) {
		err = fmt.Errorf("%w: %w", err, cause)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", ErrDeadline, err)
	}
	return err
}

// Settle corrects the estimate of an admitted call by what it has really used. at is
// when its cost was spent, as [Limiter.Admit] and [Verdict] tell. A time before that,
// as of the call to [Limiter.Wait], will do, but less goes back.
//
// What was estimated too little is charged afterwards. What was estimated too
// much goes back, as far as the bucket has lacked so much ever since: what
// would have run over is lost, or the same quota could be spent twice.
//
// Settle does not wait for the store. A call that was admitted and not made is
// settled with an actual cost of zero; one that passed because the limiter fails
// open was charged nothing, and gets nothing back. The error tells a cost that cannot
// be, or is [ErrClosed] after Close, when it is too late.
func (l *Limiter) Settle(at time.Time, estimated, actual Cost) error {
	return l.settle(l.pool.choke.clock.At(at), estimated, actual)
}

func (l *Limiter) settle(at int64, estimated, actual Cost) error {
	if err := cmp.Or(estimated.Check(), actual.Check()); err != nil {
		return fmt.Errorf("choked: settle %.64q: %w", l.pool.key, err)
	}
	if o, ok := l.estimator.(interface{ Observe(estimated, actual int64) }); ok && estimated.Tokens > 0 && actual.Tokens > 0 {
		o.Observe(estimated.Tokens, actual.Tokens)
	}
	p := l.pool
	if estimated, actual = p.limits.Limited(estimated), p.limits.Limited(actual); estimated != actual {
		return p.settle(at, estimated, actual)
	}
	return nil
}

// Backoff empties the key's bucket for d, for all workers: the provider has
// said, by a status of 429, to come again after that. What other workers have
// leased already they still spend, as does this one what is on its way, and what
// anyone gives back later is there again. It takes an exchange with the store, or
// two if something is in hand.
func (l *Limiter) Backoff(ctx context.Context, d time.Duration) error {
	p := l.pool
	a := p.adjustment()
	a.Empty = d
	err := a.Check()
	if err == nil {
		err = p.backoff(ctx, d)
	}
	if err != nil {
		return fmt.Errorf("choked: back off %.64q: %w", p.key, err)
	}
	return nil
}

// Stats returns the counts of the key in this worker, for all its limiters.
func (l *Limiter) Stats() Stats {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Waiting, s.Leased = p.line.len, p.hand.left
	return s
}

// refusal is a wait that would be too long.
type refusal struct{ retryAfter time.Duration }

func (r *refusal) Error() string {
	return fmt.Sprintf("%v: try again in %v", ErrDeadline, r.retryAfter.Round(time.Millisecond))
}

func (r *refusal) Unwrap() []error { return []error{ErrDeadline, context.DeadlineExceeded} }
