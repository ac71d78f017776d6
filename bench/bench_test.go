package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster"
	"github.com/choked/choked/internal/testkit/history"
	"github.com/choked/choked/internal/testkit/ports"
)

// TestMain makes the test program run as a node if it was started as one.
func TestMain(m *testing.M) {
	runAsNode()
	os.Exit(m.Run())
}

func TestRandomOrderHasNearlyAllKeys(t *testing.T) {
	seen := make(map[int]bool)
	for _, i := range randomOrder(10_000) {
		seen[i] = true
	}
	assert.Greater(t, len(seen), 9900)
}

func TestMissedGoalIsAnErrorUnlessExplained(t *testing.T) {
	var g goals
	g.add("speed", "≤ 1", "0.9", true, "")
	g.add("first", "≤ 2", "3", false, "the disk")
	assert.NoError(t, g.err())
	g.add("use", "≥ 99%", "98%", false, "")
	assert.EqualError(t, g.err(), "not reached: use: 98%, want ≥ 99%")

	var text strings.Builder
	sum := g.table()
	sum.write(&text)
	assert.Contains(t, text.String(), "| first | ≤ 2 | 3 | NOT REACHED | the disk |")
	assert.Contains(t, text.String(), "| speed | ≤ 1 | 0.9 | reached |  |")
}

func TestFailedPartKeepsTheResultsOfOthers(t *testing.T) {
	defer func(before []part) { parts = before }(parts)
	parts = []part{
		{"broken", "A failing part", func(context.Context, *config) ([]table, error) { return nil, errors.New("no disk\nno network") }},
		{"sound", "A working part", func(context.Context, *config) ([]table, error) {
			return []table{{head: []string{"a"}, rows: [][]string{{"1"}}}}, nil
		}},
	}
	file := filepath.Join(t.TempDir(), "results")
	assert.EqualError(t, run(t.Context(), []string{"-o", file, "-only", "broken,sound"}, io.Discard), "broken: no disk\nno network")
	written, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Contains(t, string(written), "## A failing part\n\n`go run . -only broken`\n\nFailed: no disk\n")
	assert.Contains(t, string(written), "## A working part\n\n`go run . -only sound`\n\n| a |\n|---|\n| 1 |\n")
}

// A connection may take a free port as its source port before a daemon binds it.
func TestGubernatorRetriesWithOtherPorts(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	tries := 0
	peers, stop, err := openGubernator(t.Context(), func() ([]string, error) {
		addrs, err := ports.Free(4)
		if tries++; tries < 3 && err == nil {
			addrs[tries] = taken.Addr().String()
		}
		return addrs, err
	})
	require.NoError(t, err)
	defer stop()
	assert.Len(t, peers, 2)
	assert.Equal(t, 3, tries)
}

func TestWrongVerdictsAreAnError(t *testing.T) {
	broken := errors.New("broken")
	answering := func(ok bool, err error) contestant {
		return contestant{name: "fake", ours: true, open: func(int, choked.Rate) (func(int) (bool, error), func(), error) {
			return func(int) (bool, error) { return ok, err }, func() {}, nil
		}}
	}
	admitted, refused := scenario{keys: 1}, scenario{keys: 1, refused: true}
	for _, tt := range []struct {
		name string
		s    scenario
		who  contestant
		want string
	}{
		{"refusals where all should be admitted", admitted, answering(false, nil), "0.0% admitted"},
		{"admissions where nearly all should be refused", refused, answering(true, nil), "100.0% admitted"},
		{"errors", admitted, answering(true, broken), "broken"},
	} {
		assert.EqualError(t, tt.s.measure(tt.who, new(sample)), tt.want, tt.name)
	}
}

// failingStore is a store whose leases fail.
type failingStore struct{ choked.Store }

func (failingStore) Lease(context.Context, choked.Ask) (choked.Lease, error) {
	return choked.Lease{}, choked.ErrNoQuorum
}

func TestLoadReturnsErrorsOfCallers(t *testing.T) {
	local := choked.NewLocal()
	defer local.Close()
	l := load{stores: []choked.Store{local, failingStore{local}}, keys: []string{"k"}, limits: choked.MustLimits("requests 10/s"), callers: 1, duration: 100 * time.Millisecond}
	s, err := l.run(t.Context())
	assert.ErrorIs(t, err, choked.ErrNoQuorum)
	assert.Positive(t, s.admitted, "the callers on the other store are admitted")
}

func TestFailedCallsAreCounted(t *testing.T) {
	broken := errors.New("broken")
	fails := func(context.Context) (bool, time.Duration, error) { return false, 0, broken }
	r := compete(t.Context(), []taker{fails}, false, 2, perSecond(10), 50*time.Millisecond)
	assert.Positive(t, r.failed)
	assert.ErrorIs(t, r.err, broken)

	n, f := flatOut(t.Context(), []taker{fails}, 2, 10*time.Millisecond)
	assert.Zero(t, n, "failed calls are no decisions")
	assert.Positive(t, f.failed)
	assert.ErrorIs(t, f.err, broken)
}

func TestGapsExcludeTheEndedWorker(t *testing.T) {
	const ms = int64(time.Millisecond)
	at := func(key uint32, instants ...int64) (rs []history.Record) {
		for _, i := range instants {
			rs = append(rs, history.Record{After: i * ms, Cost: bucket.Cost{Requests: 1}, Key: key})
		}
		return rs
	}
	records := [][]history.Record{
		at(0, 990, 5000),
		at(0, 990, 1010, 1500, 1510, 2000, 2500, 3000, 3490),
		append(at(1, 1001), at(0, 1300, 2000, 2600, 3400)...),
	}
	gaps, all := gapsOf([]fault{{at: 1000 * ms, worker: 0}}, records, 0)
	assert.Equal(t, []time.Duration{500 * time.Millisecond, 800 * time.Millisecond}, gaps, "without the gap of the ended worker")
	assert.Len(t, all, 14, "admissions of this key by all workers")
}

func TestCPUTimeOfAProcess(t *testing.T) {
	d, err := parseStat("42 (a) b) S 1 42 42 0 -1 4194304 1 0 0 0 150 25 0 0 20 0 1 0")
	require.NoError(t, err)
	assert.Equal(t, 1750*time.Millisecond, d, "150 ticks of user time and 25 of system time")
	_, err = parseStat("42 (a) S 1")
	assert.Error(t, err)
	d, err = cpuOf(os.Getpid())
	require.NoError(t, err)
	assert.LessOrEqual(t, d, cpu()+20*time.Millisecond)
}

func TestTrioWithMembersAndClients(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	three, err := startTrio(t.Context(), job{}, true)
	require.NoError(t, err)
	defer func() { assert.NoError(t, three.stop()) }()
	members, stop, err := three.members(t.Context(), 2)
	require.NoError(t, err)
	defer func() { assert.NoError(t, stop()) }()
	for _, m := range members[1].(*cluster.Node).Members() {
		assert.Equal(t, strings.HasPrefix(m.Name, "voter-"), m.Voter, "%s", m.Name)
	}
	_, end, err := three.clients(t.Context(), 4)
	require.NoError(t, err)
	assert.NoError(t, end())
	i, err := three.leader(t.Context())
	require.NoError(t, err)
	three.procs[i].end(syscall.SIGKILL)
	_, err = three.leader(t.Context())
	assert.NoError(t, err, "another voter leads")
}
