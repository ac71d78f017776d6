package redisstore

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const places = 128 // PLACES of store.lua

// crowd is a bucket of ten, 100 a second, without a unit in it, and n who wait
// for one each: holders 10 and up, in this order, a tenth of a millisecond apart.
func crowd(t *testing.T, n int) (s *scene, waits []time.Duration) {
	s = newScene(t, "100/s burst 10")
	require.True(t, s.ask(1, 10, 0).OK)
	s.settle(1, 10)
	for i := range n {
		s.at(time.Duration(i) * 100 * time.Microsecond)
		r := s.ask(uint64(10+i), 1, time.Minute)
		if r.OK { // promised, within the horizon
			s.settle(uint64(10+i), 1)
		}
		waits = append(waits, r.wait)
	}
	return s, waits
}

func (s *scene) line() []string {
	q, err := s.client.HGet(s.Context(), "k", "q").Result()
	require.NoError(s, err)
	return strings.Split(q, "\n")[1:]
}

// Who waits beyond the last place comes at a time of its own, too, and after
// all who came before.
func TestALongLineIsBounded(t *testing.T) {
	s, waits := crowd(t, 400)
	require.Len(t, s.line(), places)
	due := make([]time.Duration, len(waits))
	for i, d := range waits {
		due[i] = time.Duration(i)*100*time.Microsecond + d
	}
	for i := 100; i < len(due)-1; i++ {
		require.InDelta(t, 10*time.Millisecond, due[i+1]-due[i], 1e6, "holder %d", i)
	}
	s.at(200 * time.Millisecond)
	require.False(t, s.ask(9, 1, 0).OK, "who does not wait")
	r := s.ask(8, 1, time.Second)
	require.False(t, r.OK)
	require.Zero(t, r.wait, "its turn comes after its patience: it is refused at once")
	require.Greater(t, r.RetryAfter, 3*time.Second)
}

// All are served, at the limit's rate, and nobody is overtaken but by the few who
// look early just while one is on its way.
func TestThoseBeyondTheLineAreServedInTurn(t *testing.T) {
	s, waits := crowd(t, 300)
	next := make(map[int]time.Duration) // when each comes again, as a Store does
	again := func(i int, now, d time.Duration) { next[i] = now + min(d, max(d/2, lookAgain)) + 300*time.Microsecond }
	for i, d := range waits {
		if d > 0 {
			again(i, time.Duration(i)*100*time.Microsecond, d)
		}
	}
	var served []int
	var now time.Duration
	calls, waiting := 0, len(next)
	for len(next) > 0 {
		first := -1
		for i, at := range next {
			if first < 0 || at < next[first] {
				first = i
			}
		}
		now = next[first]
		s.at(now)
		calls++
		if r := s.ask(uint64(10+first), 1, time.Minute); r.OK {
			s.settle(uint64(10+first), 1)
			served = append(served, first)
			delete(next, first)
		} else {
			require.Positive(t, r.wait)
			again(first, now, r.wait)
		}
	}
	require.Less(t, now, 3*time.Second, "300 at 100/s")
	require.Less(t, calls, 5*waiting)
	for at, i := range served {
		require.Less(t, slices.Min(served)+at, i+10, "number %d is served as number %d", i, at)
	}
}

// The time of those who leave is free for those who come.
func TestThoseBeyondTheLineLeaveNoGap(t *testing.T) {
	s, waits := crowd(t, 300)
	last := waits[299]
	require.Greater(t, s.ask(1000, 1, time.Minute).wait, last)
	s.leave(1000, 1)
	for i := 200; i < 300; i++ {
		s.leave(uint64(10+i), 1)
	}
	r := s.ask(1001, 1, time.Minute)
	require.InDelta(t, last-time.Second, r.wait, 20e6)
	s.leave(1001, 1)

	// Those who stay do not wait longer than it takes.
	for i := range 150 {
		s.leave(uint64(10+i), 1)
	}
	s.at(500 * time.Millisecond)
	require.True(t, s.ask(10+199, 1, time.Minute).OK, "it looks early, and nobody is before it")
}
