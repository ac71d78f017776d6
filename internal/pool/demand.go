package pool

import (
	"math"
	"time"

	"github.com/choked/choked/bucket"
)

const (
	// hold is how long a lease should last at the present demand: long enough that
	// most takes need no exchange, short enough that little quota lies idle with one
	// worker.
	hold = 100 * time.Millisecond

	// ahead is how many round trips before the leases run out more is asked for.
	ahead = 2.5
)

// demand is a short moving average of the calls for one key. The zero value has seen
// no calls.
type demand struct {
	callRate  float64                  // per nanosecond, smoothed
	unitRates [bucket.NumUnits]float64 // the same, of the units of these calls

	updated int64       // instant of the last update
	calls   int64       // admitted until then
	spent   bucket.Cost // by those calls

	roundTrip float64 // nanoseconds of an exchange that did not wait for quota, smoothed
}

// update brings the averages up to now, given how many calls have been admitted and
// what they have spent.
func (d *demand) update(now, calls int64, spent bucket.Cost) {
	dt := float64(now - d.updated)
	if dt < float64(hold/10) { // too short to tell a rate
		return
	}
	weight := 1 - math.Exp(-dt/float64(hold))
	d.callRate += weight * (float64(max(calls-d.calls, 0))/dt - d.callRate) // less than before if callers have gone
	taken := spent.Sub(d.spent).Max(bucket.Cost{})
	for u := range bucket.NumUnits {
		d.unitRates[u] += weight * (float64(taken.Of(u))/dt - d.unitRates[u])
	}
	d.updated, d.calls, d.spent = now, calls, spent
}

// observeRoundTrip counts an exchange that did not wait for quota.
func (d *demand) observeRoundTrip(took time.Duration) {
	if d.roundTrip == 0 {
		d.roundTrip = float64(took)
	}
	d.roundTrip += (float64(took) - d.roundTrip) / 8
}

// over returns the demand of ns nanoseconds, rounded down. It is zero when
// fewer than one call is expected in the life of a lease.
func (d *demand) over(ns float64) (c bucket.Cost) {
	if d.callRate*float64(hold) < 1 {
		return c
	}
	for u := range bucket.NumUnits {
		c = c.With(u, int64(d.unitRates[u]*ns))
	}
	return c
}

// lease returns how much to hold. It is zero when demand is so low that a lease
// would mostly lie idle.
func (d *demand) lease() bucket.Cost { return d.over(float64(hold)) }

// lowWater returns the amount held below which more is asked for.
func (d *demand) lowWater() bucket.Cost {
	c := d.over(min(ahead*d.roundTrip, float64(hold)/2))
	return c.Max(d.lease().Min(bucket.Each(1)))
}
