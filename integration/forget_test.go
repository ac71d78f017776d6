//go:build linux

package integration

import (
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/cluster"
	"github.com/choked/choked/integration/internal/fleet"
	"github.com/choked/choked/internal/testkit/history"
)

// All members lose their disks at once, after the burst was spent. The cluster has
// lost the record of it: with ColdStart Full another burst is admitted, with Empty
// all callers wait for the refill.
func TestTotalLoss(t *testing.T) {
	for _, coldStart := range []cluster.ColdStart{cluster.Full, cluster.Empty} {
		name, err := coldStart.MarshalText()
		require.NoError(t, err)
		t.Run(string(name), func(t *testing.T) {
			f := begin(t, 3)
			f.Limits = choked.MustLimits("requests 10/s burst 50")
			configure := func(j *fleet.Job) { j.ColdStart = coldStart }
			require.NoError(t, f.StartAll(configure))
			require.NoError(t, f.AwaitServed(30*time.Second, 20)) // more than the burst, by all workers together
			first := clusterOf(t, f, 0)

			require.NoError(t, f.Inject("lose all", f.Slot(0), func() error { return killAll(f) }))
			for slot := range 3 {
				require.NoError(t, os.RemoveAll(f.StateDir(slot)))
			}
			require.NoError(t, f.StartAll(configure))
			require.NoError(t, f.AwaitServed(30*time.Second, 15))
			assert.NotEqual(t, first, clusterOf(t, f, 0), "another cluster is founded")

			rs := stop(t, f)
			var lives [2][]history.Record
			for _, r := range rs {
				life := 0
				if r.Incarnation > 1 {
					life = 1
				}
				lives[life] = append(lives[life], r)
			}
			for _, life := range lives {
				assert.LessOrEqual(t, history.Check(life, f.Limits).Proved, 1e-6, "units over the bound, before or after the loss")
			}
			again := history.Check(rs, f.Limits)
			t.Log("figures:", fleet.Row{What: t.Name(), Times: 1, Admissions: len(rs), Worst: again})
			if coldStart == cluster.Empty {
				assert.LessOrEqual(t, again.Proved, 1e-6, "units over the bound, in the whole run")
				return
			}
			assert.LessOrEqual(t, again.Proved, 50+1e-6, "at most one more burst is admitted")
			assert.Greater(t, history.Check(lives[1], choked.MustLimits("requests 10/s burst 5")).Suspect, 0.0, "the new cluster admits the second burst")
		})
	}
}

// The workers of a Kubernetes Deployment keep no state, are started together and
// find each other by a name that resolves to all running ones. A new release
// replaces them one by one at other addresses. Then the leader is killed and
// replaced.
func TestDeployment(t *testing.T) {
	f := begin(t, 7)
	stateless := func(j *fleet.Job) { j.Dir = "" }
	for slot := range 3 {
		_, err := f.Start(slot, stateless)
		require.NoError(t, err)
	}
	require.NoError(t, f.AwaitComplete(30*time.Second))
	require.NoError(t, f.AwaitServed(30*time.Second, 20))
	refused, _ := calls(f)
	add := func(slot int, others ...int) {
		t.Helper()
		f.SetSeeds(append([]int{slot}, others...)...) // the new worker first: the first seed is the one that founds a cluster
		_, err := f.Start(slot, stateless)
		require.NoError(t, err)
		require.NoError(t, f.AwaitComplete(30*time.Second))
		require.NoError(t, f.AwaitServed(30*time.Second, 20))
	}
	for slot := range 3 {
		add(slot+3, slot, slot+1, slot+2)
		old := f.Slot(slot)
		require.NoError(t, f.Inject("leave", old, func() error { return old.Leave(20 * time.Second) }))
		require.NoError(t, f.AwaitComplete(30*time.Second))
		require.NoError(t, f.AwaitServed(30*time.Second, 20))
	}
	noQuorum, failed := calls(f)
	if hadQuorum(t, f) {
		assert.Equal(t, refused, noQuorum, "calls refused for want of a quorum, once there is a cluster")
	}
	assert.Zero(t, failed)

	leader, err := f.AwaitLeader(10 * time.Second)
	require.NoError(t, err)
	require.NoError(t, f.Inject("kill the leader", leader, leader.Kill))
	require.NoError(t, f.AwaitServed(30*time.Second, 20))
	var left []int
	for _, p := range f.Running() {
		left = append(left, p.Job.Slot)
	}
	add(6, left...)
	judge(t, f, stop(t, f), fleet.Ledger{}, leaderDies, "leave", "kill the leader")
}
