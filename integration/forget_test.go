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

// All members lose their disks at once, after the burst was spent. Of that nobody
// knows any more: a burst is spent once more, or, where the buckets are to begin
// empty, all wait for the refill.
func TestTotalLoss(t *testing.T) {
	for _, how := range []cluster.ColdStart{cluster.Full, cluster.Empty} {
		name, err := how.MarshalText()
		require.NoError(t, err)
		t.Run(string(name), func(t *testing.T) {
			f := begin(t, 3)
			f.Limits = choked.MustLimits("10/s burst 50", "")
			begins := func(j *fleet.Job) { j.ColdStart = how }
			require.NoError(t, f.StartAll(begins))
			require.NoError(t, f.Served(30*time.Second, 20)) // more than the burst, by all together
			first := clusterOf(t, f, 0)

			require.NoError(t, f.Do("lose all", f.Slot(0), func() error { return killAll(f) }))
			for slot := range 3 {
				require.NoError(t, os.RemoveAll(f.State(slot)))
			}
			require.NoError(t, f.StartAll(begins))
			require.NoError(t, f.Served(30*time.Second, 15))
			assert.NotEqual(t, first, clusterOf(t, f, 0), "it is another cluster")

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
				assert.LessOrEqual(t, history.Check(life, f.Limits).Proved, 1e-6, "units over the bound, in one life")
			}
			again := history.Check(rs, f.Limits)
			t.Log("figures:", fleet.Row{What: t.Name(), Times: 1, Admissions: len(rs), Worst: again})
			if how == cluster.Empty {
				assert.LessOrEqual(t, again.Proved, 1e-6, "units over the bound, in both")
				return
			}
			assert.LessOrEqual(t, again.Proved, 50+1e-6, "a burst is spent once more")
			assert.Greater(t, history.Check(lives[1], choked.MustLimits("10/s burst 5", "")).Suspect, 0.0, "and it is")
		})
	}
}

// As Kubernetes has it in a Deployment: workers that keep nothing are started
// together, and find each other by a name that stands for all that run. A new
// release replaces one after the other by one at another address. In the end
// none of the first is left, and one is lost without a word.
func TestDeployment(t *testing.T) {
	f := begin(t, 7)
	forgets := func(j *fleet.Job) { j.Dir = "" }
	for slot := range 3 {
		_, err := f.Start(slot, forgets)
		require.NoError(t, err)
	}
	require.NoError(t, f.Whole(30*time.Second))
	require.NoError(t, f.Served(30*time.Second, 20))
	refused, _ := calls(f)
	add := func(slot int, others ...int) {
		t.Helper()
		f.SeedBy(append([]int{slot}, others...)...) // the newcomer first: it is the one who would found
		_, err := f.Start(slot, forgets)
		require.NoError(t, err)
		require.NoError(t, f.Whole(30*time.Second))
		require.NoError(t, f.Served(30*time.Second, 20))
	}
	for slot := range 3 {
		add(slot+3, slot, slot+1, slot+2)
		old := f.Slot(slot)
		require.NoError(t, f.Do("leave", old, func() error { return old.Leave(20 * time.Second) }))
		require.NoError(t, f.Whole(30*time.Second))
		require.NoError(t, f.Served(30*time.Second, 20))
	}
	noQuorum, failed := calls(f)
	if hadQuorum(t, f) {
		assert.Equal(t, refused, noQuorum, "calls refused for want of a quorum, since there was a cluster")
	}
	assert.Zero(t, failed)

	leader, err := f.Leader(10 * time.Second)
	require.NoError(t, err)
	require.NoError(t, f.Do("kill the leader", leader, leader.Kill))
	require.NoError(t, f.Served(30*time.Second, 20))
	var left []int
	for _, p := range f.Running() {
		left = append(left, p.Job.Slot)
	}
	add(6, left...)
	judge(t, f, stop(t, f), fleet.Ledger{}, leaderDies, "leave", "kill the leader")
}
