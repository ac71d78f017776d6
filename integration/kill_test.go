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
		leader, err := f.Leader(10 * time.Second)
		require.NoError(t, err)
		require.NoError(t, f.Do("kill the leader", leader, leader.Kill))
		require.NoError(t, f.Served(30*time.Second, 20), "the others are served")
		_, err = f.Start(leader.Job.Slot, nil)
		require.NoError(t, err)
		require.NoError(t, f.Whole(30*time.Second), "it is back, from disk")
		require.NoError(t, f.Served(30*time.Second, 20))
	}
	finish(t, f, leaderDies, "kill the leader")
}

func TestKillHolder(t *testing.T) {
	f := start(t, 3)
	leader, err := f.Leader(10 * time.Second)
	require.NoError(t, err)
	victim := f.Slot((leader.Job.Slot + 1) % 3)
	require.NoError(t, victim.Await(10*time.Second, "holds a lease", func(s fleet.Status) bool { return !s.Leased.IsZero() }))
	require.NoError(t, f.Do("kill a holder", victim, victim.Kill))
	require.NoError(t, f.Served(30*time.Second, 250)) // 500 by both, in five seconds

	rs, ledger := finish(t, f, time.Second, "kill a holder")
	if hadQuorum(t, f) {
		assert.LessOrEqual(t, len(ledger.Lost), 1, "nobody but the dead one has lost a lease: %v", ledger.Lost)
	}
	for _, lost := range ledger.Lost {
		assert.True(t, f.Limits.Burst().Covers(lost), "no more is lost than it can have held: %v", lost)
	}
	back := f.Faults[0].At + int64(float64(bucket.TTL)*(1+bucket.Drift)) + int64(200*time.Millisecond)
	span := 2 * time.Second
	assert.GreaterOrEqual(t, fleet.Total(within(rs, back, span)).Requests, int64(85*span/time.Second),
		"once the leases have expired, the others have the whole rate of 100/s")
}

func TestKillAll(t *testing.T) {
	f := begin(t, 3)
	f.Limits = fleet.Slow
	require.NoError(t, f.StartAll(nil))
	require.NoError(t, f.Served(30*time.Second, 40)) // more than the burst, by all together
	for range 2 {
		require.NoError(t, f.Do("kill all", f.Slot(0), func() error {
			return errors.Join(f.Slot(0).Kill(), f.Slot(1).Kill(), f.Slot(2).Kill())
		}))
		startAll(t, f)
	}
	finish(t, f, 8*time.Second, "kill all") // all start, read their disks, find each other and elect
}
