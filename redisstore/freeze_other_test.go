//go:build !unix

package redisstore_test

import (
	"testing"

	"github.com/choked/choked/internal/testkit/redisserver"
)

// freeze skips the test: only Unix has a signal that stops a process.
func freeze(t *testing.T, _ *redisserver.Server) (thaw func()) {
	t.Helper()
	t.Skip("needs SIGSTOP")
	return nil
}
