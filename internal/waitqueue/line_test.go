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

// drained is a stand whose bucket "k" has given away all of its burst, spent.
func drained(t testing.TB, l bucket.Limits) *stand {
	st := newStand(t)
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

// An ask that may not wait is no exception: it is refused while others wait,
// also when there is enough for it.
func TestAnAskThatMayNotWaitDoesNotOvertake(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := drained(t, l)
	st.until(2 * s) // 2 are there
	st.ask("large", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4), MaxWait: 60 * s})
	now := st.ask("small", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(1)})
	ahead := st.ask("without need", bucket.Ask{ID: id(3, 1), Limits: l, Want: requests(1)})
	st.run()
	for _, c := range []*caller{now, ahead} {
		require.True(t, c.refused())
		assert.Equal(t, 3*s, c.answers[0].Grant.RetryAfter, "2 more for the large one and 1 for itself")
	}
}

func TestKeysDoNotWaitForEachOther(t *testing.T) {
	l := limits(t, "1/m", "")
	st := drained(t, l)
	st.ask("k", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(1), MaxWait: time.Hour})
	st.ask("other", bucket.Ask{Key: "other", ID: id(1, 2), Limits: l, Need: requests(1), MaxWait: time.Hour})
	st.run()
	assert.Equal(t, []string{"other"}, st.order)
}

// Quota that has gathered is shared out among those who wait for it, not given
// to the first who wants it all.
func TestSharesAreFair(t *testing.T) {
	l := limits(t, "100/s", "")
	st := newStand(t)
	var in []*caller
	for h := range uint64(4) {
		in = append(in, st.ask("", bucket.Ask{ID: id(h, 1), Limits: l, Need: requests(1), Want: requests(100), MaxWait: 10 * s}))
	}
	st.run()
	for _, c := range in {
		require.True(t, c.granted())
		assert.EqualValues(t, 25, c.answers[0].Grant.Granted.Requests, "a fourth, whoever came first")
	}
}

func TestADeadlineThatCannotBeMetIsRefusedAtOnce(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := drained(t, l)
	st.ask("first", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(3), MaxWait: 60 * s})
	hasty := st.ask("hasty", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(1), MaxWait: 3900 * time.Millisecond})
	enough := st.ask("enough", bucket.Ask{ID: id(3, 1), Limits: l, Need: requests(1), MaxWait: 4 * s})
	st.run()
	require.True(t, hasty.refused(), "3 s for the first and 1 s for itself are more than 3.9 s")
	assert.Equal(t, 4*s, hasty.answers[0].Grant.RetryAfter)
	st.until(4 * s)
	assert.True(t, enough.granted(), "4 s suffice, for the hasty one takes nothing")
}

// A wait that looked short enough and was not ends when its time is over.
func TestAWaitEndsAtItsDeadline(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := drained(t, l)
	c := st.ask("", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4), MaxWait: 4 * s})
	st.until(s)
	require.Empty(t, c.answers)
	st.line.Add(st.now, &bucket.Adjustment{Key: "k", Limits: l, Charge: requests(10)}, func(Answer) {})
	st.until(10 * s)
	require.True(t, c.refused())
	assert.LessOrEqual(t, c.answers[0].Waited, 4*s)
}

// Who asks again with the id of an ask in line has lost its connection, not its
// patience.
func TestAskingAgainKeepsThePlace(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := drained(t, l)
	old := st.ask("old", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(3), MaxWait: 60 * s})
	st.ask("next", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(3), MaxWait: 60 * s})
	st.run()
	st.ask("again", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(3), MaxWait: 60 * s})
	st.line.Cancel(old.Entry) // the old connection's end comes late, and means nothing
	st.until(10 * s)
	assert.Equal(t, []string{"again", "next"}, st.order)
	require.Len(t, old.answers, 1, "who keeps count of what is under way can forget it")
	assert.ErrorIs(t, old.answers[0].Err, ErrAskedAgain)
}

// The same while the ask is being decided: the grant that is on its way belongs
// to who asks now, and does not go back because the old connection is gone.
func TestAskingAgainWhileItIsDecided(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := newStand(t)
	old := st.ask("old", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(3), MaxWait: s})
	batch := st.line.Take(st.now, math.MaxInt)
	require.Len(t, batch, 1)
	st.line.Cancel(old.Entry)
	again := st.ask("again", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(3), MaxWait: s})
	st.line.Resolve(st.now, batch[0], st.table.Apply(st.now, batch[0].Op))
	st.run()
	require.True(t, again.granted())
	assert.Equal(t, requests(3), st.table.Get("k").Leased(st.now), "one lease is out, and it stays out")
	assert.Empty(t, old.answers)
}

func TestCancelledWhileWaiting(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := drained(t, l)
	large := st.ask("large", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4), MaxWait: 60 * s})
	small := st.ask("small", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(1), MaxWait: 60 * s})
	st.until(s)
	require.Empty(t, small.answers)
	st.line.Cancel(large.Entry)
	st.until(s)
	assert.True(t, small.granted(), "what it needs is there since the first second")
	st.until(60 * s)
	assert.Empty(t, large.answers)
}

func TestCancelledWhileDecided(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := newStand(t)
	c := st.ask("", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4)})
	batch := st.line.Take(st.now, math.MaxInt)
	st.line.Cancel(c.Entry)
	for _, e := range batch {
		st.line.Resolve(st.now, e, st.table.Apply(st.now, e.Op))
	}
	st.run()
	assert.Empty(t, c.answers)
	next := st.ask("", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(4)})
	st.run()
	assert.True(t, next.granted(), "all of it has gone back")
}

// Before anything was decided there may be no bucket to look at.
func TestCancelledBeforeTheFirstTake(t *testing.T) {
	st := newStand(t)
	c := st.ask("", bucket.Ask{ID: id(1, 1), Limits: limits(t, "1/s", ""), Need: requests(1), MaxWait: s})
	st.line.Cancel(c.Entry)
	st.run()
	assert.Empty(t, c.answers)
	assert.EqualValues(t, math.MaxInt64, st.line.Next(), "nothing is left to be done")
}

func TestTakeReturnsAtMostSoMany(t *testing.T) {
	l := limits(t, "10/s", "")
	st := newStand(t)
	for seq := range uint64(5) {
		st.ask("", bucket.Ask{ID: id(1, seq), Limits: l, Need: requests(1), MaxWait: s,
			Done: []bucket.Settlement{{Key: "k", ID: id(9, seq)}}})
	}
	var sizes []int
	for st.line.Next() <= st.now {
		batch := st.line.Take(st.now, 3)
		sizes = append(sizes, len(batch))
		for _, e := range batch {
			st.line.Resolve(st.now, e, st.table.Apply(st.now, e.Op))
		}
	}
	assert.Len(t, st.order, 5)
	for _, n := range sizes {
		assert.LessOrEqual(t, n, 3)
	}
}

// What an ask has to settle is settled though the ask itself waits; else the
// quota that others wait for would stay where nobody spends it.
func TestSettlementsNeverWait(t *testing.T) {
	l := limits(t, "1/m burst 4", "")
	st := newStand(t)
	holder := st.ask("holder", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4)})
	st.run()
	require.True(t, holder.granted())
	other := st.ask("other", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(3), MaxWait: time.Hour})
	st.run()
	require.Empty(t, other.answers)
	st.ask("again", bucket.Ask{ID: id(1, 2), Limits: l, Need: requests(4), MaxWait: time.Hour,
		Done: []bucket.Settlement{{Key: "k", ID: holder.id, Spent: requests(1)}}})
	st.run()
	assert.True(t, other.granted(), "3 of the 4 came back with the ask")
}

func TestFailAnswersAll(t *testing.T) {
	l := limits(t, "1/s", "")
	st := newStand(t)
	taken := st.ask("", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(1), MaxWait: s})
	batch := st.line.Take(st.now, math.MaxInt)
	waits := st.ask("", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(1), MaxWait: s})
	var settled []Answer
	st.line.Add(st.now, &bucket.Settlement{Key: "k", ID: id(3, 1)}, func(a Answer) { settled = append(settled, a) })
	gone := st.ask("", bucket.Ask{ID: id(4, 1), Limits: l, Need: requests(1), MaxWait: s})
	st.line.Cancel(gone.Entry)

	lost := errors.New("leadership lost")
	st.line.Fail(st.now, batch, lost)
	require.Len(t, settled, 1)
	assert.ErrorIs(t, settled[0].Err, lost)
	for _, c := range []*caller{taken, waits} {
		require.Len(t, c.answers, 1)
		assert.ErrorIs(t, c.answers[0].Err, lost)
	}
	assert.Empty(t, gone.answers)
	assert.EqualValues(t, math.MaxInt64, st.line.Next())
	assert.Empty(t, st.line.Take(st.now, math.MaxInt))

	after := st.ask("", bucket.Ask{ID: id(5, 1), Limits: l, Need: requests(1), MaxWait: s})
	st.run()
	assert.True(t, after.granted(), "the line goes on")
}

// Of what cannot be, the table says why, and nobody waits for it.
func TestHopelessAsksAreAnswered(t *testing.T) {
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

// A wake-up is work for the store, and with a thousand holders in line there is
// no time for one that decides nothing.
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

// A charge that is decided together with asks takes what they were to get. The
// first of them goes back to its place, and nobody behind it may profit.
func TestAChargeLetsNobodyOvertake(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := newStand(t)
	st.ask("large", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(3), MaxWait: time.Hour})
	st.ask("small", bucket.Ask{ID: id(2, 1), Limits: l, Need: requests(1), MaxWait: time.Hour})
	st.line.Add(st.now, &bucket.Adjustment{Key: "k", Limits: l, Charge: requests(3)}, func(Answer) {})
	st.until(10 * s)
	assert.Equal(t, []string{"large", "small"}, st.order)
}

// With something to settle in hand an ask is tried on the chance. When that was
// in vain, it is judged like any other.
func TestADeadlineThatCannotBeMetWithASettlement(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := newStand(t)
	first := st.ask("", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4)})
	st.run()
	c := st.ask("", bucket.Ask{ID: id(1, 2), Limits: l, Need: requests(2), MaxWait: 1900 * time.Millisecond,
		Done: []bucket.Settlement{{Key: "k", ID: first.id, Spent: requests(4)}}})
	st.run()
	assert.True(t, c.refused(), "at once, for 2 s are more than 1.9 s")
}

// Who does not wait is told when the quota will be there, not when it could be
// promised, whether the line or the bucket refuses.
func TestRetryAfterIsNoPromise(t *testing.T) {
	l := limits(t, "1/s burst 4", "")
	st := newStand(t)
	first := st.ask("", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(4)})
	st.run()
	byBucket := st.ask("", bucket.Ask{ID: id(1, 2), Limits: l, Need: requests(3),
		Done: []bucket.Settlement{{Key: "k", ID: first.id, Spent: requests(4)}}})
	st.run()
	byLine := st.ask("", bucket.Ask{ID: id(1, 3), Limits: l, Need: requests(3)})
	st.run()
	for _, c := range []*caller{byBucket, byLine} {
		require.True(t, c.refused())
		assert.Equal(t, 3*s, c.answers[0].Grant.RetryAfter)
	}
}

// Who is refused takes what came with the ask for settled. So the refusal waits
// until it is, and when that comes to nothing, so does the refusal.
func TestARefusalWaitsForItsSettlements(t *testing.T) {
	for _, tt := range []struct {
		name    string
		decided bool
		refused bool
	}{{"decided", true, true}, {"given up", false, false}} {
		t.Run(tt.name, func(t *testing.T) {
			st := newStand(t)
			l := limits(t, "10/h", "")
			all := st.ask("all", bucket.Ask{ID: id(1, 1), Limits: l, Need: requests(10)})
			other := st.ask("other", bucket.Ask{Key: "other", ID: id(1, 2), Limits: l, Need: requests(10)})
			st.run()
			require.True(t, all.granted() && other.granted())
			next := st.ask("next", bucket.Ask{ID: id(1, 3), Limits: l, Need: requests(10), Done: []bucket.Settlement{
				{Key: "other", ID: other.id, Spent: requests(3)}, {Key: "more", ID: id(9, 9)},
			}})
			batch := st.line.Take(st.now, math.MaxInt)
			require.Len(t, batch, 2, "the settlements")
			require.Empty(t, next.answers)
			errLost := errors.New("lost")
			if tt.decided {
				for _, e := range batch {
					require.Empty(t, next.answers)
					st.line.Resolve(st.now, e, st.table.Apply(st.now, e.Op))
				}
			} else {
				st.line.Fail(st.now, batch, errLost)
			}
			require.Len(t, next.answers, 1)
			require.Equal(t, tt.refused, next.refused())
			require.Equal(t, !tt.refused, errors.Is(next.answers[0].Err, errLost))
		})
	}
}

// One who is refused, and gives up before that is heard, hears nothing.
func TestCancelledBetweenRefusalAndSettlement(t *testing.T) {
	st := drained(t, limits(t, "10/h", ""))
	next := st.ask("next", bucket.Ask{ID: id(1, 3), Limits: limits(t, "10/h", ""), Need: requests(10), Done: []bucket.Settlement{{Key: "more", ID: id(9, 9)}}})
	batch := st.line.Take(st.now, math.MaxInt)
	require.Len(t, batch, 1, "the settlement")
	st.line.Cancel(next.Entry)
	st.line.Resolve(st.now, batch[0], st.table.Apply(st.now, batch[0].Op))
	require.Empty(t, next.answers)
}
