package waitqueue

import (
	"errors"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
)

// drained returns a fixture whose bucket "k" is empty: its whole burst was leased
// and spent.
func drained(t testing.TB, l bucket.Limits) *fixture {
	st := newFixture(t)
	all := l.Limited(l.Burst())
	first := st.ask("drain", bucket.Ask{ID: id(99, 1), Limits: l, Need: all})
	st.run()
	st.settle(first, all)
	st.run()
	require.True(t, first.granted())
	st.order, st.takes, st.empty = nil, 0, 0
	return st
}

func TestFirstComeFirstServed(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := drained(t, l)
	st.ask("a needs 1", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(1), MaxWait: 60 * s})
	st.ask("b needs 4", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(4), MaxWait: 60 * s})
	st.ask("c needs 1", bucket.Ask{ID: id(3, 1), Limits: l, Need: requests(1), MaxWait: 60 * s})
	st.until(30 * s)
	assert.Equal(t, []string{"a needs 1", "b needs 4", "c needs 1"}, st.order,
		"a small ask never overtakes a large one, or the large one would starve")
}

// An ask that may not wait is refused while others wait, even if the bucket covers
// it.
func TestAskThatMayNotWaitDoesNotOvertake(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := drained(t, l)
	st.until(2 * s) // level 2
	st.ask("large", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4), MaxWait: 60 * s})
	now := st.ask("small", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(1)})
	ahead := st.ask("without need", bucket.Ask{ID: id(3, 1), Limits: l, Want: requests(1)})
	st.run()
	for _, c := range []*caller{now, ahead} {
		require.True(t, c.refused())
		assert.Equal(t, 3*s, c.answers[0].Grant.RetryAfter, "2 more for the large one and 1 for itself")
	}
}

func TestKeysAreQueuedApart(t *testing.T) {
	l := limits(t, "1/m", "")
	st := drained(t, l)
	st.ask("k", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(1), MaxWait: time.Hour})
	st.ask("other", bucket.Ask{Key: "other", ID: id(1, 2), Limits: l, Need: requests(1), MaxWait: time.Hour})
	st.run()
	assert.Equal(t, []string{"other"}, st.order)
}

// Quota that has gathered is shared among the holders that wait. The first does not
// get all of it, whatever it wants.
func TestSharesAreFair(t *testing.T) {
	l := limits(t, "100/s", "")
	st := newFixture(t)
	var callers []*caller
	for h := range uint64(4) {
		callers = append(callers, st.ask("", bucket.Ask{ID: id(h, 1), Limits: l, Need: requests(1), Want: requests(100), MaxWait: 10 * s}))
	}
	st.run()
	for _, c := range callers {
		require.True(t, c.granted())
		assert.EqualValues(t, 25, c.answers[0].Grant.Granted.Requests, "a fourth, whatever their order")
	}
}

func TestAskIsRefusedAtOnceIfItsDeadlineIsTooEarly(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := drained(t, l)
	st.ask("first", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(3), MaxWait: 60 * s})
	hasty := st.ask("hasty", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(1), MaxWait: 3900 * time.Millisecond})
	enough := st.ask("enough", bucket.Ask{ID: id(3, 1), Limits: l, Need: requests(1), MaxWait: 4 * s})
	st.run()
	require.True(t, hasty.refused(), "3 s for the first and 1 s for itself are more than 3.9 s")
	assert.Equal(t, 4*s, hasty.answers[0].Grant.RetryAfter)
	st.until(4 * s)
	assert.True(t, enough.granted(), "4 s suffice, since the refused ask takes nothing")
}

// An ask that could be served in time when it was queued, and then cannot, is
// refused at its deadline.
func TestWaitEndsAtItsDeadline(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := drained(t, l)
	c := st.ask("", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4), MaxWait: 4 * s})
	st.until(s)
	require.Empty(t, c.answers)
	st.queue.Add(st.now, &bucket.Adjustment{Key: "k", Limits: l, Charge: requests(10)}, func(Answer) {})
	st.until(10 * s)
	require.True(t, c.refused())
	assert.LessOrEqual(t, c.answers[0].Waited, 4*s)
}

// A caller that lost its connection asks again with the same id. It keeps its
// position.
func TestAskingAgainKeepsThePosition(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := drained(t, l)
	old := st.ask("old", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(3), MaxWait: 60 * s})
	st.ask("next", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(3), MaxWait: 60 * s})
	st.run()
	st.ask("again", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(3), MaxWait: 60 * s})
	st.queue.Cancel(old.Entry) // the end of the old connection arrives late
	st.until(10 * s)
	assert.Equal(t, []string{"again", "next"}, st.order)
	require.Len(t, old.answers, 1, "a caller that tracks its asks can remove this one")
	assert.ErrorIs(t, old.answers[0].Err, ErrAskedAgain)
}

// The same while the ask is being decided: the grant belongs to the later ask, and
// is not returned because the old connection has ended.
func TestAskingAgainWhileDeciding(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := newFixture(t)
	old := st.ask("old", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(3), MaxWait: s})
	batch := st.queue.Take(st.now, math.MaxInt)
	require.Len(t, batch, 1)
	st.queue.Cancel(old.Entry)
	again := st.ask("again", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(3), MaxWait: s})
	st.queue.Resolve(st.now, batch[0], st.table.Apply(st.now, batch[0].Op))
	st.run()
	require.True(t, again.granted())
	assert.Equal(t, requests(3), st.table.Get("k").Leased(st.now), "one lease, which is not returned")
	assert.Empty(t, old.answers)
}

func TestCancelledWhileWaiting(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := drained(t, l)
	large := st.ask("large", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4), MaxWait: 60 * s})
	small := st.ask("small", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(1), MaxWait: 60 * s})
	st.until(s)
	require.Empty(t, small.answers)
	st.queue.Cancel(large.Entry)
	st.until(s)
	assert.True(t, small.granted(), "the bucket has covered it since 1 s")
	st.until(60 * s)
	assert.Empty(t, large.answers)
}

func TestCancelledWhileDeciding(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := newFixture(t)
	c := st.ask("", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4)})
	batch := st.queue.Take(st.now, math.MaxInt)
	st.queue.Cancel(c.Entry)
	for _, e := range batch {
		st.queue.Resolve(st.now, e, st.table.Apply(st.now, e.Op))
	}
	st.run()
	assert.Empty(t, c.answers)
	next := st.ask("", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(4)})
	st.run()
	assert.True(t, next.granted(), "the whole lease was returned")
}

// Before the first decision view has no bucket of the key.
func TestCancelledBeforeTheFirstTake(t *testing.T) {
	st := newFixture(t)
	c := st.ask("", bucket.Ask{ID: id(1, 1), Limits: limits(t, "1/s", ""), Need: requests(1), MaxWait: s})
	st.queue.Cancel(c.Entry)
	st.run()
	assert.Empty(t, c.answers)
	assert.EqualValues(t, math.MaxInt64, st.queue.Next(), "the queue is empty")
}

func TestTakeReturnsAtMostMost(t *testing.T) {
	l := limits(t, "10/s", "")
	st := newFixture(t)
	for seq := range uint64(5) {
		st.ask("", bucket.Ask{ID: id(1, seq), Limits: l, Need: requests(1), MaxWait: s,
			Done: []bucket.Settlement{{Key: "k", ID: id(9, seq)}}})
	}
	var sizes []int
	for st.queue.Next() <= st.now {
		batch := st.queue.Take(st.now, 3)
		sizes = append(sizes, len(batch))
		for _, e := range batch {
			st.queue.Resolve(st.now, e, st.table.Apply(st.now, e.Op))
		}
	}
	assert.Len(t, st.order, 5)
	for _, n := range sizes {
		assert.LessOrEqual(t, n, 3)
	}
}

// The settlements that come with an ask are applied while the ask itself waits.
// Otherwise the quota that they return would stay leased while others wait for it.
func TestSettlementsNeverWait(t *testing.T) {
	l := limits(t, "1/m burst 4", "")
	st := newFixture(t)
	holder := st.ask("holder", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4)})
	st.run()
	require.True(t, holder.granted())
	other := st.ask("other", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(3), MaxWait: time.Hour})
	st.run()
	require.Empty(t, other.answers)
	st.ask("again", bucket.Ask{ID: id(1, 2), Limits: l, Need: requests(4), MaxWait: time.Hour,
		Done: []bucket.Settlement{{Key: "k", ID: holder.id, Spent: requests(1)}}})
	st.run()
	assert.True(t, other.granted(), "the settlement returned 3 of the 4")
}

func TestFailAnswersAll(t *testing.T) {
	l := limits(t, "1/s", "")
	st := newFixture(t)
	taken := st.ask("", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(1), MaxWait: s})
	batch := st.queue.Take(st.now, math.MaxInt)
	waits := st.ask("", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(1), MaxWait: s})
	var settled []Answer
	st.queue.Add(st.now, &bucket.Settlement{Key: "k", ID: id(3, 1)}, func(a Answer) { settled = append(settled, a) })
	cancelled := st.ask("", bucket.Ask{ID: id(4, 1), Limits: l, Need: requests(1), MaxWait: s})
	st.queue.Cancel(cancelled.Entry)

	lost := errors.New("leadership lost")
	st.queue.Fail(st.now, batch, lost)
	require.Len(t, settled, 1)
	assert.ErrorIs(t, settled[0].Err, lost)
	for _, c := range []*caller{taken, waits} {
		require.Len(t, c.answers, 1)
		assert.ErrorIs(t, c.answers[0].Err, lost)
	}
	assert.Empty(t, cancelled.answers)
	assert.EqualValues(t, math.MaxInt64, st.queue.Next())
	assert.Empty(t, st.queue.Take(st.now, math.MaxInt))

	after := st.ask("", bucket.Ask{ID: id(5, 1), Limits: l, Need: requests(1), MaxWait: s})
	st.run()
	assert.True(t, after.granted(), "the queue can be used after Fail")
}

// Asks that can never be granted are answered at once by the table's error, and do
// not wait behind others.
func TestImpossibleAsksAreAnsweredAtOnce(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := drained(t, l)
	st.ask("", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4), MaxWait: time.Hour})
	large := st.ask("", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(5), MaxWait: time.Hour})
	malformed := st.ask("", bucket.Ask{ID: id(3, 1), Need: requests(5), MaxWait: time.Hour})
	st.run()
	require.Len(t, large.answers, 1)
	assert.ErrorIs(t, large.answers[0].Err, bucket.ErrCostExceedsBurst)
	require.Len(t, malformed.answers, 1)
	assert.ErrorContains(t, malformed.answers[0].Err, "no limits")
}

// Each wake-up costs the store a pass over the queue, which a thousand holders may
// share, so Next must not name instants at which nothing can be decided.
func TestNextIsNotTooEarly(t *testing.T) {
	l := limits(t, "1/m burst 4", "")
	st := drained(t, l)
	for seq := range uint64(4) {
		st.ask("", bucket.Ask{ID: id(1, seq), Limits: l, Need: requests(1), MaxWait: time.Hour})
	}
	st.until(10 * time.Minute)
	assert.Len(t, st.order, 4)
	assert.LessOrEqual(t, st.takes+st.empty, 2+3*4, "some wake-ups for each of four grants in ten minutes")
}

// A charge that is decided in one batch with asks takes the quota that they were
// served. The first of them is queued again, and the next must not overtake it.
func TestChargeCausesNoOvertaking(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := newFixture(t)
	st.ask("large", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(3), MaxWait: time.Hour})
	st.ask("small", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(1), MaxWait: time.Hour})
	st.queue.Add(st.now, &bucket.Adjustment{Key: "k", Limits: l, Charge: requests(3)}, func(Answer) {})
	st.until(10 * s)
	assert.Equal(t, []string{"large", "small"}, st.order)
}

// An ask that comes with a settlement is served before the queue knows what the
// settlement returns. If it is refused, the next pass judges it like any other.
func TestDeadlineTooEarlyInSpiteOfASettlement(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := newFixture(t)
	first := st.ask("", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4)})
	st.run()
	c := st.ask("", bucket.Ask{ID: id(1, 2), Limits: l, Need: requests(2), MaxWait: 1900 * time.Millisecond,
		Done: []bucket.Settlement{{Key: "k", ID: first.id, Spent: requests(4)}}})
	st.run()
	assert.True(t, c.refused(), "at once, since 2 s are more than 1.9 s")
}

// An ask that does not wait is told when its quota will be available, not when it
// could be promised, whether the queue or the bucket refuses it.
func TestRetryAfterIsNotAPromise(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := newFixture(t)
	first := st.ask("", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4)})
	st.run()
	byBucket := st.ask("", bucket.Ask{ID: id(1, 2), Limits: l, Need: requests(3),
		Done: []bucket.Settlement{{Key: "k", ID: first.id, Spent: requests(4)}}})
	st.run()
	byQueue := st.ask("", bucket.Ask{ID: id(1, 3), Limits: l, Need: requests(3)})
	st.run()
	for _, c := range []*caller{byBucket, byQueue} {
		require.True(t, c.refused())
		assert.Equal(t, 3*s, c.answers[0].Grant.RetryAfter)
	}
}

// A caller that is refused takes the settlements of its ask for applied. So the
// refusal waits until they are, and if they fail, the ask fails with them.
func TestRefusalWaitsForItsSettlements(t *testing.T) {
	for _, tt := range []struct {
		name    string
		applied bool
		refused bool
	}{{"applied", true, true}, {"failed", false, false}} {
		t.Run(tt.name, func(t *testing.T) {
			st := newFixture(t)
			l := limits(t, "10/h", "")
			all := st.ask("all", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(10)})
			other := st.ask("other", bucket.Ask{Key: "other", ID: id(1, 2), Limits: l, Need: requests(10)})
			st.run()
			require.True(t, all.granted() && other.granted())
			next := st.ask("next", bucket.Ask{ID: id(1, 3), Limits: l, Need: requests(10), Done: []bucket.Settlement{
				{Key: "other", ID: other.id, Spent: requests(3)}, {Key: "more", ID: id(9, 9)},
			}})
			batch := st.queue.Take(st.now, math.MaxInt)
			require.Len(t, batch, 2, "the settlements")
			require.Empty(t, next.answers)
			errLost := errors.New("lost")
			if tt.applied {
				for _, e := range batch {
					require.Empty(t, next.answers)
					st.queue.Resolve(st.now, e, st.table.Apply(st.now, e.Op))
				}
			} else {
				st.queue.Fail(st.now, batch, errLost)
			}
			require.Len(t, next.answers, 1)
			require.Equal(t, tt.refused, next.refused())
			require.Equal(t, !tt.refused, errors.Is(next.answers[0].Err, errLost))
		})
	}
}

// An ask that is cancelled while its refusal waits for settlements gets no answer.
func TestCancelledBetweenRefusalAndSettlement(t *testing.T) {
	st := drained(t, limits(t, "10/h", ""))
	next := st.ask("next", bucket.Ask{ID: id(1, 3), Limits: limits(t, "10/h", ""), Need: requests(10), Done: []bucket.Settlement{{Key: "more", ID: id(9, 9)}}})
	batch := st.queue.Take(st.now, math.MaxInt)
	require.Len(t, batch, 1, "the settlement")
	st.queue.Cancel(next.Entry)
	st.queue.Resolve(st.now, batch[0], st.table.Apply(st.now, batch[0].Op))
	require.Empty(t, next.answers)
}
