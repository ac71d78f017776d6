package cluster

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/choked/choked/internal/fold"
)

// libraryLog is an [io.Writer] that passes the log lines of a library on to the
// node's logger. The libraries log each failure of a peer as a warning or an error.
// To the host both are warnings: the node handles them, and logs an error itself
// when it cannot. All other lines are for debugging. A warning that repeats for a peer,
// as for a voter that is dead, is logged once a minute.
type libraryLog struct {
	logger  *slog.Logger
	library string
	events  *fold.Events
}

// peerForm matches a node id or an IP address in a line. Ports are left out, since
// each stream from a peer has another one.
var peerForm = regexp.MustCompile(`\b[0-9a-f]{16}\b|\b\d+\.\d+\.\d+\.\d+\b|\[[0-9a-f:.]+(?:%\w+)?\]`)

// messageEnd separates the message of a line from what differs each time.
var messageEnd = regexp.MustCompile(`: | from=`)

// eventOf returns the key of a line: its message and the first peer after it. Times,
// counters and the errors of the network differ each time.
func eventOf(text string) string {
	parts := messageEnd.Split(text, 2)
	return parts[0] + " " + peerForm.FindString(strings.Join(parts[1:], ""))
}

// levels maps the tag at the beginning of a line to the level at which it is
// logged. A line without a tag is for debugging.
var levels = []struct {
	tag   string
	level slog.Level
}{
	{"[ERROR]", slog.LevelWarn}, {"[ERR]", slog.LevelWarn}, {"[WARN]", slog.LevelWarn},
	{"[INFO]", slog.LevelDebug}, {"[DEBUG]", slog.LevelDebug}, {"[TRACE]", slog.LevelDebug},
}

// routine lists how the warnings begin that Raft logs while the cluster is healthy.
var routine = []string{
	// The node has not found its cluster yet. Health reports that.
	"no known peers, aborting election",
	"not part of stable configuration, aborting election",
	"heartbeat timeout reached, not part of a stable configuration",
	"heartbeat timeout reached, starting election: last-leader-addr= ", // the founder's first election

	// The leader sends a new member the log from an index that it does not have yet.
	"failed to get previous log",
	"appendEntries rejected, sending older logs",

	// Of several candidates at most one is elected.
	"rejecting vote request since",
	"rejecting pre-vote request since",

	// A node has restarted with its Dir, and the members still have its former description.
	"Refuting an alive message for",

	// A peer has closed its stream, as it does when it stops.
	"failed to decode incoming command",

	// The configuration has ids in place of addresses. If gossip knows no address
	// for an id, the dial fails, and that is logged as well.
	"unable to get address for server, using fallback address",
}

func (l libraryLog) Write(line []byte) (int, error) {
	level, text := slog.LevelDebug, string(bytes.TrimSpace(line))
	for _, known := range levels {
		if rest, ok := strings.CutPrefix(text, known.tag); ok {
			level, text = known.level, strings.TrimSpace(rest)
			break
		}
	}
	text = strings.TrimPrefix(text, l.library+": ")
	if slices.ContainsFunc(routine, func(begin string) bool { return strings.HasPrefix(text, begin) }) {
		level = slog.LevelDebug
	}
	if level == slog.LevelWarn {
		l.events.Warn(l.logger, l.library+" "+eventOf(text), text, "from", l.library)
		return len(line), nil
	}
	l.logger.Log(context.Background(), level, text, "from", l.library)
	return len(line), nil
}

// hclogTo returns a logger for Raft.
func hclogTo(logger *slog.Logger, events *fold.Events) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: libraryLog{logger, "raft", events}, Level: hclog.Info, DisableTime: true})
}

// stdlogTo returns a logger for memberlist.
func stdlogTo(logger *slog.Logger, events *fold.Events) *log.Logger {
	return log.New(libraryLog{logger, "memberlist", events}, "", 0)
}
