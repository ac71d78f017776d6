package main

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"
)

// idle measures what a cluster costs that nobody asks anything.
func idle(ctx context.Context, c *config) ([]table, error) {
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
		c.goals.add("a node without work, "+s.name, "≤ 1% of a core", fmt.Sprintf("%.2f%%", 100*share), share <= 0.01, "")
	}
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
	debug.FreeOSMemory()                              // nothing is left to do for what ran before
	if err := sleep(ctx, 2*time.Second); err != nil { // the last of them has found all
		return 0, err
	}
	var shares []float64
	for range c.repeats {
		before, begun := cpu(), time.Now()
		if err := sleep(ctx, c.seconds); err != nil {
			return 0, err
		}
		shares = append(shares, float64(cpu()-before)/float64(time.Since(begun))/float64(len(nodes)))
	}
	return median(shares), nil
}
