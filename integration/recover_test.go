//go:build linux

package integration

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/integration/internal/fleet"
	"github.com/choked/choked/internal/testkit/history"
)

// loseDirs spends the whole limit of a fleet of three, kills all, empties the directories of
// the first two, and starts all again. It returns when the third one's Health, and that of the
// others, says what to do. It returns what the first one's directory held, too.
func loseDirs(t *testing.T, f *fleet.Fleet) (kept string) {
	t.Helper()
	f.Limits = choked.MustLimits("requests 100/h")
	require.NoError(t, f.StartAll(nil))
	require.NoError(t, f.Slot(0).Await(20*time.Second, "the limit is spent", func(fleet.Status) bool {
		return sent(f) == 100
	}))
	time.Sleep(500 * time.Millisecond) // until all three have the last entry
	for slot := range 3 {
		require.NoError(t, f.Slot(slot).Kill())
		require.NoError(t, f.ReadDisk(slot))
	}
	kept = t.TempDir()
	require.NoError(t, os.CopyFS(kept, os.DirFS(f.StateDir(0))))
	for slot := range 2 {
		require.NoError(t, os.RemoveAll(f.StateDir(slot)))
	}
	for slot := range 3 {
		_, err := f.Start(slot, nil)
		require.NoError(t, err)
	}
	for slot := range 3 {
		require.NoError(t, f.Slot(slot).Await(20*time.Second, "says what to do", func(s fleet.Status) bool {
			return strings.Contains(s.Health, "worker-3") && strings.Contains(s.Health, "keeps cluster") &&
				strings.Contains(s.Health, "if they are gone for good, empty its Dir or start it with Recover")
		}))
	}
	return kept
}

func sent(f *fleet.Fleet) (n int64) {
	for _, p := range f.All() {
		n += p.Status().Sent
	}
	return n
}

// Two of three directories are lost. The third member recovers the cluster as
// docs/failures.md says: all are members again, and what was spent stays spent.
func TestRecover(t *testing.T) {
	f := begin(t, 3)
	kept := loseDirs(t, f)
	require.NoError(t, f.Slot(2).Kill())
	began := time.Now()
	_, err := f.Start(2, func(j *fleet.Job) { j.Recover = true })
	require.NoError(t, err)
	require.NoError(t, f.AwaitComplete(25*time.Second))
	t.Logf("figures: %s: a whole cluster %v after the start with Recover", t.Name(), time.Since(began).Round(10*time.Millisecond))
	time.Sleep(time.Second)
	assert.Equal(t, int64(100), sent(f), "nothing is admitted: the limit was spent before")

	require.NoError(t, f.Slot(0).Kill()) // a voter that was lost returns after all
	require.NoError(t, os.RemoveAll(f.StateDir(0)))
	require.NoError(t, os.CopyFS(f.StateDir(0), os.DirFS(kept)))
	back, err := f.Start(0, nil)
	require.NoError(t, err)
	require.NoError(t, back.Await(20*time.Second, "is refused", func(s fleet.Status) bool {
		return strings.Contains(s.Health, "two clusters do not merge")
	}))
	assert.Equal(t, int64(100), sent(f))
	rs := killed(t, f)
	assert.LessOrEqual(t, history.Check(rs, f.Limits).Proved, 1e-6, "units over the bound")
}

// The other way of docs/failures.md: the directory that is left is emptied. The members found
// a new cluster, whose buckets are full.
func TestEmptyTheLastDir(t *testing.T) {
	long(t)
	f := begin(t, 3)
	loseDirs(t, f)
	for slot := range 3 {
		require.NoError(t, f.Slot(slot).Kill())
	}
	require.NoError(t, os.RemoveAll(f.StateDir(2)))
	require.NoError(t, f.StartAll(nil))
	require.NoError(t, f.Slot(0).Await(20*time.Second, "the new limit is spent", func(fleet.Status) bool { return sent(f) == 200 }))
	killed(t, f)
}

// killed kills a fleet and returns what it has admitted.
func killed(t *testing.T, f *fleet.Fleet) []history.Record {
	t.Helper()
	for slot := range f.Hosts {
		require.NoError(t, f.Slot(slot).Kill())
	}
	require.NoError(t, f.CheckLogs())
	rs, err := f.Records()
	require.NoError(t, err)
	return rs
}
