package choked

import (
	"context"
	"errors"
	"time"
)

// Usage is implemented by replies that know what the call has used. A reply's
// tokens take the place of the estimate; see [Wrap].
type Usage interface {
	// TokensUsed returns the tokens that the provider counted for the call,
	// and false if it said nothing of them.
	TokensUsed() (tokens int64, ok bool)
}

// RetryAfter is implemented by errors that carry the provider's demand to wait,
// such as a status of 429 with Retry-After. See [Wrap].
type RetryAfter interface {
	error
	RetryAfter() time.Duration
}

// Wrap returns a function that does what call does, limited: its input is
// estimated, it waits its turn at l, and what it was estimated to cost is
// settled when the reply, or a pointer to it, implements [Usage]. A call that
// fails has cost its estimate, for providers count failed calls too; if its
// error implements [RetryAfter], the key backs off for all workers.
//
// The returned function may be called from any number of goroutines. Its errors
// are those of [Limiter.Estimate], [Limiter.Wait] and call, joined with that of
// [Limiter.Backoff] if the store does not hear of it.
func Wrap[In, Out any](l *Limiter, call func(context.Context, In) (Out, error)) func(context.Context, In) (Out, error) {
	return WrapUsage(l, call, func(out Out) (int64, bool) {
		if u, ok := any(out).(Usage); ok {
			return u.TokensUsed()
		}
		if u, ok := any(&out).(Usage); ok {
			return u.TokensUsed()
		}
		return 0, false
	})
}

// WrapUsage is [Wrap] for replies that do not implement [Usage]: used returns
// the tokens that the provider counted, and false if it said nothing of them.
func WrapUsage[In, Out any](l *Limiter, call func(context.Context, In) (Out, error), used func(Out) (int64, bool)) func(context.Context, In) (Out, error) {
	return func(ctx context.Context, in In) (Out, error) {
		var none Out
		cost, err := l.Estimate(in)
		if err != nil {
			return none, err
		}
		spent, err := l.admit(ctx, cost)
		if err != nil {
			return none, err
		}
		out, err := call(ctx, in)
		var slow RetryAfter
		switch {
		case err == nil:
			if tokens, ok := used(out); ok {
				// A usage that cannot be leaves the estimate spent. The caller
				// has its reply all the same.
				_ = l.settle(spent, cost, Cost{Requests: cost.Requests, Tokens: tokens})
			}
		case errors.As(err, &slow) && slow.RetryAfter() > 0:
			// The others have to hear of it, whether or not this caller still waits.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), backoffWithin)
			if failed := l.Backoff(ctx, min(slow.RetryAfter(), maxBackoff)); failed != nil {
				err = errors.Join(err, failed)
			}
			cancel()
		}
		return out, err
	}
}

const (
	maxBackoff    = time.Hour       // what one reply can keep all workers waiting for
	backoffWithin = 2 * time.Second // the store is to be told of it
)
