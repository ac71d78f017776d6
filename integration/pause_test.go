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

// A leader that sleeps for three seconds finds another one when it wakes, and
// nothing that it goes on to say counts.
func TestPauseLeader(t *testing.T) {
	f := start(t, 3)
	for range 2 {
		leader, err := f.Leader(10 * time.Second)
		require.NoError(t, err)
		require.NoError(t, f.Do("pause the leader", leader, leader.Pause))
		asleep := history.Now()
		require.NoError(t, f.Served(30*time.Second, 20), "the others are served")
		time.Sleep(3*time.Second - time.Duration(history.Now()-asleep)) // the fault itself
		require.NoError(t, leader.Resume())
		require.NoError(t, f.Served(30*time.Second, 20), "all are served")
		require.NoError(t, f.Whole(30*time.Second))
	}
	finish(t, f, 3*time.Second, "pause the leader")
}

// A holder that sleeps until its leases are over does not spend them when it
// wakes: meanwhile the bucket has filled, and the others have spent that, and
// spend all that comes.
func TestPauseHolder(t *testing.T) {
	f := begin(t, 3)
	f.Limits = choked.MustLimits("300/s burst 60", "") // so that leases are of many units
	startAll(t, f)
	for range 3 {
		leader, err := f.Leader(10 * time.Second)
		require.NoError(t, err)
		sleeper := f.Slot((leader.Job.Slot + 1) % 3)
		others := []*fleet.Process{leader, f.Slot((leader.Job.Slot + 2) % 3)}
		for _, p := range others { // so that the sleeper's leases are larger still
			require.NoError(t, p.Order(0))
		}
		require.NoError(t, sleeper.Order(sleeper.Job.Callers)) // it has more, if it was one of the others before
		// Of the calls that wait when it falls asleep nobody can tell when they were
		// admitted: those are a third of it at most.
		err = sleeper.Await(10*time.Second, "holds a lease", func(s fleet.Status) bool { return s.Leased.Requests > held(sleeper) })
		require.NoError(t, err)
		require.NoError(t, f.Do("pause a holder", sleeper, sleeper.Pause))
		asleep := history.Now()
		// Until its lease has expired at the leader, and the bucket is full again.
		over := time.Duration(float64(bucket.TTL)*(1+bucket.Drift)) + f.Limits.Requests[0].Span(60) + time.Second
		time.Sleep(over - time.Duration(history.Now()-asleep))
		sent := make([]int64, len(others))
		for i, p := range others {
			sent[i] = p.Status().Sent
			require.NoError(t, p.Tell(20))
		}
		for i, p := range others {
			err := p.Await(10*time.Second, "spends more than the burst", func(s fleet.Status) bool { return s.Sent > sent[i]+60 })
			require.NoError(t, err)
		}
		require.NoError(t, sleeper.Resume())
		require.NoError(t, f.Served(30*time.Second, 20), "all are served")
		require.NoError(t, f.Whole(30*time.Second))
	}
	_, ledger := finish(t, f, 0)
	assert.GreaterOrEqual(t, ledger.Expired.Requests, held(f.Slot(0)), "it had something in hand when it was paused")
}

// held is so much in hand that it shows when it is spent.
func held(p *fleet.Process) int64 { return int64(3 * p.Job.Callers) }
