//go:build unix

package redisstore_test

import (
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/choked/choked/internal/testkit/redisserver"
)

// freeze stops the server's process: its connections stay open and nothing is
// answered until thaw is called.
func freeze(t *testing.T, s *redisserver.Server) (thaw func()) {
	t.Helper()
	require.NoError(t, syscall.Kill(s.Pid(), syscall.SIGSTOP))
	return func() { require.NoError(t, syscall.Kill(s.Pid(), syscall.SIGCONT)) }
}
