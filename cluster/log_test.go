package cluster

import (
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLibraryLinesByLevel(t *testing.T) {
	for _, tt := range []struct {
		library, line string
		want          string
	}{
		{"raft", "[INFO]  entering follower state: follower=\"Node at a\"\n", `level=DEBUG msg="entering follower state: follower=\"Node at a\"" from=raft`},
		{"raft", "[WARN]  failed to contact: server-id=a time=510ms\n", `level=WARN msg="failed to contact: server-id=a time=510ms" from=raft`},
		{"raft", "[ERROR] failed to heartbeat to: peer=a\n", `level=WARN msg="failed to heartbeat to: peer=a" from=raft`},
		{"raft", "[WARN]  no known peers, aborting election\n", `level=DEBUG msg="no known peers, aborting election" from=raft`},
		{"raft", "[WARN]  heartbeat timeout reached, starting election: last-leader-addr= last-leader-id=\n", `level=DEBUG msg="heartbeat timeout reached, starting election: last-leader-addr= last-leader-id=" from=raft`},
		{"raft", "[WARN]  heartbeat timeout reached, starting election: last-leader-addr=a@h:1 last-leader-id=a\n", `level=WARN msg="heartbeat timeout reached, starting election: last-leader-addr=a@h:1 last-leader-id=a" from=raft`},
		{"memberlist", "[ERR] memberlist: Failed to send gossip to h:1: refused\n", `level=WARN msg="Failed to send gossip to h:1: refused" from=memberlist`},
		{"memberlist", "[WARN] memberlist: Refuting a dead message (from: a)\n", `level=WARN msg="Refuting a dead message (from: a)" from=memberlist`},
		{"memberlist", "[DEBUG] memberlist: Stream connection from=h:1\n", `level=DEBUG msg="Stream connection from=h:1" from=memberlist`},
		{"memberlist", "without a tag\n", `level=DEBUG msg="without a tag" from=memberlist`},
	} {
		var out lockedBuffer
		logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{
			Level: slog.LevelDebug,
			ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
				if a.Key == slog.TimeKey {
					return slog.Attr{}
				}
				return a
			},
		}))
		n, err := libraryLog{logger, tt.library}.Write([]byte(tt.line))
		require.NoError(t, err)
		assert.Equal(t, len(tt.line), n)
		assert.Equal(t, tt.want+"\n", out.String())
	}
}

// libraryLines returns the lines of a text log that came from a library.
func libraryLines(log string) (lines []string) {
	for line := range strings.Lines(log) {
		if strings.Contains(line, " from=raft") || strings.Contains(line, " from=memberlist") {
			lines = append(lines, line)
		}
	}
	return lines
}

// While a cluster is founded, grows, and transfers leadership, its nodes log their own
// events at the level Info, but no lines of libraries.
func TestHealthyClusterLogsNoLibraryLines(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		var log lockedBuffer
		c.log = slog.New(slog.NewTextHandler(&log, nil))
		c.startThree()
		c.start(c.config(4))
		time.Sleep(time.Minute)
		assert.Empty(t, libraryLines(log.String()), "at Info or above, while all is well")
		assert.Contains(t, log.String(), "founded", "the node logs its own events")

		c.leave(c.leader())
		c.await("another leads", func() bool { return c.leader() != nil && c.voters() == 3 })
		time.Sleep(time.Minute)
		for _, line := range libraryLines(log.String()) {
			assert.NotContains(t, line, "level=INFO")
			assert.NotContains(t, line, "election")
			assert.NotContains(t, line, "vote request")
		}
	})
}

// No library writes to the standard error or to a default logger of the process,
// whatever happens to its nodes.
func TestLibrariesWriteOnlyToTheLogger(t *testing.T) {
	if os.Getenv("CHOKED_TEST_STDERR") == "" {
		test := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		test.Env = append(os.Environ(), "CHOKED_TEST_STDERR=1")
		var stdout, stderr lockedBuffer
		test.Stdout, test.Stderr = &stdout, &stderr
		require.NoError(t, test.Run(), "%s%s", stdout.String(), stderr.String())
		assert.Empty(t, stderr.String())
		for line := range strings.Lines(stdout.String()) {
			assert.Regexp(t, "^(PASS|coverage: .*)\n$", line)
		}
		return
	}
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	inBubble(t, func(t *testing.T, c *fleet) {
		c.log = slog.New(slog.DiscardHandler)
		c.startThreeIn(dirs)
		_, err := c.leader().Lease(t.Context(), oneRequest("k", 1))
		require.NoError(t, err)
		require.NoError(t, c.leader().raft.current().Snapshot().Error())
		c.crash(c.leader())
		c.await("another leads", func() bool { return c.leader() != nil })
		time.Sleep(10 * time.Second)
		c.leave(c.leader())
	})
}
