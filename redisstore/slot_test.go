package redisstore

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
)

// scene is the script on a server whose clock the test sets. Each holder has one ask
// and remembers its slot.
type scene struct {
	*testing.T
	mini   *miniredis.Miniredis
	client *redis.Client
	limits bucket.Limits
	slots  map[uint64]int64
}

func newScene(t *testing.T, requests string) *scene {
	limits, err := bucket.ParseLimits("requests " + requests)
	require.NoError(t, err)
	s := &scene{T: t, mini: miniredis.RunT(t), limits: limits, slots: make(map[uint64]int64)}
	s.client = redis.NewClient(&redis.Options{Addr: s.mini.Addr()})
	t.Cleanup(func() { s.client.Close() })
	s.at(0)
	return s
}

// at sets the clock to d after the beginning.
func (s *scene) at(d time.Duration) {
	s.mini.SetTime(time.Unix(1_800_000_000, 0).Add(d))
}

func (s *scene) run(w words) string {
	s.Helper()
	answer, err := script.Run(context.Background(), s.client, []string{"k"}, w...).Text()
	require.NoError(s, err)
	return answer
}

func (s *scene) asking(holder uint64, need int64) *bucket.Ask {
	n := bucket.Cost{Requests: need}
	return &bucket.Ask{ID: bucket.LeaseID{Holder: holder, Seq: 1}, Limits: s.limits, Need: n, Want: n}
}

func (s *scene) ask(holder uint64, need int64, maxWait time.Duration) reply {
	s.Helper()
	return s.askFor(holder, need, need, maxWait)
}

func (s *scene) askFor(holder uint64, need, want int64, maxWait time.Duration) reply {
	s.Helper()
	a := s.asking(holder, need)
	a.Want.Requests = want
	r, err := parse(s.run(askWords(a, nil, maxWait, s.slots[holder], tick)), tick)
	require.NoError(s, err)
	s.slots[holder] = r.slot
	return r
}

func (s *scene) leave(holder uint64, need int64) {
	s.run(leaveWords(s.asking(holder, need), s.slots[holder]))
}

func (s *scene) settle(holder uint64, spent int64) string {
	return s.run(settleWords([]bucket.Settlement{{ID: bucket.LeaseID{Holder: holder, Seq: 1}, Spent: bucket.Cost{Requests: spent}}}))
}

// drained returns an empty bucket of "10/s".
func drained(t *testing.T) *scene {
	s := newScene(t, "10/s")
	require.True(t, s.ask(1, 10, 0).OK)
	s.settle(1, 10)
	return s
}

// Each waiter has a slot of its own, in order of arrival, and is served when it asks
// again then.
func TestSlotsAreDistinct(t *testing.T) {
	s := drained(t)
	for i := range uint64(2) { // the horizon of 250 ms promises 2 units
		require.True(t, s.ask(10+i, 1, time.Minute).OK)
	}
	var due []time.Duration
	for i := range uint64(8) {
		r := s.ask(20+i, 1, time.Minute)
		require.False(t, r.OK)
		due = append(due, r.wait)
	}
	for i := range due[1:] {
		require.Equal(t, 100*time.Millisecond, due[i+1]-due[i])
	}
	for i, d := range due {
		s.at(d)
		require.True(t, s.ask(20+uint64(i), 1, time.Minute).OK, "waiter %d, at %v", i, d)
	}
}

func TestPromiseNeedsOneCall(t *testing.T) {
	s := drained(t)
	r := s.ask(2, 2, time.Minute)
	require.True(t, r.OK)
	require.Equal(t, 200*time.Millisecond, r.Drips[0].Ready)
}

// An ask does not get all available quota while others hold leases or wait.
func TestRoomIsSharedAmongHolders(t *testing.T) {
	s := newScene(t, "100/s")
	require.EqualValues(t, 60, s.askFor(1, 1, 60, 0).Granted.Requests, "alone")
	require.EqualValues(t, 20, s.askFor(2, 1, 100, 0).Granted.Requests, "half of 40, since another holds a lease")
}

func TestQueueIsNotOvertaken(t *testing.T) {
	s := drained(t)
	require.Positive(t, s.ask(2, 8, time.Minute).wait)
	s.at(400 * time.Millisecond) // 4 are available, and 2 more may be promised
	require.False(t, s.ask(3, 1, 0).OK, "an ask that does not wait")
	require.Positive(t, s.ask(4, 1, time.Minute).wait, "a later ask that needs less")
	s.at(600 * time.Millisecond)
	require.True(t, s.ask(2, 8, time.Minute).OK)
}

// The entry of a waiter that does not ask again lapses half a second after its slot.
func TestQueueEntryLapses(t *testing.T) {
	s := drained(t)
	due := s.ask(2, 8, time.Minute).wait
	s.at(due + 400*time.Millisecond)
	require.False(t, s.ask(3, 8, 0).OK)
	s.at(due + 501*time.Millisecond)
	require.True(t, s.ask(3, 8, 0).OK)
}

// A waiter that asks after its entry has lapsed keeps its position.
func TestLateWaiterKeepsItsSlot(t *testing.T) {
	s := drained(t)
	due := s.ask(2, 8, time.Minute).wait
	require.Positive(t, s.ask(3, 8, time.Minute).wait)
	s.at(due + 501*time.Millisecond)
	require.Positive(t, s.ask(4, 10, time.Minute).wait) // which drops the lapsed entry
	require.True(t, s.ask(2, 8, time.Minute).OK)
}

func TestWithdrawnAskLeavesNothing(t *testing.T) {
	s := drained(t)
	require.Positive(t, s.ask(2, 8, time.Minute).wait)
	s.leave(2, 8)
	require.True(t, s.ask(3, 2, time.Minute).OK, "a promise, with an empty queue")
	s.leave(3, 2)
	require.True(t, s.ask(4, 2, time.Minute).OK, "the grant was returned")
	s.leave(5, 2)
}

// Quota that is leased to others may be returned at any time.
func TestWaiterForLeasedQuotaRetriesSoon(t *testing.T) {
	s := newScene(t, "50/s burst 1")
	require.True(t, s.ask(1, 1, 0).OK)
	s.at(time.Second)
	require.Equal(t, 20*time.Millisecond, s.ask(2, 1, time.Minute).wait)
	require.Equal(t, "freed", s.settle(1, 1))
	require.True(t, s.ask(2, 1, time.Minute).OK)
}

// Waiters for leased quota retry one after the other, and less often the longer they
// have waited.
func TestWaitersForLeasedQuotaRetryInSequence(t *testing.T) {
	s := newScene(t, "1000/s")
	require.True(t, s.ask(1, 1000, 0).OK)
	s.at(time.Second)
	var waits []time.Duration
	for i := range uint64(4) {
		waits = append(waits, s.ask(10+i, 1, time.Minute).wait/time.Millisecond)
	}
	require.Equal(t, []time.Duration{10, 11, 12, 13}, waits, "in milliseconds")
	waits = nil
	at := time.Second + 10*time.Millisecond
	for range 7 {
		s.at(at)
		d := s.ask(10, 1, time.Minute).wait
		waits = append(waits, d/time.Millisecond)
		at += d
	}
	require.Equal(t, []time.Duration{10, 20, 40, 80, 160, 250, 250}, waits, "in milliseconds")
}

func TestSettlementReportsWhetherItFreedQuota(t *testing.T) {
	s := newScene(t, "10/s")
	require.True(t, s.ask(1, 4, 0).OK)
	require.True(t, s.ask(2, 5, 0).OK)
	require.Equal(t, "ok", s.settle(1, 4))
	require.Equal(t, "freed", s.settle(2, 4))
	require.Equal(t, "ok", s.settle(2, 0), "twice")
}

func (s *scene) adjust(client string, seq int64, a *bucket.Adjustment) {
	a.Limits = s.limits
	s.run(adjustWords(client, seq, time.Minute, a, tick))
}

// A client library may send a command again after the connection breaks.
func TestAdjustmentIsAppliedOnce(t *testing.T) {
	s := newScene(t, "10/h")
	two := &bucket.Adjustment{Charge: bucket.Cost{Requests: 2}}
	for range 3 {
		for seq := range int64(2) {
			s.adjust("me", 1+seq, two)
		}
	}
	s.adjust("you", 1, two)
	s.at(90 * time.Second)
	s.adjust("you", 1, two) // within its timeout of a minute
	require.Equal(t, int64(4), s.ask(1, 9, 0).Level.Requests)
}

// The record of a client's last adjustment is removed after the client has ended.
func TestRecordsOfAdjustmentsAreRemoved(t *testing.T) {
	s := newScene(t, "10/h")
	for i := range 30 {
		s.at(time.Duration(i) * time.Minute)
		s.adjust(fmt.Sprint("client", i), 1, &bucket.Adjustment{Charge: bucket.Cost{Requests: 1}})
	}
	fields, err := s.client.HKeys(t.Context(), "k").Result()
	require.NoError(t, err)
	require.Less(t, len(fields), 10, "%q", fields)
}

// A lease that was granted after minutes in the queue is valid from its grant.
func TestLeaseDoesNotExpireInTheQueue(t *testing.T) {
	s, _ := gated(t)
	limits, err := bucket.ParseLimits("requests 1/2s burst 1") // a second of it may be promised
	require.NoError(t, err)
	ask := bucket.Ask{
		Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: 1}, Limits: limits,
		Need: bucket.Cost{Requests: 1}, Want: bucket.Cost{Requests: 1}, MaxWait: time.Hour,
	}
	l, err := s.Lease(t.Context(), ask)
	require.NoError(t, err)
	ask.Done = []bucket.Settlement{{Key: "k", ID: ask.ID, Spent: l.Granted}}
	ask.ID.Seq++

	const long = 10 * time.Minute
	s.clock = boottime.Distorted(func(ns int64) int64 { // the wait appears that long
		if ns > int64(time.Second/4) {
			ns += int64(long)
		}
		return ns
	})
	l, err = s.Lease(t.Context(), ask)
	require.NoError(t, err)
	require.True(t, l.OK)
	assert.Greater(t, l.ValidFor, long, "counted from when it was asked for")
}
