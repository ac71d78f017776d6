//go:build linux

package integration

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/integration/internal/fleet"
	"github.com/choked/choked/internal/testkit/history"
)

func killAll(f *fleet.Fleet) error {
	var errs []error
	for _, p := range f.Running() {
		errs = append(errs, p.Kill())
	}
	return errors.Join(errs...)
}

// clusterOf returns the id of the cluster in the state of a slot.
func clusterOf(t *testing.T, f *fleet.Fleet, slot int) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(f.StateDir(slot), "identity.json"))
	require.NoError(t, err)
	var id struct{ Cluster string }
	require.NoError(t, json.Unmarshal(b, &id))
	return id.Cluster
}

func TestNewAddresses(t *testing.T) {
	f := begin(t, 3)
	f.Limits = fleet.Slow
	startAll(t, f)
	require.NoError(t, f.AwaitServed(30*time.Second, 35))
	before := clusterOf(t, f, 0)
	old := f.Hosts
	require.NoError(t, f.Inject("move all", f.Slot(0), func() error { return killAll(f) }))
	require.NoError(t, f.Move())
	assert.NotEqual(t, old, f.Hosts)
	for slot := range 3 {
		_, err := f.Start(slot, nil)
		require.NoError(t, err)
	}
	_, err := f.AwaitLeader(10 * time.Second)
	require.NoError(t, err)
	var begun, now = int64(0), history.Now()
	for slot := range 3 {
		begun = max(begun, f.Slot(slot).Status().Up)
	}
	found, late := time.Duration(now-begun), time.Duration(0)
	for slot := range 3 {
		late += f.Slot(slot).Late(begun, now)
	}
	assert.LessOrEqual(t, found, allowed(2*time.Second, late), "time from the last start to a leader; lateness of the machine: %v", late)
	require.NoError(t, f.AwaitComplete(30*time.Second))
	require.NoError(t, f.AwaitServed(30*time.Second, 5))
	for slot := range 3 {
		assert.Equal(t, before, clusterOf(t, f, slot), "the cluster is the same")
	}
	t.Logf("leader elected %v after the last start; lateness of the machine: %v", found, late)
	finish(t, f, 5*time.Second, "move all")
}

func TestStartedTwiceOnOneDir(t *testing.T) {
	f := start(t, 3)
	first := f.Slot(1)
	second, err := f.Start(1, func(j *fleet.Job) { j.Bind = "127.0.0.1:0" })
	require.NoError(t, err)
	assert.Error(t, second.AwaitEnd(20*time.Second))
	assert.Contains(t, second.LogTail(), "raft.db is in use by another process")
	f.SetSlot(1, first)
	require.NoError(t, f.AwaitComplete(30*time.Second), "the first process still runs")
	require.NoError(t, f.AwaitServed(30*time.Second, 20))
	finish(t, f, 0)
}

// The founder loses its disk and is restarted, then another worker is. Both join
// the running cluster: no second cluster is founded, and no quota is added.
func TestEmptyDirs(t *testing.T) {
	f := begin(t, 3)
	f.Limits = fleet.Slow
	startAll(t, f)
	before := clusterOf(t, f, 0)
	require.NoError(t, f.AwaitServed(30*time.Second, 35))
	for slot := range 2 {
		p := f.Slot(slot)
		require.NoError(t, f.Inject("lose a disk", p, p.Kill))
		require.NoError(t, os.RemoveAll(f.StateDir(slot)))
		_, err := f.Start(slot, nil)
		require.NoError(t, err)
		require.NoError(t, f.AwaitComplete(30*time.Second))
		assert.Equal(t, before, clusterOf(t, f, slot), "no second cluster is founded")
		require.NoError(t, f.AwaitServed(30*time.Second, 5))
	}
	finish(t, f, 3*time.Second, "lose a disk")
}

// Seeds that are started apart are two clusters. When they are told of each other, the
// younger one stops deciding and names its directory; the older one goes on.
func TestTwoClustersMeet(t *testing.T) {
	a, b := begin(t, 1), (*fleet.Fleet)(nil)
	dir, err := os.MkdirTemp("", "choked-test-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	b, err = fleet.New(dir, 1)
	require.NoError(t, err)
	t.Cleanup(b.KillAll)
	b.Secret = a.Secret
	startAll(t, a)
	time.Sleep(12 * time.Second) // or their ids would decide
	startAll(t, b)
	assert.NotEqual(t, clusterOf(t, a, 0), clusterOf(t, b, 0))

	p := b.Slot(0)
	require.NoError(t, p.Leave(10*time.Second))
	b.Seeds = append(b.Seeds, a.Seeds...)
	_, err = b.Start(0, nil)
	require.NoError(t, err)
	began := time.Now()
	require.NoError(t, b.Slot(0).Await(20*time.Second, "stops deciding", func(s fleet.Status) bool {
		return strings.Contains(s.Health, "two clusters do not merge") && strings.Contains(s.Health, b.StateDir(0)) && !s.Leads
	}))
	t.Logf("the younger one stopped %v after its start", time.Since(began))
	require.NoError(t, b.Slot(0).Await(10*time.Second, "calls say why", func(s fleet.Status) bool {
		return strings.Contains(s.Error, "two clusters do not merge") && strings.Contains(s.Error, b.StateDir(0))
	}))
	require.NoError(t, a.Slot(0).Await(10*time.Second, "goes on", func(s fleet.Status) bool { return s.Leads && len(s.Members) == 1 }))
	require.NoError(t, a.AwaitServed(30*time.Second, 20))

	// With an empty directory it joins the older one.
	require.NoError(t, b.Slot(0).Leave(20*time.Second))
	require.NoError(t, os.RemoveAll(b.StateDir(0)))
	b.Seeds = a.Seeds
	_, err = b.Start(0, nil)
	require.NoError(t, err)
	require.NoError(t, b.Slot(0).Await(20*time.Second, "joins", func(s fleet.Status) bool {
		return s.Leader == a.Slot(0).Status().ID && s.Leader != "" && len(s.Members) == 2 && s.Sent > 0
	}))
	require.NoError(t, b.Stop())
	require.NoError(t, b.CheckLogs())
	finish(t, a, 0)
}
