//go:build linux

package integration

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/integration/internal/fleet"
)

func TestKillLeader(t *testing.T) {
	f := start(t, 3)
	for range 3 {
		leader, err := f.AwaitLeader(10 * time.Second)
		require.NoError(t, err)
		require.NoError(t, f.Inject("kill the leader", leader, leader.Kill))
		require.NoError(t, f.AwaitServed(30*time.Second, 20), "the others are served")
		_, err = f.Start(leader.Job.Slot, nil)
		require.NoError(t, err)
		require.NoError(t, f.AwaitComplete(30*time.Second), "the killed worker rejoins with its state")
		require.NoError(t, f.AwaitServed(30*time.Second, 20))
	}
	finish(t, f, leaderDies, "kill the leader")
}

func TestKillHolder(t *testing.T) {
	f := start(t, 3)
	leader, err := f.AwaitLeader(10 * time.Second)
	require.NoError(t, err)
	victim := f.Slot((leader.Job.Slot + 1) % 3)
	require.NoError(t, victim.Await(10*time.Second, "holds a lease", func(s fleet.Status) bool { return !s.Leased.IsZero() }))
	require.NoError(t, f.Inject("kill a holder", victim, victim.Kill))
	require.NoError(t, f.AwaitServed(30*time.Second, 250)) // 500 calls by both workers take five seconds

	rs, ledger := finish(t, f, time.Second, "kill a holder")
	if hadQuorum(t, f) {
		assert.LessOrEqual(t, len(ledger.Lost), 1, "holders of lost leases, besides the killed worker: %v", ledger.Lost)
	}
	for _, lost := range ledger.Lost {
		assert.True(t, f.Limits.Burst().Covers(lost), "lost quota exceeds the burst: %v", lost)
	}
	expired := f.Faults[0].At + int64(float64(bucket.TTL)*(1+bucket.Drift)) + int64(200*time.Millisecond)
	span := 2 * time.Second
	assert.GreaterOrEqual(t, fleet.Total(within(rs, expired, span)).Requests, int64(85*span/time.Second),
		"after the expiry of its leases the others have the whole rate of 100/s")
}

func TestKillAll(t *testing.T) {
	f := begin(t, 3)
	f.Limits = fleet.Slow
	require.NoError(t, f.StartAll(nil))
	require.NoError(t, f.AwaitServed(30*time.Second, 40)) // more than the burst, by all workers together
	for range 2 {
		require.NoError(t, f.Inject("kill all", f.Slot(0), func() error {
			return errors.Join(f.Slot(0).Kill(), f.Slot(1).Kill(), f.Slot(2).Kill())
		}))
		startAll(t, f)
	}
	finish(t, f, 8*time.Second, "kill all") // start, read the disk, discover each other and elect a leader
}
