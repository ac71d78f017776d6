//go:build linux

package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/integration/internal/fleet"
	"github.com/choked/choked/internal/history"
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
	require.NoError(t, f.Served(10*time.Second, 5))
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

// finish ends a test's fleet and holds what it has admitted against the bound,
// and against what the logs say was granted. The faults named must
// not have cost more than so long a gap.
func finish(t *testing.T, f *fleet.Fleet, gap time.Duration, faults ...string) ([]history.Record, fleet.Ledger) {
	t.Helper()
	require.NoError(t, f.Stop(), "who is asked to leaves")
	require.NoError(t, f.Alarms())
	rs, err := f.Records()
	require.NoError(t, err)
	worst := history.Check(rs, f.Limits)
	assert.LessOrEqual(t, worst.Proved, 1e-6, "units over the bound, proved")
	figures := fmt.Sprintf("figures: %s: %d admissions, worst excess proved %.2f, suspected %.2f", t.Name(), len(rs), worst.Proved, worst.Suspect)

	ledger, err := f.Audit()
	require.NoError(t, err)
	admitted := f.Limits.Limited(fleet.Total(rs))
	assert.True(t, ledger.Granted.Covers(admitted), "admitted is %v, granted %v", admitted, ledger.Granted)
	figures += "; " + ledger.String()
	for _, what := range faults {
		var gaps, each []time.Duration
		for _, r := range f.Recoveries(rs, what, 10*time.Second) {
			gaps, each = append(gaps, r.Gap), append(each, r.Worst)
			assert.LessOrEqual(t, r.Gap, gap, "how long nobody was served after: %s", what)
		}
		assert.NotEmpty(t, gaps, what)
		figures += fmt.Sprintf("; %s %d times: nobody served for %v; one of them for %v", what, len(gaps), fleet.SpreadOf(gaps), fleet.SpreadOf(each))
	}
	t.Log(figures)
	return rs, ledger
}
