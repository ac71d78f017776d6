//go:build linux

package integration

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/integration/internal/fleet"
	"github.com/choked/choked/internal/testkit/history"
)

// A leader is paused for three seconds. Meanwhile another one is elected, and the
// decisions that the old leader makes after the pause are not accepted.
func TestPauseLeader(t *testing.T) {
	f := start(t, 3)
	for range 2 {
		leader, err := f.AwaitLeader(10 * time.Second)
		require.NoError(t, err)
		require.NoError(t, f.Inject("pause the leader", leader, leader.Pause))
		paused := history.Now()
		require.NoError(t, f.AwaitServed(30*time.Second, 20), "the others are served")
		time.Sleep(3*time.Second - time.Duration(history.Now()-paused)) // the fault itself
		require.NoError(t, leader.Resume())
		require.NoError(t, f.AwaitServed(30*time.Second, 20), "all are served")
		require.NoError(t, f.AwaitComplete(30*time.Second))
	}
	finish(t, f, 3*time.Second, "pause the leader")
}

// A holder that is paused until its leases have expired does not spend them after
// the pause: meanwhile the bucket was refilled, and the other workers have spent
// the quota.
func TestPauseHolder(t *testing.T) {
	f := begin(t, 3)
	f.Limits = choked.MustLimits("requests 300/s burst 60") // large enough for leases of many units
	startAll(t, f)
	for range 3 {
		leader, err := f.AwaitLeader(10 * time.Second)
		require.NoError(t, err)
		holder := f.Slot((leader.Job.Slot + 1) % 3)
		others := []*fleet.Process{leader, f.Slot((leader.Job.Slot + 2) % 3)}
		for _, p := range others { // without callers, so that the holder's leases are larger
			require.NoError(t, p.SetCallers(0))
		}
		require.NoError(t, holder.SetCallers(holder.Job.Callers)) // it has 20 if it was one of the others before
		// The time of admission is unknown for the calls that wait when the pause begins.
		// Those are at most a third of the leased units.
		err = holder.Await(10*time.Second, "holds a lease", func(s fleet.Status) bool { return s.Leased.Requests > held(holder) })
		require.NoError(t, err)
		require.NoError(t, f.Inject("pause a holder", holder, holder.Pause))
		paused := history.Now()
		// Wait until the lease has expired at the leader and the bucket is full again.
		pause := time.Duration(float64(bucket.TTL)*(1+bucket.Drift)) + f.Limits.Requests[0].Span(60) + time.Second
		time.Sleep(pause - time.Duration(history.Now()-paused))
		sent := make([]int64, len(others))
		for i, p := range others {
			sent[i] = p.Status().Sent
			require.NoError(t, p.SendCallers(20))
		}
		for i, p := range others {
			err := p.Await(10*time.Second, "spends more than the burst", func(s fleet.Status) bool { return s.Sent > sent[i]+60 })
			require.NoError(t, err)
		}
		require.NoError(t, holder.Resume())
		require.NoError(t, f.AwaitServed(30*time.Second, 20), "all are served")
		require.NoError(t, f.AwaitComplete(30*time.Second))
	}
	_, ledger := finish(t, f, 0)
	assert.GreaterOrEqual(t, ledger.Expired.Requests, held(f.Slot(0)), "it held a lease when it was paused")
}

// held is the number of leased requests that would show in the records if spent.
func held(p *fleet.Process) int64 { return int64(3 * p.Job.Callers) }
