// Package boottime reads a clock that runs at the pace of real time, never
// steps, and goes on while the machine is suspended: CLOCK_BOOTTIME where there
// is one. Whether a lease is still valid can be asked of no other clock.
package boottime

import (
	"sync/atomic"
	"time"
)

// Clock counts nanoseconds since it was made. Reading it costs one reading of
// package time's clock, so it follows the fake time of a testing/synctest
// bubble. Safe for concurrent use.
type Clock struct {
	start time.Time
	rate  func(int64) int64 // nil, or a distortion for tests

	// A suspend stops the monotonic clock and not the wall clock, so the two
	// drift apart; then, and only then, the system is asked for how long it was.
	apart atomic.Int64 // wall minus monotonic time since start, when last looked at
	slept atomic.Int64 // suspended since start
	awoke atomic.Int64 // monotonic time since start when that was found to have grown
	base  int64        // suspended before start

	suspended func() int64 // how long the machine has been suspended since it booted
}

// New returns a clock that starts at zero.
func New() *Clock {
	return &Clock{start: time.Now(), base: suspended(), suspended: suspended}
}

// Distorted returns a clock whose reading is f of the true one, for tests of
// what drifting clocks do.
func Distorted(f func(ns int64) int64) *Clock {
	c := New()
	c.rate = f
	return c
}

// step is how far wall and monotonic time may drift apart unnoticed. Nothing
// that matters happens in so short a suspend.
const step = int64(time.Millisecond)

// Now returns the nanoseconds since c was made.
func (c *Clock) Now() int64 {
	t := time.Now()
	mono := int64(t.Sub(c.start))
	wall := t.UnixNano() - c.start.UnixNano()
	if d := wall - mono - c.apart.Load(); d > step || d < -step {
		c.sleptAtLeast(c.suspended()-c.base, mono)
		c.apart.Store(wall - mono)
	}
	now := mono + c.slept.Load()
	if c.rate != nil {
		now = c.rate(now)
	}
	return now
}

// At returns a reading of c that was not later than t: the one at t, unless the
// machine has been suspended since. What [time.Now] has returned is to be given: a
// time without a monotonic reading changes as the wall clock is set.
func (c *Clock) At(t time.Time) int64 {
	slept := c.slept.Load() // before awoke, which grows first
	at := max(int64(t.Sub(c.start)), 0)
	if at >= c.awoke.Load() {
		at += slept
	}
	if c.rate != nil {
		at = c.rate(at)
	}
	return at
}

// Time returns the time at which c read at, or an earlier one if the machine has
// been suspended since: what At makes at of.
func (c *Clock) Time(at int64) time.Time {
	if c.rate != nil {
		return time.Now().Add(-c.Since(at))
	}
	return c.start.Add(time.Duration(at - c.slept.Load()))
}

// sleptAtLeast keeps the latest of what callers at the same time have found:
// the clock must not run back for any of them.
func (c *Clock) sleptAtLeast(ns, mono int64) {
	if ns > c.slept.Load() {
		grow(&c.awoke, mono)
		grow(&c.slept, ns)
	}
}

func grow(x *atomic.Int64, to int64) {
	for old := x.Load(); to > old && !x.CompareAndSwap(old, to); {
		old = x.Load()
	}
}

// between is the time by which clock b is ahead of clock a. They are read one
// after the other, again if something came in between.
func between(a, b func() (int64, error)) int64 {
	var ahead int64
	for range 10 {
		a1, err1 := a()
		b1, err2 := b()
		a2, err3 := a()
		if err1 != nil || err2 != nil || err3 != nil {
			return 0
		}
		ahead = max(b1-a2, 0)
		if a2-a1 < step/10 {
			break
		}
	}
	return ahead
}

// Since returns the time from the instant start, as [Clock.Now] gave it.
func (c *Clock) Since(start int64) time.Duration { return time.Duration(c.Now() - start) }
