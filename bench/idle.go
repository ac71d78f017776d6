package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime/debug"
	"sync"
	"time"
)

// idle measures what a cluster costs that nobody asks anything, beside what the
// machine takes for the messages that three nodes of Raft exchange to know that
// the leader lives.
func idle(ctx context.Context, c *config) ([]table, error) {
	bare, err := beats(ctx, c)
	if err != nil {
		return nil, err
	}
	t := table{
		note: fmt.Sprintf("Three nodes in this process; the median of %d times %v.", c.repeats, c.seconds),
		head: []string{"", "of a core, for each node"},
	}
	for _, s := range []struct {
		name string
		dirs bool
		keys int
	}{{"nothing on disk", false, 0}, {"on disk", true, 0}, {"on disk, 100,000 live keys", true, 100_000}} {
		share, err := idling(ctx, c, s.dirs, s.keys)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		t.row(s.name, fmt.Sprintf("%.2f%%", 100*share))
		because := fmt.Sprintf("Raft's heartbeats alone, as bare messages over TCP: %.2f%%", 100*bare)
		if bare < share/3 {
			because = "" // that is not why
		}
		c.goals.add("a node without work, "+s.name, "≤ 1% of a core", fmt.Sprintf("%.2f%%", 100*share), share <= 0.01, because)
	}
	t.row("Raft's heartbeats alone, as bare messages over TCP", fmt.Sprintf("%.2f%%", 100*bare))
	return []table{t}, nil
}

func idling(ctx context.Context, c *config, dirs bool, keys int) (share float64, err error) {
	nodes, stop, err := startNodes(ctx, 3, dirs)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := charged(ctx, nodes[0], liveKey, liveLimits, keys); err != nil {
		return 0, err
	}
	debug.FreeOSMemory()                              // nothing is left to do for what came before
	if err := sleep(ctx, 2*time.Second); err != nil { // the last of them has found all
		return 0, err
	}
	return taken(ctx, c, len(nodes))
}

// beats is what a node's part of the heartbeats takes: to each of two followers
// Raft speaks twice in 50 to 100 ms, at a HeartbeatTimeout of 500 ms, and is
// answered.
func beats(ctx context.Context, c *config) (share float64, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	ctx, stop := context.WithCancel(ctx)
	var both sync.WaitGroup
	defer both.Wait()
	defer stop()
	context.AfterFunc(ctx, func() { l.Close() })
	echo := func(conn net.Conn) {
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		io.Copy(conn, conn) //nolint:errcheck // it ends with ctx
	}
	both.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			both.Go(func() { echo(conn) })
		}
	})
	for range 2 * 2 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return 0, err
		}
		both.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			beat := make([]byte, 100)
			for sleep(ctx, 50*time.Millisecond+rand.N(50*time.Millisecond)) == nil {
				if _, err := conn.Write(beat); err != nil {
					return
				}
				if _, err := io.ReadFull(conn, beat); err != nil {
					return
				}
			}
		})
	}
	return taken(ctx, c, 3)
}

// taken is the share of a core that this process takes for each of some nodes.
func taken(ctx context.Context, c *config, nodes int) (float64, error) {
	var shares []float64
	for range c.repeats {
		before, begun := cpu(), time.Now()
		if err := sleep(ctx, c.seconds); err != nil {
			return 0, err
		}
		shares = append(shares, float64(cpu()-before)/float64(time.Since(begun))/float64(nodes))
	}
	return median(shares), nil
}
