//go:build linux

package integration

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/choked/choked/integration/internal/fleet"
)

// The first three of six workers are the seeds and keep no state. They leave, one
// after the other, and are restarted together. Although they are a majority of the
// seeds, they must join the cluster of the other workers and not found another.
func TestSeedsComeBack(t *testing.T) {
	f := begin(t, 6)
	f.Limits = fleet.Slow
	launch := func(slot int) error {
		_, err := f.Start(slot, func(j *fleet.Job) {
			if slot < len(f.Seeds) {
				j.Dir = ""
			}
		})
		return err
	}
	for slot := range 6 {
		require.NoError(t, launch(slot))
	}
	require.NoError(t, f.AwaitComplete(30*time.Second))
	require.NoError(t, f.AwaitServed(30*time.Second, 20), "more than the burst, by all workers together")
	for slot := range f.Seeds {
		require.NoError(t, f.Slot(slot).Leave(20*time.Second))
		require.NoError(t, f.AwaitComplete(30*time.Second))
	}
	for slot := range f.Seeds {
		require.NoError(t, f.Inject("a seed comes back", f.Slot(slot), func() error { return launch(slot) }))
	}
	require.NoError(t, f.AwaitComplete(30*time.Second), "all are members of one cluster")
	require.NoError(t, f.AwaitServed(30*time.Second, 5))
	finish(t, f, 3*time.Second, "a seed comes back")
}
