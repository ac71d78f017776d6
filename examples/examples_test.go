// Package examples_test runs the examples against a service.
package examples_test

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/server"
)

// service serves until the test ends, and returns the environment variables with
// which the examples find it.
func service(t *testing.T) (env []string) {
	t.Helper()
	token, hash := server.NewToken()
	file := filepath.Join(t.TempDir(), "tokens")
	require.NoError(t, os.WriteFile(file, []byte(hash+" examples\n"), 0o600))
	tokens, err := server.OpenTokens(file, nil)
	require.NoError(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := server.New(server.Config{Store: choked.NewLocal(), Tokens: tokens})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		assert.NoError(t, s.Shutdown(ctx))
		assert.NoError(t, <-served)
	})
	return []string{"CHOKED_URL=http://" + l.Addr().String(), "CHOKED_TOKEN=" + token}
}

// installed returns the path of a program. Without it, the test is skipped, or fails if
// CHOKED_REQUIRE_ALL is set.
func installed(t *testing.T, program string) (path string) {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil && os.Getenv("CHOKED_REQUIRE_ALL") == "" {
		t.Skip(err)
	}
	require.NoError(t, err)
	return path
}

// example runs a program in a directory and returns its output.
func example(t *testing.T, env []string, dir, program string, args ...string) string {
	t.Helper()
	path := installed(t, program)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = dir
	cmd.Env = append(append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1"), env...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), "%s%s", stdout.String(), stderr.String())
	return stdout.String()
}

// The second call with the key "impatient" may arrive before the first is settled. Then
// its retry time also counts until the first lease would expire, 2 s at most.
func TestPython(t *testing.T) {
	out := example(t, service(t), "python", "python3", "example.py")
	assert.Regexp(t, `^25 calls in 1\.\d\d s: within the limit
in (119|12[012]) s
large: cost_exceeds_burst: cost exceeds burst: 6 requests asked, at most 5 fit in "5/s"
$`, out)
}

func TestPythonSpendsAllUnits(t *testing.T) {
	out := example(t, service(t), "python", "python3", "-c", `
from choked import Choked, Error
import os
bucket = Choked(os.environ["CHOKED_URL"], os.environ["CHOKED_TOKEN"])
limits = "requests 50/h; input 1000/h; spend $1/h"

@bucket.limit("claude", limits=limits, cost=lambda text: {"input": len(text), "spend_microdollars": 250000})
def call(text): return "done"

print(call("x" * 600), bucket.acquire("claude", limits=limits, input=600, wait=0) > 60)
for cost in {"spend": 1}, {"spend_microdollars": 2000000}, {"tokens": 7}, {"input": -1}, {"request_limit": "5/s"}:
    try:
        bucket.acquire("claude", limits=limits, **cost)
    except (Error, ValueError) as error:
        print(error)`)
	assert.Equal(t, `done True
claude: bad_request: decode body: json: unknown field "spend"
claude: cost_exceeds_burst: cost exceeds burst: $2 asked, at most $1 fit in "$1/h"
claude: bad_request: cost of 1 requests, 7 tokens without input, which is limited: want input and output tokens apart
claude: bad_request: cost of 1 requests, -1 input tokens: want 0 or more of each
limits 'requests 50/h; input 1000/h; spend $1/h' beside request_limit or token_limit: want either
`, out)
}

func TestPythonWithAWrongToken(t *testing.T) {
	env := append(service(t), "CHOKED_TOKEN=choked_WRONG")
	out := example(t, env, "python", "python3", "-c", `
from choked import Choked, Error
import os
try:
    Choked(os.environ["CHOKED_URL"], os.environ["CHOKED_TOKEN"]).wait("k", request_limit="5/s")
except Error as error:
    print(error)
try:
    Choked("http://127.0.0.1:1").wait("k", request_limit="5/s")
except Error as error:
    print(error)`)
	assert.Regexp(t, "^k: unauthorized: unknown token\nhttp://127.0.0.1:1: .*refused\n$", out)
}

// A call that waits almost as long as the service allows keeps its place in the queue,
// and a later call for less does not overtake it.
func TestPythonKeepsItsPlaceDuringALongWait(t *testing.T) {
	out := example(t, service(t), "python", "python3", "-c", `
from choked import Choked
import os, threading, time
bucket = Choked(os.environ["CHOKED_URL"], os.environ["CHOKED_TOKEN"])
limit = {"request_limit": "600/m burst 6000"}
bucket.acquire("k", requests=6000, **limit)
threading.Thread(target=bucket.wait, args=("k",), kwargs={"requests": 5800, **limit}, daemon=True).start()
until = time.monotonic() + 10
while (seconds := bucket.acquire("k", wait=0, **limit)) < 60 and time.monotonic() < until:
    time.sleep(0.1)
print(f"another would wait {seconds:.0f} s")`)
	assert.Regexp(t, `^another would wait 5[78]\d s\n$`, out)
}

// Keep-alive detects a host that disappeared while a call waits for its answer.
func TestPythonEnablesKeepAlive(t *testing.T) {
	out := example(t, service(t), "python", "python3", "-c", `
from choked import Choked
import os, socket
bucket = Choked(os.environ["CHOKED_URL"], os.environ["CHOKED_TOKEN"])
bucket.wait("k", request_limit="5/s")
print(bucket._local.connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0)`)
	assert.Equal(t, "True\n", out)
}

func TestCurl(t *testing.T) {
	installed(t, "curl")
	out := example(t, service(t), "curl", "sh", "acquire.sh")
	assert.Regexp(t, `^(\{"ok":true,.*\}
call \d may go
){4}status 200, retry after ""
status 429, retry after "1(19|20)"
$`, out)
}
