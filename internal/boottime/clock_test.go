package boottime

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestClockFollowsTheTimeOfABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New()
		assert.Zero(t, c.Now(), "a new clock starts at zero")
		time.Sleep(36 * time.Hour)
		assert.Equal(t, int64(36*time.Hour), c.Now())
		then := c.Now()
		time.Sleep(time.Second)
		assert.Equal(t, time.Second, c.Since(then))
	})
}

// moved simulates that the wall clock was moved against the monotonic clock.
func moved(c *Clock, wall time.Duration) { c.wallAhead.Add(-int64(wall)) }

// sleeper returns a function that simulates a suspend of the machine.
func sleeper(c *Clock) (suspend func(time.Duration)) {
	var sleep time.Duration
	c.suspended = func() int64 { return c.sleepBefore + int64(sleep) }
	return func(d time.Duration) {
		sleep += d
		moved(c, d)
	}
}

func TestSuspendCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New()
		suspend := sleeper(c)
		time.Sleep(time.Second)

		suspend(time.Hour)
		assert.Equal(t, int64(time.Hour+time.Second), c.Now())
		time.Sleep(time.Second)
		assert.Equal(t, int64(time.Hour+2*time.Second), c.Now(), "and it continues from there")

		suspend(time.Minute)
		assert.Equal(t, int64(time.Hour+time.Minute+2*time.Second), c.Now())
	})
}

// At and Time convert exactly after a suspend. For a time before it they return the
// reading of that time or an earlier one.
func TestTimesAndReadings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New()
		suspend := sleeper(c)
		time.Sleep(time.Second)
		before, reading := time.Now(), c.Now()
		assert.Equal(t, reading, c.At(before))
		assert.Equal(t, reading, c.At(c.Time(reading)))

		suspend(time.Hour)
		time.Sleep(time.Second)
		assert.Equal(t, int64(time.Hour+2*time.Second), c.Now())
		time.Sleep(time.Second)
		assert.Equal(t, c.Now(), c.At(time.Now()))
		assert.Equal(t, c.Now(), c.At(c.Time(c.Now())))
		assert.LessOrEqual(t, c.At(before), reading)
		assert.LessOrEqual(t, c.At(c.Time(reading)), reading)
	})
}

// Setting the wall clock, as NTP and administrators do, does not change a reading.
func TestSettingTheWallClockDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New()
		calls := 0
		c.suspended = func() int64 { calls++; return c.sleepBefore }
		for _, step := range []time.Duration{time.Hour, -2 * time.Hour, 30 * time.Millisecond, -30 * time.Millisecond} {
			before := c.Now()
			moved(c, step)
			assert.Equal(t, before, c.Now(), "the wall clock is set by %v", step)
		}
		assert.Equal(t, 4, calls, "the system is asked once for each")
		moved(c, 500*time.Microsecond)
		c.Now()
		assert.Equal(t, 4, calls, "and never for a slew")
	})
}

func TestClockNeverRunsBackwards(t *testing.T) {
	c := New()
	var mu sync.Mutex
	var sleep int64
	c.suspended = func() int64 {
		mu.Lock()
		defer mu.Unlock()
		sleep += int64(time.Second)
		return c.sleepBefore + sleep
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			last := c.Now()
			for range 2000 {
				moved(c, time.Second) // suspended at each reading
				now := c.Now()
				if now < last {
					t.Errorf("%d after %d", now, last)
					return
				}
				last = now
			}
		})
	}
	wg.Wait()
}

func TestDistorted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		fast := Distorted(func(ns int64) int64 { return ns + ns/100 })
		slow := Distorted(func(ns int64) int64 { return ns - ns/100 })
		time.Sleep(100 * time.Second)
		assert.Equal(t, int64(101*time.Second), fast.Now())
		assert.Equal(t, int64(99*time.Second), slow.Now())
	})
}

func TestSuspendedIsConstantWhileAwake(t *testing.T) {
	for range 100 {
		assert.InDelta(t, suspended(), suspended(), float64(tolerance), "the machine is awake")
	}
}

// A process that is paused between the readings of two clocks takes the pause for no
// suspend, and reports a suspend in full.
func TestReadingTwoClocks(t *testing.T) {
	var now int64
	pause := int64(10 * time.Millisecond)
	a := func() (int64, error) { now += 50; return now, nil }
	b := func() (int64, error) {
		now += 50 + pause
		pause = 0
		return now + int64(time.Hour), nil
	}
	assert.InDelta(t, time.Hour, aheadOf(a, b), 100)
	broken := func() (int64, error) { return 7, errors.New("no such clock") }
	assert.Zero(t, aheadOf(a, broken))
}

func BenchmarkNow(b *testing.B) {
	c := New()
	b.ReportAllocs()
	for b.Loop() {
		c.Now()
	}
}
