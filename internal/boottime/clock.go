// Package boottime reads a clock that runs at the rate of real time, never steps, and
// counts the time while the machine is suspended, as CLOCK_BOOTTIME does. The validity
// of a lease is measured by such a clock only.
package boottime

import (
	"sync/atomic"
	"time"
)

// Clock counts nanoseconds since it was made. It reads the clock of package time, so
// it follows the fake time of a testing/synctest bubble. Safe for concurrent use.
type Clock struct {
	start time.Time
	rate  func(int64) int64 // distorts readings, for tests; nil: exact

	// A suspend stops the monotonic clock and not the wall clock. When their
	// difference changes, and only then, Now asks the system how long the machine
	// was suspended.
	wallAhead   atomic.Int64 // wall minus monotonic time since start, at the latest change
	sleep       atomic.Int64 // nanoseconds suspended since start
	resumed     atomic.Int64 // monotonic time since start when the latest suspend was found
	sleepBefore int64        // nanoseconds suspended before start

	suspended func() int64 // nanoseconds that the machine has been suspended since it booted
}

// New returns a clock that starts at zero.
func New() *Clock {
	return &Clock{start: time.Now(), sleepBefore: suspended(), suspended: suspended}
}

// Distorted returns a clock that reads f of the exact reading, for tests with clocks
// that drift.
func Distorted(f func(ns int64) int64) *Clock {
	c := New()
	c.rate = f
	return c
}

// tolerance is the largest change between wall and monotonic time that Now ignores. A
// suspend that short does not matter to a lease.
const tolerance = int64(time.Millisecond)

// Now returns the nanoseconds since c was made.
func (c *Clock) Now() int64 {
	t := time.Now()
	mono := int64(t.Sub(c.start))
	wall := t.UnixNano() - c.start.UnixNano()
	if d := wall - mono - c.wallAhead.Load(); d > tolerance || d < -tolerance {
		c.noteSleep(c.suspended()-c.sleepBefore, mono)
		c.wallAhead.Store(wall - mono)
	}
	now := mono + c.sleep.Load()
	if c.rate != nil {
		now = c.rate(now)
	}
	return now
}

// At returns the reading of c at t, or an earlier reading if the machine has been
// suspended since t. t must be a result of [time.Now]: a time without a monotonic
// reading changes when the wall clock is set.
func (c *Clock) At(t time.Time) int64 {
	sleep := c.sleep.Load() // before awoke, which grows first
	at := max(int64(t.Sub(c.start)), 0)
	if at >= c.resumed.Load() {
		at += sleep
	}
	if c.rate != nil {
		at = c.rate(at)
	}
	return at
}

// Time returns the time at which c read at, or an earlier one if the machine has been
// suspended since. It is the inverse of At.
func (c *Clock) Time(at int64) time.Time {
	if c.rate != nil {
		return time.Now().Add(-c.Since(at))
	}
	return c.start.Add(time.Duration(at - c.sleep.Load()))
}

// noteSleep records that the machine was suspended for ns nanoseconds. Of concurrent
// calls the largest ns counts, so that the clock runs backwards for no caller.
func (c *Clock) noteSleep(ns, mono int64) {
	if ns > c.sleep.Load() {
		grow(&c.resumed, mono)
		grow(&c.sleep, ns)
	}
}

func grow(x *atomic.Int64, to int64) {
	for old := x.Load(); to > old && !x.CompareAndSwap(old, to); {
		old = x.Load()
	}
}

// aheadOf returns by how much clock b is ahead of clock a, in nanoseconds. It reads one
// after the other, and again if the process was paused in between.
func aheadOf(a, b func() (int64, error)) int64 {
	var ahead int64
	for range 10 {
		a1, err1 := a()
		b1, err2 := b()
		a2, err3 := a()
		if err1 != nil || err2 != nil || err3 != nil {
			return 0
		}
		ahead = max(b1-a2, 0)
		if a2-a1 < tolerance/10 {
			break
		}
	}
	return ahead
}

// Since returns the time since start, a reading of [Clock.Now].
func (c *Clock) Since(start int64) time.Duration { return time.Duration(c.Now() - start) }
