package cluster

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/internal/fold"
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
		{"memberlist", "[WARN] memberlist: Refuting an alive message for 'a' (10.0.0.1:7946) meta:([1] VS [2])\n", `level=DEBUG msg="Refuting an alive message for 'a' (10.0.0.1:7946) meta:([1] VS [2])" from=memberlist`},
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
		n, err := libraryLog{logger, tt.library, new(fold.Events)}.Write([]byte(tt.line))
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

// The first warning about a peer is logged at once, its repeats once a minute, and
// warnings about other peers or of another kind on their own.
func TestRepeatsOfLibrariesAreFolded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out lockedBuffer
		l := libraryLog{slog.New(slog.NewTextHandler(&out, nil)), "raft", new(fold.Events)}
		const one, two = "0123456789abcdef", "fedcba9876543210"
		for i := range 250 {
			fmt.Fprintf(l, "[ERROR] failed to heartbeat to: peer=%s backoff time=%dms error=\"dial tcp 10.0.0.%d:7946: refused\"\n", one, i, i)
			fmt.Fprintf(l, "[ERROR] failed to appendEntries to: peer=\"{Voter %s %s}\" error=\"try %d\"\n", one, one, i)
			fmt.Fprintf(l, "[ERROR] failed to heartbeat to: peer=%s backoff time=%dms\n", two, i)
			fmt.Fprintf(l, "[WARN] Failed to send to 10.0.0.%d:7946: refused\n", 1+i%2)
			fmt.Fprintf(l, "[WARN] Got ping for unexpected node '%s' from=10.0.0.3:%d\n", one, 40000+i)
			fmt.Fprintf(l, "[WARN] failed to receive: EOF from=10.0.0.%d:%d\n", 1+i%2, 40000+i)
			time.Sleep(250 * time.Millisecond)
		}
		count := func(part, more string) (n int) {
			for line := range strings.Lines(out.String()) {
				if strings.Contains(line, part) && strings.Contains(line, more) {
					n++
				}
			}
			return n
		}
		for part, lines := range map[string]int{
			"failed to heartbeat to: peer=" + one: 2, "failed to heartbeat to: peer=" + two: 2, "appendEntries": 2,
			"to 10.0.0.1:7946": 2, "to 10.0.0.2:7946": 2, "from=10.0.0.1": 2, "from=10.0.0.2": 2, "Got ping": 2, "": 16,
		} {
			assert.Equal(t, lines, count(part, ""), part)
			assert.Equal(t, lines/2, count(part, " repeated="), "%s: the second of two", part)
		}
		assert.Equal(t, 4, count("", "repeated=239\n"), "four a second")
	})
}

// The log of a leader one of whose voters is dead is short.
func TestDeadVoterIsFewLinesAMinute(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		var log lockedBuffer
		c.log = slog.New(slog.NewTextHandler(&log, nil))
		nodes := c.startThree()
		c.crash(besides(c.leader(), nodes)[0])
		began := len(log.String())
		const minutes = 6
		time.Sleep(minutes * time.Minute)
		lines := strings.Split(strings.TrimSpace(log.String()[began:]), "\n")
		assert.LessOrEqual(t, len(lines), 4*minutes, "%s", strings.Join(lines, "\n"))
		assert.GreaterOrEqual(t, len(lines), minutes, "the fault is not forgotten")
	})
}

// Members of one name, as three workers on one machine, are told apart in the log.
func TestMembersOfOneNameAreToldApart(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		var log lockedBuffer
		c.log = slog.New(slog.NewTextHandler(&log, nil))
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		for i, name := range []string{"vm", "vm", "another"} {
			cfg := c.config(1 + i)
			cfg.Name = name
			c.start(cfg)
		}
		c.await("three voters", func() bool { return c.voters() == 3 })
		two := c.nodes[ip(2)+":7946"]
		assert.Contains(t, log.String(), "member=vm/"+two.id[:6]+" ")
		assert.Contains(t, log.String(), "member=another ")
		for line := range strings.Lines(log.String()) {
			assert.Contains(t, line, " id=", "each line of a node has its id")
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
