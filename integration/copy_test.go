//go:build linux

package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/integration/internal/fleet"
	"github.com/choked/choked/internal/testkit/history"
)

// gaveWay reports whether a worker has stepped out in favor of another one at an
// address.
func gaveWay(s fleet.Status, other string) bool {
	return strings.Contains(s.Health, "stepped out") && strings.Contains(s.Health, other)
}

// The only node is killed, its directory is copied, and both are started: one of them
// refuses calls within 5 s, and the bound holds.
func TestCopyOfTheOnlyNode(t *testing.T) {
	f := begin(t, 2)
	f.Limits = fleet.Slow
	f.SetSeeds(0)
	_, err := f.Start(0, nil)
	require.NoError(t, err)
	require.NoError(t, f.AwaitServed(30*time.Second, 20))
	require.NoError(t, f.Slot(0).Kill())
	require.NoError(t, f.CopyDir(0, 1))

	f.SetSeeds(0, 1)
	for slot := range 2 {
		_, err := f.Start(slot, nil)
		require.NoError(t, err)
	}
	for slot := range 2 {
		require.NoError(t, f.Slot(slot).Await(10*time.Second, "it runs", func(s fleet.Status) bool { return s.ID != "" }))
	}
	both := time.Now()
	out := -1
	for out < 0 && time.Since(both) < 10*time.Second {
		for slot := range 2 {
			if gaveWay(f.Slot(slot).Status(), f.Hosts[1-slot]) {
				out = slot
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	require.GreaterOrEqual(t, out, 0, "none has stepped out")
	assert.Less(t, time.Since(both), 5*time.Second)
	t.Logf("one stepped out %v after both had started", time.Since(both))

	require.NoError(t, f.Slot(out).Await(5*time.Second, "refuses calls", func(s fleet.Status) bool { return s.Refused > 10 }))
	assert.Contains(t, f.Slot(out).Status().Error, "store unavailable: stepped out")
	sent := f.Slot(1 - out).Status().Sent
	require.NoError(t, f.Slot(1-out).Await(10*time.Second, "admits calls", func(s fleet.Status) bool { return s.Sent > sent+50 && s.Health == "" }))
	assert.False(t, gaveWay(f.Slot(1-out).Status(), f.Hosts[out]))
	rs := stop(t, f)
	assert.LessOrEqual(t, history.Check(rs, f.Limits).Proved, 1e-6, "units over the bound")
}

// A copy of the directory of one of three voters runs as a fourth node. It steps out,
// and the others are as well as before.
func TestCopyOfAVoter(t *testing.T) {
	f := begin(t, 4)
	for slot := range 3 {
		_, err := f.Start(slot, nil)
		require.NoError(t, err)
	}
	require.NoError(t, f.AwaitComplete(30*time.Second))
	require.NoError(t, f.AwaitServed(30*time.Second, 20))
	require.NoError(t, f.Slot(1).Kill())
	require.NoError(t, f.CopyDir(1, 3))
	_, err := f.Start(1, nil)
	require.NoError(t, err)
	require.NoError(t, f.AwaitComplete(30*time.Second))
	time.Sleep(3 * time.Second) // the copy is the later one, without a doubt

	id := f.Slot(1).Status().ID
	f.FailedDisk[3] = true
	_, err = f.Start(3, nil)
	require.NoError(t, err)
	require.NoError(t, f.Slot(3).Await(5*time.Second, "steps out", func(s fleet.Status) bool { return s.ID == id && gaveWay(s, f.Hosts[1]) }))
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		for slot := range 3 {
			s := f.Slot(slot).Status()
			require.Empty(t, s.Health)
			require.Len(t, s.Members, 3)
			for _, m := range s.Members {
				require.True(t, m.ID != id || strings.HasPrefix(m.Addr, f.Hosts[1]+":"), "its address changes: %v", m)
			}
		}
	}
	require.NoError(t, f.Slot(3).Await(5*time.Second, "refuses calls", func(s fleet.Status) bool { return s.Refused > 10 }))
	assert.Zero(t, f.Slot(3).Status().Sent)
	for slot := range 3 {
		sent := f.Slot(slot).Status().Sent
		require.NoError(t, f.Slot(slot).Await(10*time.Second, "served", func(s fleet.Status) bool { return s.Sent > sent+20 }))
	}
	finish(t, f, 0)
}
