package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
)

// asDemo is the environment variable that makes the test program run as the demo.
const asDemo = "CHOKED_TEST_IS_THE_DEMO"

// TestMain makes the test program run as a worker or as the demo if the
// environment says so.
func TestMain(m *testing.M) {
	if os.Getenv(workerEnv) != "" || os.Getenv(asDemo) != "" {
		main()
	}
	os.Exit(m.Run())
}

// demonstrate runs the whole program and returns its summary and its table.
func demonstrate(t *testing.T, args ...string) (s summary, table string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	status := run(t.Context(), append(args, "-json"), &stdout, &stderr)
	t.Logf("%s", stderr.String())
	require.Zero(t, status, "exit status")
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &s), "standard output is one JSON object: %q", stdout.String())
	return s, stderr.String()
}

func TestClusterKeepsTheLimitsWhenItsLeaderIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 15 s")
	}
	s, table := demonstrate(t, "-for", "12s")
	assert.Zero(t, s.Over, "units over the bound, proved")
	assert.Contains(t, s.Killed, ", the leader")
	assert.Contains(t, table, "was restarted and served", "the killed worker is restarted")
	assert.Positive(t, s.LeaderChanges)
	assert.Greater(t, s.Admitted, int64(50), "more than the burst")
	assert.Zero(t, s.Crashes)
}

func TestServiceKeepsTheLimitsOfItsClients(t *testing.T) {
	s, _ := demonstrate(t, "-for", "4s", "-store", "http")
	assert.Zero(t, s.Over)
	assert.Equal(t, "worker-1", s.Killed)
	assert.Zero(t, s.Crashes)
	assert.Greater(t, s.Use, 0.85, "all but the leases of the killed worker")
	assert.Greater(t, s.Jain, 0.8)
}

func TestLocalKeepsTheLimitsByFixedShares(t *testing.T) {
	s, _ := demonstrate(t, "-for", "2s", "-store", "local", "-workers", "2", "-kill=false")
	assert.Zero(t, s.Over)
	assert.Zero(t, s.LeaderChanges)
	assert.Positive(t, s.Exchanges)
}

func TestProviderRefusesWithoutAStore(t *testing.T) {
	s, _ := demonstrate(t, "-for", "2s", "-store", "none", "-kill=false")
	assert.Positive(t, s.Refused, "answers of 429")
	assert.Empty(t, s.Calibration, "no estimates")
	assert.Positive(t, s.Over, "units over the bound")
}

func TestWrongEstimatesAreCorrected(t *testing.T) {
	s, table := demonstrate(t, "-for", "3s", "-store", "local", "-workers", "1", "-kill=false", "-bias", "1.5", "-tokens", "60000/m burst 500")
	assert.Zero(t, s.Over, "estimates that are too high do not exceed the limit")
	if assert.Len(t, s.Calibration, 1, "a factor for each worker") {
		assert.InDelta(t, 1/1.5, s.Calibration[0], 0.03, "the factor that corrects the estimates")
	}
	assert.Contains(t, table, "corrected by the usage that the provider reported")
}

func TestInterruptPrintsTheSummary(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	var stdout bytes.Buffer
	table := &watched{on: "\n   1.", then: interrupt}
	assert.Zero(t, run(ctx, []string{"-for", "0", "-store", "local", "-json"}, &stdout, table))
	var s summary
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &s))
	assert.Positive(t, s.Admitted)
}

// watched is a writer that calls then, once, when on has been written to it.
type watched struct {
	written bytes.Buffer
	on      string
	then    func()
	called  bool
}

func (w *watched) Write(b []byte) (int, error) {
	n, err := w.written.Write(b)
	if !w.called && strings.Contains(w.written.String(), w.on) {
		w.called = true
		w.then()
	}
	return n, err
}

func (w *watched) String() string { return w.written.String() }

func TestWorkerEndsWithItsInput(t *testing.T) {
	var logs bytes.Buffer
	assert.Equal(t, 1, work(strings.NewReader(""), io.Discard, &logs))
	assert.Contains(t, logs.String(), "read job: EOF")

	p, err := startProvider(choked.MustLimits("requests 50/s"), durationRange{})
	require.NoError(t, err)
	defer p.close()
	j, err := json.Marshal(job{Name: "worker-1", Provider: p.url(), Limits: choked.MustLimits("requests 5/s"), Callers: 2, Bias: 1,
		Records: filepath.Join(t.TempDir(), "records"), Store: "local"})
	require.NoError(t, err)
	var out bytes.Buffer
	assert.Zero(t, work(strings.NewReader(string(j)+"\nbegin\n"), &out, t.Output()), "exit status")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var last status
	require.NoError(t, json.Unmarshal([]byte(lines[len(lines)-1]), &last))
	assert.True(t, last.Final, "the last status is final")
}
