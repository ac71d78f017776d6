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

// The test's program is the workers' too.
func TestMain(m *testing.M) {
	fleet.Main()
	os.Exit(m.Run())
}

// need skips the test when something is missing, or fails it where all tests
// are to run.
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

// begin prepares a fleet of n workers for a test, and starts none.
func begin(t *testing.T, n int) *fleet.Fleet {
	return prepare(t, func(dir string) (*fleet.Fleet, error) { return fleet.New(dir, n) })
}

// start starts a fleet of n workers for a test, which is whole.
func start(t *testing.T, n int) *fleet.Fleet {
	f := begin(t, n)
	startAll(t, f)
	return f
}

func startAll(t *testing.T, f *fleet.Fleet) {
	t.Helper()
	require.NoError(t, f.StartAll(nil))
	require.NoError(t, f.Served(30*time.Second, 5))
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
		f.Abandon()
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

// within returns what was admitted in a span of time after an instant.
func within(rs []history.Record, at int64, span time.Duration) []history.Record {
	return slices.DeleteFunc(slices.Clone(rs), func(r history.Record) bool {
		return r.Before < at || r.After > at+int64(span)
	})
}

// leaderDies is how long nobody may be served when the leader dies. Ninety-nine of a
// hundred times it is less than a second and a half; but when two stand for election
// at the same instant, or one that lacks the last entry, the next try is up to a second
// later.
const leaderDies = 2500 * time.Millisecond

// finish ends a test's fleet and holds what it has admitted against the bound,
// and against what the logs say was granted. After the faults named, nobody who
// had a demand and was not hit may have waited longer than gap, and what is allowed
// for a machine that was late.
func finish(t *testing.T, f *fleet.Fleet, gap time.Duration, faults ...string) ([]history.Record, fleet.Ledger) {
	t.Helper()
	rs := stop(t, f)
	ledger, err := f.Audit()
	require.NoError(t, err)
	admitted := f.Limits.Limited(fleet.Total(rs))
	assert.True(t, ledger.Granted.Covers(admitted), "admitted is %v, granted %v", admitted, ledger.Granted)
	t.Log("the books:", ledger)
	judge(t, f, rs, ledger, gap, faults...)
	return rs, ledger
}

// stop ends a test's fleet, and returns what it has admitted.
func stop(t *testing.T, f *fleet.Fleet) []history.Record {
	t.Helper()
	require.NoError(t, f.Stop(), "who is asked to leaves")
	require.NoError(t, f.Alarms())
	rs, err := f.Records()
	require.NoError(t, err)
	return rs
}

// allowed is how long something may take that is to take no longer than span, when
// the machine was late meanwhile. Several were late at once, so that the sum of it
// exceeds any wait: no more of it counts than as long again, or a second, or a test
// on a slow machine could not fail.
func allowed(span, late time.Duration) time.Duration {
	return span + min(late, max(span, time.Second))
}

// judge is what finish does of a fleet of which there may be no log.
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
		// Further than can be allowed, or a longer wait would not show.
		for _, r := range f.Recoveries(rs, what, max(10*time.Second, 3*gap)) {
			row.Times++
			row.Recovery, late = append(row.Recovery, r.Gap), append(late, r.Late)
			assert.LessOrEqual(t, r.Gap, allowed(gap, r.Late), "after %s, when the machine was late by %v: for how long somebody was not served", what, r.Late)
		}
		assert.NotZero(t, row.Times, what)
		t.Log("figures:", row)
		t.Logf("after %s the machine was late by %s", what, fleet.Quantiles(late))
		row = fleet.Row{} // the rest of it is told once
	}
}
