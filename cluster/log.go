package cluster

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"
)

// libraryLog is an [io.Writer] that passes the log lines of a library on to the
// node's logger. The libraries call each retry a warning or an error. To the host
// both are warnings: the node copes with them, and what it cannot cope with it
// logs as an error itself. All else is for debugging.
type libraryLog struct {
	logger  *slog.Logger
	library string
}

// levels has the level at which a line is logged, by the tag that it begins with.
// A line without one is for debugging.
var levels = []struct {
	tag   string
	level slog.Level
}{
	{"[ERROR]", slog.LevelWarn}, {"[ERR]", slog.LevelWarn}, {"[WARN]", slog.LevelWarn},
	{"[INFO]", slog.LevelDebug}, {"[DEBUG]", slog.LevelDebug}, {"[TRACE]", slog.LevelDebug},
}

// routine has the beginnings of the warnings that Raft logs while all is well.
var routine = []string{
	// A node that has not found its cluster yet. Health reports it.
	"no known peers, aborting election",
	"not part of stable configuration, aborting election",
	"heartbeat timeout reached, not part of a stable configuration",
	"heartbeat timeout reached, starting election: last-leader-addr= ", // the founder's first election

	// A new member gets the log, beginning with an index that it does not have.
	"failed to get previous log",
	"appendEntries rejected, sending older logs",

	// Of several candidates at most one is elected.
	"rejecting vote request since",
	"rejecting pre-vote request since",

	// A peer has closed its stream, as it does when it stops.
	"failed to decode incoming command",

	// A server's address in the log is its id. A dial that fails for want of a
	// better one is logged as well.
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
	l.logger.Log(context.Background(), level, text, "from", l.library)
	return len(line), nil
}

// hclogTo returns a logger for Raft.
func hclogTo(logger *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: libraryLog{logger, "raft"}, Level: hclog.Info, DisableTime: true})
}

// stdlogTo returns a logger for memberlist.
func stdlogTo(logger *slog.Logger) *log.Logger {
	return log.New(libraryLog{logger, "memberlist"}, "", 0)
}
