package bucket

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Two workers disagree for the length of a rolling update: one of them still
// has 600 a minute, the other has 10 a second, which is the later definition.
// Whichever of the two one holds the fleet to, in one minute it may admit 1,200
// at the most.
func TestAnOldDefinitionDoesNotComeBackWhileTheNewOneIsInUse(t *testing.T) {
	older, err := ParseLimits("600/m", "")
	require.NoError(t, err)
	newer, err := ParseLimits("10/s", "")
	require.NoError(t, err)
	table := NewTable()
	var admitted int64
	seq := uint64(0)
	ask := func(now time.Duration, limits Limits, defined, n int64) {
		seq++
		id := LeaseID{Holder: 1, Seq: seq}
		g := table.Apply(int64(now), &Ask{Key: "k", ID: id, Limits: limits, Defined: defined, Want: Cost{Requests: n}}).Grant
		admitted += g.Granted.Requests
		table.Apply(int64(now), &Settlement{Key: "k", ID: id, Spent: g.Granted})
	}
	for now := time.Duration(0); now < time.Minute; now += 3 * time.Second {
		ask(now, older, 1, 600)
		ask(now, newer, 2, 1)
	}
	assert.LessOrEqual(t, admitted, int64(1200))
}

// Workers of the old release have five a second and ten a day, those of the new
// one have dropped the second. As they are restarted by turns, each brings its
// own definition as the latest. Those who go by ten a day get ten.
func TestARateThatComesBackRemembers(t *testing.T) {
	older, err := ParseLimits("5/s,10/d", "")
	require.NoError(t, err)
	newer, err := ParseLimits("5/s", "")
	require.NoError(t, err)
	table := NewTable()
	var admitted int64
	for i := range int64(20) {
		now := i * int64(3*time.Second)
		id := LeaseID{Holder: 1, Seq: uint64(i)}
		ask := Ask{Key: "k", ID: id, Limits: older, Defined: 2 * i, Want: Cost{Requests: 5}}
		g := table.Apply(now, &ask).Grant
		admitted += g.Granted.Requests
		table.Apply(now, &Settlement{Key: "k", ID: id, Spent: g.Granted})
		table.Apply(now, &Adjustment{Key: "k", Limits: newer, Defined: 2*i + 1})
	}
	assert.EqualValues(t, 10, admitted)
}

// What is leased is in no bucket: as long as it is out, no rate is full, and a
// former one that is not full is remembered.
func TestWhatIsLeasedCountsInFormerRates(t *testing.T) {
	first, err := ParseLimits("1/ms", "")
	require.NoError(t, err)
	second, err := ParseLimits("1/s,10/h", "")
	require.NoError(t, err)
	third, err := ParseLimits("10/h", "")
	require.NoError(t, err)
	table := NewTable()
	lease := func(now time.Duration, seq uint64, limits Limits, defined int64) {
		ask := Ask{Key: "k", ID: LeaseID{Holder: 1, Seq: seq}, Limits: limits, Defined: defined, Want: Cost{Requests: 1}}
		require.EqualValues(t, 1, table.Apply(int64(now), &ask).Grant.Granted.Requests)
	}
	lease(0, 1, first, 1)
	table.Apply(0, &Adjustment{Key: "k", Limits: second, Defined: 2})
	lease(5*time.Second, 2, second, 2) // the first one has expired long ago, only ten an hour is not full
	table.Apply(int64(5*time.Second), &Adjustment{Key: "k", Limits: third, Defined: 3})
	former := table.buckets["k"].former
	require.NotNil(t, former)
	assert.ElementsMatch(t, Rates{first.Requests[0], second.Requests[0]}, former.Requests)
}
