package choked

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"reflect"
	"time"

	"github.com/choked/choked/bucket"
)

// Usage is implemented by replies that know the usage of their call, which replaces
// the estimate; see [Wrap].
type Usage interface {
	// Used returns the cost of the call as the provider counted it, and false if the
	// reply does not say. Requests of zero stand for those that were reserved.
	// Tokens of zero stand for the sum of Input and Output.
	Used() (actual Cost, ok bool)
}

// RetryAfter is implemented by errors with which a provider asks callers to wait,
// such as a status of 429 with Retry-After. See [Wrap].
type RetryAfter interface {
	error
	RetryAfter() time.Duration
}

// Wrap returns a function that does what call does, limited: it estimates the
// input, waits until l admits the call, makes it, and settles its cost by the reply
// if that, or a pointer to it, implements [Usage]. A call that fails has cost its
// estimate, for providers count failed calls too. If its error implements
// [RetryAfter], the key cools down for all workers, for at most an hour.
//
// The returned function may be called from any number of goroutines. Its errors
// are those of [Limiter.Estimate], [Limiter.Wait] and call, joined with that of
// [Limiter.Cooldown] if the store cannot be told. A usage that cannot be settled
// leaves the estimate charged; the caller gets its reply, and
// [LimiterConfig.OnError] the error. Where a unit besides requests is limited, an
// estimator or a reply type with Usage is required: without both the limit would count
// nothing, and each call is an error.
func Wrap[In, Out any](l *Limiter, call func(context.Context, In) (Out, error)) func(context.Context, In) (Out, error) {
	used, mayHave := usageOf[Out]()
	if u, ok := l.uncounted(); ok && !mayHave {
		err := l.error(fmt.Errorf("wrap: the limit on %v counts nothing: want an estimator, or a reply with usage instead of %v", u, reflect.TypeFor[Out]()))
		return func(context.Context, In) (none Out, _ error) { return none, err }
	}
	return WrapUsage(l, call, used)
}

// uncounted returns a unit besides requests that l limits, if l has no estimator of it.
func (l *Limiter) uncounted() (u Unit, ok bool) {
	if l == nil || l.pool == nil || l.estimator != nil {
		return 0, false
	}
	for u = bucket.Requests + 1; u < bucket.NumUnits; u++ {
		if len(l.Limits().Of(u)) > 0 {
			return u, true
		}
	}
	return 0, false
}

// usageOf returns how to read the usage of a reply, and whether a reply may have one.
// The type is examined once, so that a reply without Usage is not boxed at each call.
func usageOf[Out any]() (used func(Out) (Cost, bool), mayHave bool) {
	t := reflect.TypeFor[Out]()
	usage := reflect.TypeFor[Usage]()
	switch {
	case t.Kind() == reflect.Interface || t.Implements(usage):
		return func(out Out) (Cost, bool) {
			u, ok := any(out).(Usage)
			if !ok || isNil(u) {
				return Cost{}, false
			}
			return u.Used()
		}, true
	case reflect.PointerTo(t).Implements(usage):
		return func(out Out) (Cost, bool) { return any(&out).(Usage).Used() }, true
	}
	return func(Out) (Cost, bool) { return Cost{}, false }, false
}

// isNil reports whether x holds a nil pointer, whose method would panic.
func isNil(x any) bool {
	v := reflect.ValueOf(x)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// WrapUsage is [Wrap] for replies that do not implement [Usage]: used returns what
// Usage.Used would.
func WrapUsage[In, Out any](l *Limiter, call func(context.Context, In) (Out, error), used func(Out) (Cost, bool)) func(context.Context, In) (Out, error) {
	return func(ctx context.Context, in In) (Out, error) {
		var none Out
		cost := Cost{Requests: 1}
		if l == nil || l.estimator != nil { // else in is not boxed
			var err error
			if cost, err = l.Estimate(in); err != nil {
				return none, err
			}
		}
		admission, err := l.admit(ctx, &cost)
		if err != nil {
			return none, err
		}
		r := Reservation{limiter: l, cost: cost, admission: admission}
		out, err := call(ctx, in)
		if err != nil {
			if failed := l.heed(ctx, err); failed != nil {
				err = errors.Join(err, failed)
			}
			return out, err
		}
		if actual, ok := used(out); ok {
			actual.Requests = cmp.Or(actual.Requests, cost.Requests)
			if err := r.Settle(actual); err != nil && l.onError != nil {
				l.onError(err)
			}
		}
		return out, nil
	}
}

// heed cools the key down if the error of a call is a [RetryAfter]. The other workers
// need the cooldown, whether or not this caller still waits.
func (l *Limiter) heed(ctx context.Context, err error) error {
	var slow RetryAfter
	if !errors.As(err, &slow) || isNil(slow) || slow.RetryAfter() <= 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cooldownWithin)
	defer cancel()
	return l.Cooldown(ctx, min(slow.RetryAfter(), maxCooldown))
}

const (
	maxCooldown    = time.Hour       // longest that one reply stops all workers
	cooldownWithin = 2 * time.Second // how long to wait for the store
)
