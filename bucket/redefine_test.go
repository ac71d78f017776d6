package bucket

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// absentWhenIdle keeps the bucket of one key as a store does: it drops an idle
// bucket.
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

// Two workers disagree during a rolling update: one still has 600 a minute, the other
// has 10 a second, the later definition. By either definition, at most 1,200 are
// admitted in a minute.
func TestOldDefinitionIsIgnoredWhileTheNewOneIsInUse(t *testing.T) {
	older, err := ParseLimits("requests 600/m")
	require.NoError(t, err)
	newer, err := ParseLimits("requests 10/s")
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

// Workers of the old release have five a second and ten a day; the new release has
// dropped the ten a day. Workers of both are restarted in turns, each with its own
// definition as the latest. Under ten a day, ten are admitted.
func TestRateInForceAgainKeepsItsShortfall(t *testing.T) {
	older, err := ParseLimits("requests 5/s,10/d")
	require.NoError(t, err)
	newer, err := ParseLimits("requests 5/s")
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

// While units are leased, no rate is full, and a former rate that is not full is
// kept.
func TestLeasedUnitsCountInFormerRates(t *testing.T) {
	first, err := ParseLimits("requests 1/ms")
	require.NoError(t, err)
	second, err := ParseLimits("requests 1/s,10/h")
	require.NoError(t, err)
	third, err := ParseLimits("requests 10/h")
	require.NoError(t, err)
	var key absentWhenIdle
	require.EqualValues(t, 1, key.lease(t, 0, 1, first, 1, 1))
	key.open(0, second, 2)
	require.EqualValues(t, 1, key.lease(t, 5*time.Second, 2, second, 2, 1)) // the first lease has expired; only ten an hour is not full
	key.open(int64(5*time.Second), third, 3)
	former := key.former
	require.NotNil(t, former)
	assert.ElementsMatch(t, Rates{first.Requests[0], second.Requests[0]}, former.Requests)
}
