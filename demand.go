package choked

import (
	"math"
	"time"
)

const (
	// hold is for how long a lease should last at the present demand: long
	// enough that most takes need no exchange, short enough that little quota
	// lies idle with a worker.
	hold = 100 * time.Millisecond

	// ahead is how many round trips before the end of what is in hand more is
	// asked for.
	ahead = 2.5
)

// demand is a short moving average of what one key's callers take.
type demand struct {
	calls, requests, tokens float64 // a nanosecond
	called                  int64   // calls since then
	taken                   Cost    // by them
	then                    int64
	trip                    float64 // nanoseconds of an exchange with the store
}

// take counts a call.
func (d *demand) take(c Cost) { d.called, d.taken = d.called+1, d.taken.Add(c) }

// observe brings the average up to now.
func (d *demand) observe(now int64) {
	dt := float64(now - d.then)
	if dt < float64(hold/10) { // too short to tell a rate
		return
	}
	weight := 1 - math.Exp(-dt/float64(hold))
	d.calls += weight * (float64(d.called)/dt - d.calls)
	d.requests += weight * (float64(d.taken.Requests)/dt - d.requests)
	d.tokens += weight * (float64(d.taken.Tokens)/dt - d.tokens)
	d.called, d.taken, d.then = 0, Cost{}, now
}

// tripped notes that an exchange that did not wait took so long.
func (d *demand) tripped(took time.Duration) {
	if d.trip == 0 {
		d.trip = float64(took)
	}
	d.trip += (float64(took) - d.trip) / 8
}

// over is what is taken in the time t, rounded down. Of calls so rare that a
// lease would see no second one it is nothing, however much each takes.
func (d *demand) over(t float64) Cost {
	if d.calls*float64(hold) < 1 {
		return Cost{}
	}
	return Cost{Requests: int64(d.requests * t), Tokens: int64(d.tokens * t)}
}

// lease is how much to have in hand: none when demand is so low that it would
// mostly lie idle.
func (d *demand) lease() Cost { return d.over(float64(hold)) }

// low is how little in hand means that it is time to ask for more.
func (d *demand) low() Cost {
	c := d.over(min(ahead*d.trip, float64(hold)/2))
	if l := d.lease(); l.Requests > 0 || l.Tokens > 0 {
		c = c.Max(l.Min(Cost{Requests: 1, Tokens: 1}))
	}
	return c
}
