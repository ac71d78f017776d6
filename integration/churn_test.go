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

// calls returns how many calls of all workers failed, for want of a quorum and for
// other reasons.
func calls(f *fleet.Fleet) (noQuorum, failed int64) {
	for _, p := range f.All() {
		s := p.Status()
		noQuorum, failed = noQuorum+s.NoQuorum, failed+s.Failed
	}
	return noQuorum, failed
}

// hadQuorum reports whether no worker waited for a processor for more than half an
// election timeout. Otherwise the load of the machine may have cost the leader its
// majority, and calls without a quorum are no failure of the code.
func hadQuorum(t *testing.T, f *fleet.Fleet) bool {
	t.Helper()
	stall := f.LongestStall()
	if stall > 250*time.Millisecond {
		t.Logf("a worker waited %v for a processor: calls without a quorum are not checked", stall)
		return false
	}
	return true
}

// servedWithin reports whether the recovery from each of the named faults took less
// than span. If finish allowed more because the machine was late, calls may have
// been refused and leases may have expired.
func servedWithin(t *testing.T, f *fleet.Fleet, rs []history.Record, span time.Duration, faults ...string) bool {
	t.Helper()
	for _, what := range faults {
		for _, r := range f.Recoveries(rs, what, 10*time.Second) {
			if r.Gap >= span {
				t.Logf("recovery after %[2]s took %[1]v: refused calls and expired leases are not checked", r.Gap, what)
				return false
			}
		}
	}
	return true
}

// A cluster grows from one worker to twenty and shrinks to one again, without a
// change of settings. Meanwhile one worker is killed, and another one is started
// under its name without its disk.
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
					j.Dir = "" // as in a container without a volume
				}
			})
			require.NoError(t, err)
		}
		require.NoError(t, f.AwaitComplete(30*time.Second))
		require.NoError(t, f.AwaitServed(30*time.Second, 5))
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
		require.NoError(t, f.AwaitComplete(30*time.Second))
		require.NoError(t, f.AwaitServed(30*time.Second, 20))
	}
	join(0)
	refused, _ := calls(f)
	join(1, 2, 3, 4)
	for slot := 5; slot < most; slot += 5 {
		join(slot, slot+1, slot+2, slot+3, slot+4)
	}

	dead := f.Slot(3)
	require.NoError(t, f.Inject("kill a member", dead, dead.Kill))
	join(3)
	assert.NotEqual(t, dead.Status().ID, f.Slot(3).Status().ID, "a new node has the name of the dead one")

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
		assert.Equal(t, refused, noQuorum, "calls refused for want of a quorum, once there is a cluster")
		assert.LessOrEqual(t, len(ledger.Lost), 1, "holders of lost leases, besides the killed worker: %v", ledger.Lost)
	}
}

// All members are restarted, one after the other, under load. The others are served
// without a longer gap, and no lease is lost.
func TestRollingRestart(t *testing.T) {
	f := begin(t, 3)
	f.Limits = choked.MustLimits("requests 600/s burst 60") // high enough that every worker is served continually
	startAll(t, f)
	refused, _ := calls(f)
	for slot := range 3 {
		p := f.Slot(slot)
		require.NoError(t, f.Inject("leave", p, func() error { return p.Leave(20 * time.Second) }))
		require.NoError(t, f.Inject("return", p, func() error { _, err := f.Start(slot, nil); return err }))
		require.NoError(t, f.AwaitComplete(30*time.Second))
		require.NoError(t, f.AwaitServed(30*time.Second, 20))
	}
	noQuorum, failed := calls(f)
	assert.Zero(t, failed)
	// The longest gap is some 60 ms, or 220 ms under the race detector with another test in parallel.
	_, ledger := finish(t, f, 500*time.Millisecond, "leave", "return")
	if hadQuorum(t, f) {
		assert.Equal(t, refused, noQuorum, "calls refused for want of a quorum")
		assert.Zero(t, ledger.Expired, "a leaving worker returns its leases")
	}
}
