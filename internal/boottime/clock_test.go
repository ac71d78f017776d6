package boottime

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestFollowsTheTimeOfABubble(t *testing.T) {
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

// In these tests the wall clock moves against the monotonic one: apart is how
// far, and asleep is what the system says of it.
func moved(c *Clock, wall time.Duration) { c.apart.Add(-int64(wall)) }

// sleeper returns a function that has the machine suspended for so long.
func sleeper(c *Clock) (suspend func(time.Duration)) {
	var asleep time.Duration
	c.suspended = func() int64 { return c.base + int64(asleep) }
	return func(d time.Duration) {
		asleep += d
		moved(c, d)
	}
}

func TestASuspendCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New()
		suspend := sleeper(c)
		time.Sleep(time.Second)

		suspend(time.Hour)
		assert.Equal(t, int64(time.Hour+time.Second), c.Now())
		time.Sleep(time.Second)
		assert.Equal(t, int64(time.Hour+2*time.Second), c.Now(), "and it goes on from there")

		suspend(time.Minute)
		assert.Equal(t, int64(time.Hour+time.Minute+2*time.Second), c.Now())
	})
}

// A time is what the clock read then, also after a suspend; before one, no more.
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

// NTP and administrators set the wall clock. No time has passed by that.
func TestASetWallClockDoesNotCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New()
		looked := 0
		c.suspended = func() int64 { looked++; return c.base }
		for _, step := range []time.Duration{time.Hour, -2 * time.Hour, 30 * time.Millisecond, -30 * time.Millisecond} {
			before := c.Now()
			moved(c, step)
			assert.Equal(t, before, c.Now(), "the wall clock is set by %v", step)
		}
		assert.Equal(t, 4, looked, "the system is asked once for each")
		moved(c, 500*time.Microsecond)
		c.Now()
		assert.Equal(t, 4, looked, "and never for a slew")
	})
}

func TestNeverRunsBackwards(t *testing.T) {
	c := New()
	var mu sync.Mutex
	var asleep int64
	c.suspended = func() int64 {
		mu.Lock()
		defer mu.Unlock()
		asleep += int64(time.Second)
		return c.base + asleep
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			last := c.Now()
			for range 2000 {
				moved(c, time.Second) // suspended over and over, under everyone's eyes
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

func TestTheSystemCanBeAsked(t *testing.T) {
	for range 100 {
		assert.InDelta(t, suspended(), suspended(), float64(step), "the machine is awake")
	}
}

// Whoever reads two clocks may be put aside in between, and must not take that
// for a suspend, nor a suspend for shorter than it was.
func TestReadingTwoClocks(t *testing.T) {
	var now int64
	pause := int64(10 * time.Millisecond)
	a := func() (int64, error) { now += 50; return now, nil }
	b := func() (int64, error) {
		now += 50 + pause
		pause = 0
		return now + int64(time.Hour), nil
	}
	assert.InDelta(t, time.Hour, between(a, b), 100)
	broken := func() (int64, error) { return 7, errors.New("no such clock") }
	assert.Zero(t, between(a, broken))
}

func BenchmarkNow(b *testing.B) {
	c := New()
	b.ReportAllocs()
	for b.Loop() {
		c.Now()
	}
}
