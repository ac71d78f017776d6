package bucket

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// absentWhenIdle keeps the bucket of one key as a store does: a bucket that is
// idle is forgotten.
type absentWhenIdle struct{ *Bucket }

func (k *absentWhenIdle) open(now int64, limits Limits, defined int64) *Bucket {
	if k.Bucket == nil || k.Idle(now) {
		k.Bucket = New(&limits, defined)
	}
	k.Redefine(now, &limits, defined)
	return k.Bucket
}

func (k *absentWhenIdle) lease(t *testing.T, now time.Duration, seq uint64, limits Limits, defined, want int64) (granted int64) {
	ask := Ask{Key: "k", ID: LeaseID{Holder: 1, Seq: seq}, Limits: limits, Defined: defined, Want: Cost{Requests: want}}
	g, err := k.open(int64(now), limits, defined).Lease(int64(now), &ask)
	require.NoError(t, err)
	return g.Granted.Requests
}

func (k *absentWhenIdle) settle(now time.Duration, seq uint64, spent int64) {
	k.Settle(int64(now), LeaseID{Holder: 1, Seq: seq}, Cost{Requests: spent})
}

// Two workers disagree for the length of a rolling update: one of them still
// has 600 a minute, the other has 10 a second, which is the later definition.
// Whichever of the two one holds the fleet to, in one minute it may admit 1,200
// at the most.
func TestAnOldDefinitionDoesNotComeBackWhileTheNewOneIsInUse(t *testing.T) {
	older, err := ParseLimits("600/m", "")
	require.NoError(t, err)
	newer, err := ParseLimits("10/s", "")
	require.NoError(t, err)
	var key absentWhenIdle
	var admitted int64
	seq := uint64(0)
	ask := func(now time.Duration, limits Limits, defined, n int64) {
		seq++
		granted := key.lease(t, now, seq, limits, defined, n)
		admitted += granted
		key.settle(now, seq, granted)
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
	var key absentWhenIdle
	var admitted int64
	for i := range int64(20) {
		now := time.Duration(i) * 3 * time.Second
		granted := key.lease(t, now, uint64(i), older, 2*i, 5)
		admitted += granted
		key.settle(now, uint64(i), granted)
		key.open(int64(now), newer, 2*i+1)
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
	var key absentWhenIdle
	require.EqualValues(t, 1, key.lease(t, 0, 1, first, 1, 1))
	key.open(0, second, 2)
	require.EqualValues(t, 1, key.lease(t, 5*time.Second, 2, second, 2, 1)) // the first one has expired long ago, only ten an hour is not full
	key.open(int64(5*time.Second), third, 3)
	former := key.former
	require.NotNil(t, former)
	assert.ElementsMatch(t, Rates{first.Requests[0], second.Requests[0]}, former.Requests)
}
