//go:build linux

package integration

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/integration/internal/fleet"
	"github.com/choked/choked/internal/testkit/history"
)

// TestMain makes the test program run as a worker if it was started as one.
func TestMain(m *testing.M) {
	fleet.Main()
	os.Exit(m.Run())
}

// need skips the test if a requirement is missing, or fails it if
// CHOKED_REQUIRE_ALL is set.
func need(t *testing.T, missing error) {
	t.Helper()
	switch {
	case missing == nil:
	case os.Getenv("CHOKED_REQUIRE_ALL") == "1":
		t.Fatalf("%v, and CHOKED_REQUIRE_ALL is set", missing)
	default:
		t.Skip(missing)
	}
}

// long skips a test that takes too long for each run of all tests. With CHOKED_LONG=1,
// as in .ci/more, it runs.
func long(t *testing.T) {
	t.Helper()
	if os.Getenv("CHOKED_LONG") != "1" {
		t.Skip("takes long: set CHOKED_LONG=1 to run it")
	}
}

// begin prepares a fleet of n workers and starts none.
func begin(t *testing.T, n int) *fleet.Fleet {
	return prepare(t, func(dir string) (*fleet.Fleet, error) { return fleet.New(dir, n) })
}

// start starts a fleet of n workers and waits until the cluster is complete.
func start(t *testing.T, n int) *fleet.Fleet {
	f := begin(t, n)
	startAll(t, f)
	return f
}

func startAll(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	require.NoError(t, f.StartAll(nil))
	require.NoError(t, f.AwaitServed(30*time.Second, 5))
}

func prepare(t *testing.T, make func(dir string) (*fleet.Fleet, error)) *fleet.Fleet {
	t.Helper()
	if testing.Short() {
		t.Skip("takes seconds")
	}
	t.Parallel()
	dir, err := os.MkdirTemp("", "choked-test-")
	require.NoError(t, err)
	f, err := make(dir)
	require.NoError(t, err)
	t.Cleanup(func() {
		f.KillAll()
		if !t.Failed() && os.Getenv("CHOKED_KEEP") == "" {
			os.RemoveAll(dir)
			return
		}
		t.Logf("faults: %+v", f.Faults)
		logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*"))
		for _, log := range logs {
			b, err := os.ReadFile(log)
			t.Logf("%s (%v):\n%s", log, err, b[max(0, len(b)-6000):])
		}
	})
	return f
}

// within returns the admissions in a span of time that begins at a time.
func within(rs []history.Record, at int64, span time.Duration) []history.Record {
	return slices.DeleteFunc(slices.Clone(rs), func(r history.Record) bool {
		return r.Before < at || r.After > at+int64(span)
	})
}

// leaderDies is the longest allowed recovery from the death of the leader. In 99 of
// 100 cases it takes less than 1.5 s. If two voters become candidates at the same time, or
// a voter that lacks the last entry does, the next election is up to a second later.
const leaderDies = 2500 * time.Millisecond

// finish stops the fleet. It checks the admissions against the bound and against the
// quota that was granted according to the logs. The recovery from each of the named
// faults may take no longer than gap, plus an allowance for a late machine.
func finish(t *testing.T, f *fleet.Fleet, gap time.Duration, faults ...string) ([]history.Record, fleet.Ledger) {
	t.Helper()
	rs := stop(t, f)
	ledger, err := f.Audit()
	require.NoError(t, err)
	admitted := f.Limits.Limited(fleet.Total(rs))
	assert.True(t, ledger.Granted.Covers(admitted), "admitted %v, granted %v", admitted, ledger.Granted)
	t.Log("ledger:", ledger)
	judge(t, f, rs, ledger, gap, faults...)
	return rs, ledger
}

// stop stops the fleet and returns its admissions.
func stop(t *testing.T, f *fleet.Fleet) []history.Record {
	t.Helper()
	require.NoError(t, f.Stop(), "stop the fleet")
	require.NoError(t, f.CheckLogs())
	rs, err := f.Records()
	require.NoError(t, err)
	return rs
}

// allowed returns span plus an allowance for the lateness of the machine. late is a
// sum over several workers that were late at once, so it exceeds any single wait:
// the allowance is at most span, or a second if that is more. Without this cap, a
// test on a slow machine could not fail.
func allowed(span, late time.Duration) time.Duration {
	return span + min(late, max(span, time.Second))
}

// judge does the checks of finish that need no Raft log.
func judge(t *testing.T, f *fleet.Fleet, rs []history.Record, ledger fleet.Ledger, gap time.Duration, faults ...string) {
	t.Helper()
	row := fleet.Row{What: t.Name(), Times: 1, Admissions: len(rs), Worst: history.Check(rs, f.Limits), Lost: ledger.Expired, Leased: ledger.Granted}
	assert.LessOrEqual(t, row.Worst.Proved, 1e-6, "units over the bound, proved")
	if len(faults) == 0 {
		t.Log("figures:", row)
	}
	for _, what := range faults {
		row.What, row.Times = t.Name()+": "+what, 0
		var late []time.Duration
		// The timeout exceeds the largest allowed gap, so that a longer one shows.
		for _, r := range f.Recoveries(rs, what, max(10*time.Second, 3*gap)) {
			row.Times++
			row.Recovery, late = append(row.Recovery, r.Gap), append(late, r.Late)
			assert.LessOrEqual(t, r.Gap, allowed(gap, r.Late), "recovery after %s; lateness of the machine: %v", what, r.Late)
		}
		assert.NotZero(t, row.Times, what)
		t.Log("figures:", row)
		t.Logf("lateness of the machine after %s: %s", what, fleet.Quantiles(late))
		row = fleet.Row{} // the other columns are printed once
	}
}
