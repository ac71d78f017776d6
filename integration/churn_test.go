//go:build linux

package integration

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/integration/internal/fleet"
)

// calls counts what came to nothing, over all workers.
func calls(f *fleet.Fleet) (noQuorum, failed int64) {
	for _, p := range f.All() {
		s := p.Status()
		noQuorum, failed = noQuorum+s.NoQuorum, failed+s.Failed
	}
	return noQuorum, failed
}

// One worker alone is a cluster. Four more come, at once; all but one go again,
// some of them killed. One comes back under the name of a dead one, without its
// disk.
func TestChurn(t *testing.T) {
	f := begin(t, 5)
	f.Seeds = f.Seeds[:1]
	join := func(slots ...int) {
		t.Helper()
		for _, slot := range slots {
			_, err := f.Start(slot, func(j *fleet.Job) {
				if slot > 2 {
					j.Dir = "" // as in a container that keeps nothing
				}
			})
			require.NoError(t, err)
		}
		require.NoError(t, f.Whole(30*time.Second))
		require.NoError(t, f.Served(10*time.Second, 5))
	}
	join(0)
	refused, _ := calls(f)
	join(1, 2, 3, 4)

	dead := f.Slot(3)
	require.NoError(t, f.Do("kill a member", dead, dead.Kill))
	join(3)
	assert.NotEqual(t, dead.Status().ID, f.Slot(3).Status().ID, "it is another node under the same name")

	for _, slot := range []int{0, 4, 1, 3} { // the founder, too
		p := f.Slot(slot)
		require.NoError(t, f.Do("leave", p, func() error { return p.Leave(20 * time.Second) }))
		require.NoError(t, f.Whole(30*time.Second))
		require.NoError(t, f.Served(10*time.Second, 20))
	}
	noQuorum, failed := calls(f)
	assert.Equal(t, refused, noQuorum, "once there is a cluster, nobody is refused for want of a quorum")
	assert.Zero(t, failed)
	finish(t, f, 3*time.Second, "kill a member", "leave")
}

// All members are restarted, one after the other, under load.
func TestRollingRestart(t *testing.T) {
	f := start(t, 3)
	for slot := range 3 {
		p := f.Slot(slot)
		require.NoError(t, f.Do("leave", p, func() error { return p.Leave(20 * time.Second) }))
		require.NoError(t, f.Do("return", p, func() error { _, err := f.Start(slot, nil); return err }))
		require.NoError(t, f.Whole(30*time.Second))
		require.NoError(t, f.Served(10*time.Second, 20))
	}
	noQuorum, failed := calls(f)
	assert.Zero(t, noQuorum)
	assert.Zero(t, failed)
	finish(t, f, time.Second, "leave", "return")
}
