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

// idle measures the CPU time of a cluster without calls, and beside it that of bare
// messages as frequent as Raft's heartbeats.
func idle(ctx context.Context, c *config) ([]table, error) {
	bare, err := heartbeatCost(ctx, c)
	if err != nil {
		return nil, err
	}
	t := table{
		note: fmt.Sprintf("Three nodes in this process; the median of %d times %v.", c.repeats, c.runTime),
		head: []string{"", "of a core, for each node"},
	}
	for _, s := range []struct {
		name string
		dirs bool
		keys int
	}{{"nothing on disk", false, 0}, {"on disk", true, 0}, {"on disk, 100,000 live keys", true, 100_000}} {
		share, err := measureIdle(ctx, c, s.dirs, s.keys)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		t.row(s.name, fmt.Sprintf("%.2f%%", 100*share))
		reason := fmt.Sprintf("Raft's heartbeats alone, as bare messages over TCP: %.2f%%", 100*bare)
		if bare < share/3 {
			reason = "" // the heartbeats do not explain it
		}
		c.goals.add("a node without work, "+s.name, "≤ 1% of a core", fmt.Sprintf("%.2f%%", 100*share), share <= 0.01, reason)
	}
	t.row("Raft's heartbeats alone, as bare messages over TCP", fmt.Sprintf("%.2f%%", 100*bare))
	return []table{t}, nil
}

func measureIdle(ctx context.Context, c *config, dirs bool, keys int) (share float64, err error) {
	nodes, stop, err := startNodes(ctx, 3, dirs)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := chargeKeys(ctx, nodes[0], liveKey, liveLimits, keys); err != nil {
		return 0, err
	}
	debug.FreeOSMemory()                              // collects the garbage of earlier parts
	if err := sleep(ctx, 2*time.Second); err != nil { // gossip settles
		return 0, err
	}
	return cpuShare(ctx, c, len(nodes))
}

// heartbeatCost returns the CPU time of a node's share of Raft's heartbeats, as a
// share of a core. At a HeartbeatTimeout of 500 ms, Raft sends two messages to each of
// two followers every 50 to 100 ms, and each is answered.
func heartbeatCost(ctx context.Context, c *config) (share float64, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	ctx, stop := context.WithCancel(ctx)
	var goroutines sync.WaitGroup
	defer goroutines.Wait()
	defer stop()
	context.AfterFunc(ctx, func() { l.Close() })
	echo := func(conn net.Conn) {
		defer conn.Close()
		defer context.AfterFunc(ctx, func() { conn.Close() })()
		io.Copy(conn, conn) //nolint:errcheck // ends with an error when ctx does
	}
	goroutines.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			goroutines.Go(func() { echo(conn) })
		}
	})
	for range 2 * 2 {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			return 0, err
		}
		goroutines.Go(func() {
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
	return cpuShare(ctx, c, 3)
}

// cpuShare returns the CPU time of this process for each node, as a share of a core.
func cpuShare(ctx context.Context, c *config, nodes int) (float64, error) {
	var shares []float64
	for range c.repeats {
		before, started := cpu(), time.Now()
		if err := sleep(ctx, c.runTime); err != nil {
			return 0, err
		}
		shares = append(shares, float64(cpu()-before)/float64(time.Since(started))/float64(nodes))
	}
	return median(shares), nil
}
