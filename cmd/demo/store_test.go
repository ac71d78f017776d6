package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/internal/testkit/redisserver"
)

// redisServer starts a Redis server for the test. It skips the test if none is
// installed, unless CHOKED_REQUIRE_ALL is set.
func redisServer(t *testing.T) *redisserver.Server {
	t.Helper()
	s, err := redisserver.Start()
	if errors.Is(err, redisserver.ErrNotInstalled) && os.Getenv("CHOKED_REQUIRE_ALL") == "" {
		t.Skip(err)
	}
	require.NoError(t, err)
	t.Cleanup(func() { s.Stop() })
	return s
}

// A server that lost its data would admit another burst.
func TestRedisKeepsTheLimitsWhenKilled(t *testing.T) {
	redisServer(t) // skips the test if Redis is not installed
	s, table := demonstrate(t, "-for", "6s", "-store", "redis")
	assert.Contains(t, table, "kill -9 redis-server, which was back after")
	assert.Equal(t, "worker-1", s.Killed)
	assert.Zero(t, s.Over)
	assert.Zero(t, s.Crashes)
	assert.Greater(t, s.Admitted, int64(60), "more than the burst")
	assert.Positive(t, s.StoreCalls)
}

func TestRedisServerOfTheUser(t *testing.T) {
	server := redisServer(t)
	s, _ := demonstrate(t, "-for", "2s", "-store", "redis", "-redis", server.URL(), "-kill=false", "-workers", "2")
	assert.Zero(t, s.Over)
	assert.Positive(t, s.StoreCalls)
}

// The summary lacks the calls to Redis if the server is gone, and nothing else.
func TestSummaryWithoutRedis(t *testing.T) {
	server := redisServer(t)
	ctx, interrupt := context.WithCancel(t.Context())
	var stdout bytes.Buffer
	table := &watched{on: "\n   1.", then: func() { server.Kill(); interrupt() }}
	assert.Zero(t, run(ctx, []string{"-for", "0", "-store", "redis", "-redis", server.URL(), "-kill=false", "-json"}, &stdout, table), "exit status")
	assert.Contains(t, table.String(), "demo: the calls to Redis are not counted: ")
	var s summary
	require.NoError(t, json.Unmarshal(stdout.Bytes(), &s), "standard output is one JSON object: %q", stdout.String())
	assert.Positive(t, s.Admitted)
	assert.Zero(t, s.StoreCalls)
}

func TestRedisCallsAreCountedAcrossARestart(t *testing.T) {
	var logs bytes.Buffer
	r := &redisService{server: redisServer(t), logs: &logs}
	require.NoError(t, r.connect(r.server.URL()))
	defer r.client.Close()
	run := func(n int) {
		for range n {
			require.NoError(t, r.client.Eval(t.Context(), "return 1", nil).Err())
		}
	}
	run(3)
	r.killOnce(t.Context(), 0)
	require.Contains(t, r.killReport, "which was back after")
	run(2)
	n, err := r.calls()
	require.NoError(t, err)
	assert.EqualValues(t, 5, n)

	// After a restart by another party the earlier calls are unknown.
	r.server.Kill()
	require.NoError(t, r.server.Restart())
	run(1)
	n, err = r.calls()
	require.NoError(t, err)
	assert.Zero(t, n)
	assert.Contains(t, logs.String(), "the calls to Redis are not counted")
}
