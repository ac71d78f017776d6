package choked

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/pool"
)

// Reservation is an admitted call, whose cost is spent. It ends with the first call
// of Settle, Cancel or Done; later ones have no effect, so that
//
//	defer r.Done()
//
// is right beside any of the others. Safe for concurrent use. A nil or zero
// Reservation has no cost; its Settle is an error.
type Reservation struct {
	limiter   *Limiter
	cost      Cost
	admission pool.Admission
	ended     atomic.Bool
}

// Reserve is [Limiter.Wait] for a call that is settled afterwards: it waits until
// cost is spent and returns the receipt. Errors are those of Wait.
func (l *Limiter) Reserve(ctx context.Context, cost Cost) (*Reservation, error) {
	a, err := l.admit(ctx, &cost)
	if err != nil {
		return nil, err
	}
	return &Reservation{limiter: l, cost: cost, admission: a}, nil
}

// TryReserve is [Limiter.Allow] for a call that is settled afterwards. The
// Reservation is nil unless the Verdict is OK.
func (l *Limiter) TryReserve(ctx context.Context, cost Cost) (*Reservation, Verdict, error) {
	v, a, err := l.try(ctx, &cost)
	if err != nil || !v.OK {
		return nil, v, err
	}
	return &Reservation{limiter: l, cost: cost, admission: a}, v, nil
}

// Cost returns the reserved cost.
func (r *Reservation) Cost() Cost {
	if r == nil {
		return Cost{}
	}
	return r.cost
}

var errNoReservation = errors.New("choked: settle: no reservation: want one from Limiter.Reserve or Limiter.TryReserve")

// Settle corrects the reservation by the call's real usage, in every unit: a unit that
// actual omits was not used. It is charged as a cost is, see [Limiter.Wait]. Usage beyond
// the reservation is charged. An over-estimate is refunded: in full while the lease that
// covered the call is not settled, which is up to 200 ms after the lease is spent; later,
// up to the least amount that the bucket has lacked since the admission, not counting
// leases. More would overflow the bucket. Settle does not wait for the store.
//
// An error that wraps [ErrUsage] is returned for a usage that is negative, or that
// names tokens alone where input or output is limited: the reservation stays open and
// its cost spent. Usage that exceeds the reservation by more than
// [LimiterConfig.MaxOveruse] is charged that much, and such an error names both. After
// Close of the Choke it is too late: [ErrClosed].
func (r *Reservation) Settle(actual Cost) error {
	if r == nil || r.limiter == nil {
		return errNoReservation
	}
	l := r.limiter
	used, err := l.pool.Limits().Charge(actual)
	if actual.IsNegative() {
		err = actual.Check()
	}
	if err != nil {
		l.pool.CountInvalidUsage()
		return l.error(fmt.Errorf("settle: %w: usage of %v: %w", ErrUsage, actual, err))
	}
	if r.ended.Swap(true) {
		return nil
	}
	charged := l.bound(r.charged(), used)
	if o, ok := l.estimator.(interface{ Observe(estimated, actual Cost) }); ok && charged == used {
		o.Observe(r.cost, actual)
	}
	err = r.correct(charged)
	if charged != used {
		l.pool.CountInvalidUsage()
		err = errors.Join(err, fmt.Errorf("%w: usage of %v for a reservation of %v: charged %v, at most %d bursts beyond it",
			ErrUsage, actual, r.cost, charged, l.maxOveruse))
	}
	if err != nil {
		return l.error(fmt.Errorf("settle: %w", err))
	}
	return nil
}

// Cancel returns the whole cost: the call was not made. How much of it still
// counts is as in [Reservation.Settle]. After Close of the Choke it is too late.
func (r *Reservation) Cancel() {
	if r != nil && r.limiter != nil && !r.ended.Swap(true) {
		_ = r.correct(Cost{}) // too late: the leases are returned, or count as spent
	}
}

// Done ends the reservation: the call is over, and its cost stays spent.
func (r *Reservation) Done() {
	if r != nil {
		r.ended.Store(true)
	}
}

// charged returns what the call was charged, by the limits under which it was admitted.
func (r *Reservation) charged() (c Cost) {
	r.limiter.pool.Charge(&c, &r.cost) // it was admitted, so it can be
	return c
}

// correct changes the charge to actual.
func (r *Reservation) correct(actual Cost) error {
	reserved := r.charged()
	if reserved == actual {
		return nil
	}
	return r.limiter.pool.Settle(r.admission, reserved.Sub(actual).Max(Cost{}), actual.Sub(reserved).Max(Cost{}))
}

// bound returns actual, or less in a unit that exceeds reserved by more than
// maxOveruse bursts.
func (l *Limiter) bound(reserved, actual Cost) Cost {
	burst := l.pool.Burst()
	for u := range bucket.NumUnits {
		most := int64(bucket.MaxUnits)
		if l.maxOveruse <= (most-reserved.Of(u))/burst.Of(u) {
			most = reserved.Of(u) + l.maxOveruse*burst.Of(u)
		}
		actual = actual.With(u, min(actual.Of(u), most))
	}
	return actual
}
