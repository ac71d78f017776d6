//go:build linux

package integration

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/integration/internal/fleet"
	"github.com/choked/choked/internal/testkit/history"
)

// calls counts what came to nothing, over all workers.
func calls(f *fleet.Fleet) (noQuorum, failed int64) {
	for _, p := range f.All() {
		s := p.Status()
		noQuorum, failed = noQuorum+s.NoQuorum, failed+s.Failed
	}
	return noQuorum, failed
}

// hadQuorum reports whether the fleet cannot have been without a leader for the
// machine's sake: a worker that does not get its turn for half of the time that
// an election takes is no good leader, nor one who votes in time.
func hadQuorum(t *testing.T, f *fleet.Fleet) bool {
	t.Helper()
	stall := f.Stall()
	if stall > 250*time.Millisecond {
		t.Logf("a worker had to wait %v for its turn: who was refused for want of a quorum is not judged", stall)
		return false
	}
	return true
}

// servedWithin reports whether nobody waited longer than span after the faults
// named. Where finish allows more, as the machine was late, calls are refused and
// leases expire.
func servedWithin(t *testing.T, f *fleet.Fleet, rs []history.Record, span time.Duration, faults ...string) bool {
	t.Helper()
	for _, what := range faults {
		for _, r := range f.Recoveries(rs, what, 10*time.Second) {
			if r.Gap >= span {
				t.Logf("somebody was not served for %v after %s: who was refused, and what has expired, is not judged", r.Gap, what)
				return false
			}
		}
	}
	return true
}

// One worker alone is a cluster. Nineteen more come, some at a time, and nobody
// changes any setting; all but one go again, and one of them is killed. One comes
// back under the name of a dead one, without its disk.
func TestChurn(t *testing.T) {
	const most = 20
	f := begin(t, most)
	f.Seeds = f.Seeds[:1]
	join := func(slots ...int) {
		t.Helper()
		for _, slot := range slots {
			_, err := f.Start(slot, func(j *fleet.Job) {
				j.Callers = 3
				if slot > 2 {
					j.Dir = "" // as in a container that keeps nothing
				}
			})
			require.NoError(t, err)
		}
		require.NoError(t, f.Whole(30*time.Second))
		require.NoError(t, f.Served(30*time.Second, 5))
	}
	leave := func(slots ...int) {
		t.Helper()
		var all sync.WaitGroup
		errs := make([]error, len(slots))
		f.Faults = append(f.Faults, fleet.Fault{At: history.Now(), What: "leave", Slot: slots[0]})
		for i, slot := range slots {
			all.Go(func() { errs[i] = f.Slot(slot).Leave(20 * time.Second) })
		}
		all.Wait()
		require.NoError(t, errors.Join(errs...))
		require.NoError(t, f.Whole(30*time.Second))
		require.NoError(t, f.Served(30*time.Second, 20))
	}
	join(0)
	refused, _ := calls(f)
	join(1, 2, 3, 4)
	for slot := 5; slot < most; slot += 5 {
		join(slot, slot+1, slot+2, slot+3, slot+4)
	}

	dead := f.Slot(3)
	require.NoError(t, f.Do("kill a member", dead, dead.Kill))
	join(3)
	assert.NotEqual(t, dead.Status().ID, f.Slot(3).Status().ID, "it is another node under the same name")

	leave(0) // the founder
	for slot := most - 5; slot >= 5; slot -= 5 {
		leave(slot, slot+1, slot+2, slot+3, slot+4)
	}
	leave(4)
	leave(1)
	leave(3)
	noQuorum, failed := calls(f)
	assert.Zero(t, failed)
	rs, ledger := finish(t, f, 3*time.Second, "kill a member", "leave")
	if hadQuorum(t, f) && servedWithin(t, f, rs, bucket.TTL, "kill a member", "leave") {
		assert.Equal(t, refused, noQuorum, "once there is a cluster, nobody is refused for want of a quorum")
		assert.LessOrEqual(t, len(ledger.Lost), 1, "nobody but the dead one has lost a lease: %v", ledger.Lost)
	}
}

// All members are restarted, one after the other, under load. None of the others
// notices, and no lease is lost.
func TestRollingRestart(t *testing.T) {
	f := begin(t, 3)
	f.Limits = choked.MustLimits("600/s burst 60", "") // so that who is served at all is served all the time
	startAll(t, f)
	refused, _ := calls(f)
	for slot := range 3 {
		p := f.Slot(slot)
		require.NoError(t, f.Do("leave", p, func() error { return p.Leave(20 * time.Second) }))
		require.NoError(t, f.Do("return", p, func() error { _, err := f.Start(slot, nil); return err }))
		require.NoError(t, f.Whole(30*time.Second))
		require.NoError(t, f.Served(30*time.Second, 20))
	}
	noQuorum, failed := calls(f)
	assert.Zero(t, failed)
	// Some 60 ms by themselves, 220 under the race detector with another test beside.
	_, ledger := finish(t, f, 500*time.Millisecond, "leave", "return")
	if hadQuorum(t, f) {
		assert.Equal(t, refused, noQuorum, "nobody is refused for want of a quorum")
		assert.Zero(t, ledger.Expired, "who leaves returns what it has")
	}
}
