//go:build linux

package integration

import (
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/integration/internal/fleet"
)

// mostOfDir is the most that docs/production.md says a Dir takes while the state is small.
const mostOfDir = 20 << 20

// Three workers on disks of 24 MB admit some hundred calls a second, and no disk fills up.
// CHOKED_SOAK=5m is how long: a log of Raft grows by some MB a minute.
func TestSmallDisksDoNotFillUp(t *testing.T) {
	long(t) // the bound itself is a test of package cluster
	need(t, fleet.NeedsForMount())
	span := 8 * time.Second
	if s := os.Getenv("CHOKED_SOAK"); s != "" {
		var err error
		span, err = time.ParseDuration(s)
		require.NoError(t, err, "CHOKED_SOAK")
	}
	f := begin(t, 3)
	f.Limits = choked.MustLimits("requests 400/s burst 50")
	for slot := range 3 {
		remove, err := f.SmallDisk(slot, 24<<20)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, remove()) })
	}
	startAll(t, f)
	before, began, most := sent(f), time.Now(), int64(0)
	for time.Since(began) < span {
		time.Sleep(time.Second)
		for slot := range 3 {
			most = max(most, taken(t, f.StateDir(slot)))
		}
	}
	rate := float64(sent(f)-before) / time.Since(began).Seconds()
	t.Logf("figures: %s: %.0f admissions/s for %v, a Dir takes at most %.1f MB", t.Name(), rate, span, float64(most)/1e6)
	assert.Greater(t, rate, 100.0, "admissions a second")
	assert.Less(t, most, int64(mostOfDir))
	require.NoError(t, f.AwaitComplete(10*time.Second), "no disk has failed")
	rs := killed(t, f)
	judge(t, f, rs, fleet.Ledger{}, 0)
}

// taken is how many bytes the files below dir take on the disk.
func taken(t *testing.T, dir string) (n int64) {
	t.Helper()
	err := filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil // files come and go meanwhile
		}
		if info, err := e.Info(); err == nil {
			n += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	require.NoError(t, err)
	return n
}
