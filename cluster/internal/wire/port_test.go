package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// open opens a port that says its address for a name and admits everybody,
// unless cfg says otherwise, and closes it at the end of the test.
func open(t *testing.T, cfg Config) *Port {
	t.Helper()
	if cfg.Hello == nil {
		cfg.Hello = func() Hello { return Hello{Node: "node at " + cfg.Bind} }
	}
	if cfg.Admit == nil {
		cfg.Admit = func(Kind, Hello) error { return nil }
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p, err := Open(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// speak has one port dial another, and each hear the other.
func speak(from, to *Port) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	here, err := from.Dial(ctx, RPC, to.Addr())
	if err != nil {
		return err
	}
	defer here.Close()
	there, err := to.RPC().Accept()
	if err != nil {
		return err
	}
	defer there.Close()
	for _, way := range []struct {
		from io.Writer
		to   io.Reader
	}{{here, there}, {there, here}} {
		heard := make([]byte, len("hear me"))
		_, sent := io.WriteString(way.from, "hear me")
		_, err := io.ReadFull(way.to, heard)
		if err = errors.Join(sent, err); err != nil || string(heard) != "hear me" {
			return fmt.Errorf("%q was heard: %w", heard, err)
		}
	}
	return nil
}
