package ledger

import (
	"bytes"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
)

// allKinds has rates of all kinds.
func allKinds(t testing.TB) bucket.Limits {
	l, err := bucket.ParseLimits("requests 10/s burst 5,500/m window pace 50,20/3s window; tokens 9000/d reset America/Los_Angeles; spend $5/week reset UTC")
	require.NoError(t, err)
	return l
}

// Operations on rates of all kinds are read as they are written.
func TestOperationsOfAllKindsAreReadAsTheyAreWritten(t *testing.T) {
	lease := bucket.LeaseID{Holder: 7, Seq: 9}
	for _, op := range []Op{
		&bucket.Ask{Key: "k", ID: lease, Limits: allKinds(t), Need: bucket.Cost{Requests: 1}},
		&bucket.Settlement{Key: "k", ID: lease, Spent: bucket.Cost{Requests: 3}, Parts: []bucket.Spending{
			{Age: time.Second, Cost: bucket.Cost{Requests: 1}}, {Cost: bucket.Cost{Requests: 2}},
		}},
		&bucket.Adjustment{Key: "k", Limits: allKinds(t), Return: bucket.Cost{Requests: 3}, Since: 5, Lease: lease},
	} {
		got, rest, err := ParseOp(AppendOp(nil, op))
		require.NoError(t, err)
		assert.Empty(t, rest)
		assert.Equal(t, op, got)
	}
}

// A snapshot keeps the slots, days, cooldowns and grants of a bucket.
func TestASnapshotKeepsCounters(t *testing.T) {
	limits := allKinds(t)
	b := bucket.New(&limits, 1)
	const wall = int64(1_778_000_000_000_000_000)
	for i := range int64(5) {
		now := i * int64(time.Second)
		b.Stamp(now, bucket.StampsAt(wall+now, &limits))
		id := bucket.LeaseID{Holder: 1, Seq: uint64(i)}
		cost := bucket.Cost{Requests: 2, Tokens: 50 + i, Spend: 7}
		g, err := b.Lease(now, &bucket.Ask{ID: id, Need: cost, Want: cost})
		require.NoError(t, err)
		require.True(t, g.OK)
		if i < 4 {
			b.Settle(now, id, cost)
		}
	}
	b.Adjust(4e9, &bucket.Adjustment{Empty: time.Second, Charge: bucket.Cost{Requests: 1}})
	tab := NewTable()
	tab.now = 4e9
	tab.buckets["k"] = entry{Bucket: b}
	encoded := AppendTable(nil, tab)
	again, err := ReadTable(bytes.NewReader(encoded))
	require.NoError(t, err)
	want, got := b.StateAt(tab.now), again.Get("k").StateAt(tab.now)
	assert.True(t, reflect.DeepEqual(want, got), "%+v %+v, want %+v %+v", got, got.Counters, want, want.Counters)
	assert.Equal(t, encoded, AppendTable(nil, again))
	assert.NotEmpty(t, want.Counters.Rates[1].Slots)
	assert.NotZero(t, want.Counters.Rates[3].Day.Today)
}

// Counters that no bucket has, and numbers out of range, are errors.
func TestMalformedCountersAreErrors(t *testing.T) {
	for want, b := range map[string][]byte{
		"field 9 of counters: unknown":       {9, 2, 0},
		"field 9 of a counter: unknown":      {countersRates, 1, 9, 0, 0},
		"5 items: more than the input holds": {countersRates, 1, counterSlots, 5, 0, 0},
		"not a number":                       {countersSince},
	} {
		d := decoder{b: b}
		d.counters()
		assert.ErrorContains(t, d.err, want)
	}
	d := decoder{b: []byte{rateKind, 0x80, 0x08, 0}}
	d.rate(new(bucket.Rate))
	assert.ErrorContains(t, d.err, "number 512: want 0 to 255")
}
