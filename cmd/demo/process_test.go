//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
)

// Ctrl-C in a terminal, and the stop of a service, may signal all processes of a
// group. Only the demo reacts: the others run until they have reported what the
// summary needs.
func TestSignalToTheProcessGroupPrintsTheSummary(t *testing.T) {
	redisServer(t) // skips the test if Redis is not installed
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-store", "redis", "-for", "0", "-json")
			cmd.Env = append(os.Environ(), asDemo+"=1", "TMPDIR="+t.TempDir())
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			var stdout bytes.Buffer
			table := &watched{on: "\n   1.", then: func() { syscall.Kill(-cmd.Process.Pid, sig) }}
			cmd.Stdout, cmd.Stderr = &stdout, table
			err := cmd.Run()
			t.Logf("%s", table)
			require.NoError(t, err, "exit status")
			var s summary
			require.NoError(t, json.Unmarshal(stdout.Bytes(), &s), "standard output is one JSON object: %q", stdout.String())
			assert.Positive(t, s.Admitted)
			assert.Zero(t, s.Crashes)
			assert.Positive(t, s.StoreCalls, "Redis runs until its calls are counted")
		})
	}
}

func TestChildIgnoresSignalsAndEndsWithItsInput(t *testing.T) {
	p, err := startProvider(choked.MustLimits("requests 50/s"), durationRange{})
	require.NoError(t, err)
	defer p.close()
	j, err := json.Marshal(job{Name: "worker-1", Provider: p.url(), Limits: choked.MustLimits("requests 5/s"), Callers: 1, Bias: 1,
		Records: filepath.Join(t.TempDir(), "records"), Store: "local"})
	require.NoError(t, err)
	for _, tt := range []struct{ kind, input string }{{"worker", string(j) + "\n"}, {serviceArg, ""}} {
		t.Run(tt.kind, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env = append(os.Environ(), workerEnv+"="+tt.kind)
			cmd.Stderr = t.Output()
			in, err := cmd.StdinPipe()
			require.NoError(t, err)
			out, err := cmd.StdoutPipe()
			require.NoError(t, err)
			require.NoError(t, cmd.Start())
			_, err = io.WriteString(in, tt.input)
			require.NoError(t, err)
			output := bufio.NewReader(out)
			_, err = output.ReadString('\n')
			require.NoError(t, err, "it runs")
			require.NoError(t, cmd.Process.Signal(syscall.SIGINT))
			require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			require.NoError(t, in.Close())
			_, err = io.Copy(io.Discard, output)
			require.NoError(t, err)
			assert.NoError(t, cmd.Wait(), "exit status")
		})
	}
}

// A pipe can be read once only, but a restarted worker needs the prompts again.
func TestRestartedWorkerHasPromptsFromAPipe(t *testing.T) {
	const text = "To be, or not to be."
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer r.Close()
	_, err = w.WriteString(text)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	s, table := demonstrate(t, "-prompts", fmt.Sprint("/dev/fd/", r.Fd()), "-for", "6s", "-store", "local", "-workers", "2")
	assert.Contains(t, table, "was restarted and served")
	assert.Zero(t, s.Crashes)
	assert.Positive(t, s.Admitted)
	assert.Equal(t, countTokens(text)*s.Admitted, s.Tokens, "all sent that text")
}
