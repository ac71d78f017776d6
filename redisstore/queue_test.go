package redisstore

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// newQueue returns an empty bucket of "100/s burst 10" and n waiters that need one
// unit each: holders 10 and up, in this order, 0.1 ms apart.
func newQueue(t *testing.T, n int) (s *scene, waits []time.Duration) {
	s = newScene(t, "100/s burst 10")
	require.True(t, s.ask(1, 10, 0).OK)
	s.settle(1, 10)
	for i := range n {
		s.at(time.Duration(i) * 100 * time.Microsecond)
		r := s.ask(uint64(10+i), 1, time.Minute)
		if r.OK { // promised within the horizon
			s.settle(uint64(10+i), 1)
		}
		waits = append(waits, r.wait)
	}
	return s, waits
}

func (s *scene) queue() []string {
	q, err := s.client.HGet(s.Context(), "k", "q").Result()
	require.NoError(s, err)
	return strings.Split(q, "\n")[1:]
}

// A waiter beyond the full queue gets a slot of its own, too, after the slots of all
// that arrived before.
func TestQueueIsBounded(t *testing.T) {
	s, waits := newQueue(t, 400)
	require.Len(t, s.queue(), queueCap)
	due := make([]time.Duration, len(waits))
	for i, d := range waits {
		due[i] = time.Duration(i)*100*time.Microsecond + d
	}
	for i := 100; i < len(due)-1; i++ {
		require.InDelta(t, 10*time.Millisecond, due[i+1]-due[i], 1e6, "holder %d", i)
	}
	s.at(200 * time.Millisecond)
	require.False(t, s.ask(9, 1, 0).OK, "an ask that does not wait")
	r := s.ask(8, 1, time.Second)
	require.False(t, r.OK)
	require.Zero(t, r.wait, "its slot is after its MaxWait: refused at once")
	require.Greater(t, r.RetryAfter, 3*time.Second)
}

// probe returns when a Store asks again that was told at now to wait for d.
func probe(now, d time.Duration) time.Duration {
	return now + min(d, max(d/2, probeEvery)) + 300*time.Microsecond
}

// serve has each waiter of next ask at its time, and again until it is served. It
// returns the waiters in the order in which they were served, the times, and the
// number of calls.
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
			next[first] = probe(now, r.wait)
		}
	}
	return served, when, calls
}

// All waiters are served at the limit's rate. Only the few that probe while another
// one's call is under way may overtake it.
func TestWaitersBeyondTheQueueAreServedInOrder(t *testing.T) {
	s, waits := newQueue(t, 300)
	next := make(map[int]time.Duration)
	for i, d := range waits {
		if d > 0 {
			next[i] = probe(time.Duration(i)*100*time.Microsecond, d)
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

// The slots of waiters that leave are free for later ones.
func TestWaitersBeyondTheQueueLeaveNoGap(t *testing.T) {
	s, waits := newQueue(t, 300)
	last := waits[299]
	require.Greater(t, s.ask(1000, 1, time.Minute).wait, last)
	s.leave(1000, 1)
	for i := 200; i < 300; i++ {
		s.leave(uint64(10+i), 1)
	}
	r := s.ask(1001, 1, time.Minute)
	require.InDelta(t, last-time.Second, r.wait, 20e6)
	s.leave(1001, 1)

	// The waiters that stay do not wait longer than the refill takes.
	for i := range 150 {
		s.leave(uint64(10+i), 1)
	}
	s.at(500 * time.Millisecond)
	require.True(t, s.ask(10+199, 1, time.Minute).OK, "it probes early, and is first")
}

// The slots of killed waiters beyond the queue delay later asks only until the
// entries of the queue have lapsed and the bucket is full.
func TestKilledWaitersBeyondTheQueueAreSkipped(t *testing.T) {
	s, _ := newQueue(t, 400)
	s.at(2500 * time.Millisecond)
	require.True(t, s.ask(9, 1, 0).OK, "an ask that does not wait")
	require.True(t, s.ask(8, 1, time.Second).OK, "one that would not wait for their slots")
	s.settle(9, 1)
	s.settle(8, 1)
	for holder := uint64(5); holder < 8; holder++ { // a quarter of a second is promised
		require.True(t, s.ask(holder, 10, 0).OK)
		s.settle(holder, 10)
	}
	require.Equal(t, 70*time.Millisecond, s.ask(4, 10, time.Minute).wait, "10 + 25 + 7 units are 42")
}

// Among killed waiters, the live ones are served by the slot that they were told, in
// their order, whatever asks have arrived meanwhile.
func TestLiveWaitersBeyondTheQueueKeepTheirSlots(t *testing.T) {
	s, waits := newQueue(t, 400)
	slot, next := make(map[int]time.Duration), make(map[int]time.Duration)
	for i := 300; i < 320; i++ {
		came := time.Duration(i) * 100 * time.Microsecond
		slot[i], next[i] = came+waits[i], probe(came, waits[i])
	}
	for i := range 200 { // after the entries of the queue have lapsed
		next[1000+i] = 1850*time.Millisecond + time.Duration(i)*100*time.Microsecond
	}
	served, when, _ := s.serve(next)
	require.Equal(t, 1000, served[0], "the bucket is full, and none of the waiters probes")
	var live []int
	for _, i := range served {
		if i < 1000 {
			live = append(live, i)
			require.LessOrEqual(t, when[i], slot[i], "holder %d", i)
		}
	}
	require.True(t, slices.IsSorted(live), "%v", live)
}
