package cluster

import (
	"bytes"
	"context"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// lines passes the log lines of the libraries below on to our logger. What they
// call an error is, to the host, a warning at most: the node copes with it.
type lines struct {
	logger *slog.Logger
	from   string
}

func (l lines) Write(line []byte) (int, error) {
	level, text := slog.LevelDebug, bytes.TrimSpace(line)
	for _, tag := range []struct {
		name  string
		level slog.Level
	}{{"[ERROR]", slog.LevelWarn}, {"[ERR]", slog.LevelWarn}, {"[WARN]", slog.LevelInfo}, {"[INFO]", slog.LevelDebug}, {"[DEBUG]", slog.LevelDebug}} {
		if rest, ok := bytes.CutPrefix(text, []byte(tag.name)); ok {
			level, text = tag.level, bytes.TrimSpace(rest)
			break
		}
	}
	l.logger.Log(context.Background(), level, string(text), "from", l.from)
	return len(line), nil
}

func hclogTo(logger *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{Output: lines{logger, "raft"}, Level: hclog.Info, DisableTime: true})
}

func stdlogTo(logger *slog.Logger) *log.Logger {
	return log.New(io.Writer(lines{logger, "memberlist"}), "", 0)
}
