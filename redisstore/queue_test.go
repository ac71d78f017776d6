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

// look has one come again as a Store does that was told at now to wait for d.
func look(now, d time.Duration) time.Duration {
	return now + min(d, max(d/2, lookAgain)) + 300*time.Microsecond
}

// serve lets those in next come, each at its time, and again until it is served.
// It returns who was served, in this order, and when, and how many calls it took.
func (s *scene) serve(next map[int]time.Duration) (served []int, when map[int]time.Duration, calls int) {
	when = make(map[int]time.Duration)
	for ; len(next) > 0; calls++ {
		first := -1
		for i, at := range next {
			if first < 0 || at < next[first] {
				first = i
			}
		}
		now := next[first]
		s.at(now)
		if r := s.ask(uint64(10+first), 1, time.Minute); r.OK {
			s.settle(uint64(10+first), 1)
			served, when[first] = append(served, first), now
			delete(next, first)
		} else {
			require.Positive(s, r.wait)
			next[first] = look(now, r.wait)
		}
	}
	return served, when, calls
}

// All are served, at the limit's rate, and nobody is overtaken but by the few who
// look early just while one is on its way.
func TestThoseBeyondTheLineAreServedInTurn(t *testing.T) {
	s, waits := crowd(t, 300)
	next := make(map[int]time.Duration)
	for i, d := range waits {
		if d > 0 {
			next[i] = look(time.Duration(i)*100*time.Microsecond, d)
		}
	}
	waiting := len(next)
	served, when, calls := s.serve(next)
	require.Less(t, when[served[waiting-1]], 3*time.Second, "300 at 100/s")
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

// The turns of those beyond the line who were killed hold nobody up once the
// places before them have lapsed, and the bucket is full.
func TestTheDeadBeyondTheLineArePassedOver(t *testing.T) {
	s, _ := crowd(t, 400)
	s.at(2500 * time.Millisecond)
	require.True(t, s.ask(9, 1, 0).OK, "who does not wait")
	require.True(t, s.ask(8, 1, time.Second).OK, "who would not wait until they have had their turns")
	s.settle(9, 1)
	s.settle(8, 1)
	for holder := uint64(5); holder < 8; holder++ { // a quarter of a second is promised
		require.True(t, s.ask(holder, 10, 0).OK)
		s.settle(holder, 10)
	}
	require.Equal(t, 70*time.Millisecond, s.ask(4, 10, time.Minute).wait, "10 + 25 + 7 units are 42")
}

// Those who are alive among the dead are served by the turn that they were told,
// and in their order, whoever has come meanwhile.
func TestTheLivingBeyondTheLineKeepTheirTurns(t *testing.T) {
	s, waits := crowd(t, 400)
	turn, next := make(map[int]time.Duration), make(map[int]time.Duration)
	for i := 300; i < 320; i++ {
		came := time.Duration(i) * 100 * time.Microsecond
		turn[i], next[i] = came+waits[i], look(came, waits[i])
	}
	for i := range 200 { // once the places have lapsed
		next[1000+i] = 1850*time.Millisecond + time.Duration(i)*100*time.Microsecond
	}
	served, when, _ := s.serve(next)
	require.Equal(t, 1000, served[0], "the bucket is full, and nobody looks")
	var living []int
	for _, i := range served {
		if i < 1000 {
			living = append(living, i)
			require.LessOrEqual(t, when[i], turn[i], "holder %d", i)
		}
	}
	require.True(t, slices.IsSorted(living), "%v", living)
}
