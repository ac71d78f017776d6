package redisstore_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/testkit/redisserver"
	"github.com/choked/choked/redisstore"
)

// asHost makes the test binary a program that uses stores whose servers are away.
const asHost = "CHOKED_TEST_HOST_OF_STORES"

// useStoresThatAreAway lets stores fail in every way that an outage has: refused,
// silent, without TLS, closed with calls under way, killed while connected.
func useStoresThatAreAway() error {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer silent.Close()
	urls := []string{"redis://127.0.0.1:1", "redis://" + silent.Addr().String(), "rediss://" + silent.Addr().String()}
	server, err := redisserver.Start()
	if err == nil {
		defer server.Stop()
		urls = append(urls, server.URL())
	}
	var done []chan error
	for _, url := range urls {
		s, err := redisstore.Open(url, redisstore.Config{Timeout: time.Second})
		if err != nil {
			return err
		}
		if server != nil && url == server.URL() {
			if _, err := s.Lease(context.Background(), ask("k", slow, 1, 0)); err != nil {
				return err
			}
			server.Kill()
		}
		const n = 40 // more than the client library's pool, whose breaker is noisy
		failed := make(chan error, n)
		for i := range n {
			go func() {
				_, err := s.Lease(context.Background(), ask(fmt.Sprint("k", i), slow, 1, 0))
				failed <- err
			}()
		}
		for range n / 2 {
			if err := <-failed; err == nil {
				return fmt.Errorf("%s: a lease is granted", url)
			}
		}
		if err := s.Close(); err != nil {
			return err
		}
		done = append(done, failed)
	}
	for _, failed := range done {
		for range cap(failed) / 2 {
			<-failed
		}
	}
	return nil
}

// A store that Open returned writes nothing over the log of its host.
func TestStoreThatIsAwayLogsNothing(t *testing.T) {
	t.Parallel()
	if os.Getenv(asHost) != "" {
		require.NoError(t, useStoresThatAreAway())
		return
	}
	self, err := os.Executable()
	require.NoError(t, err)
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), self, "-test.run=^TestStoreThatIsAwayLogsNothing$")
	cmd.Env = append(os.Environ(), asHost+"=1")
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", out)
	assert.Empty(t, stderr.String())
}

// A server that does not speak TLS waits for the rest of a line.
func TestServerWithoutTLS(t *testing.T) {
	t.Parallel()
	server, _ := ownServer(t)
	s := openOn(t, "rediss://"+server.Addr, 4*time.Second)
	_, err := s.Lease(t.Context(), ask("k", slow, 1, 0))
	require.ErrorIs(t, err, bucket.ErrUnavailable)
	assert.ErrorContains(t, err, "TLS handshake with "+server.Addr)
	assert.ErrorContains(t, err, "(a server without TLS wants redis://, not rediss://")
}
