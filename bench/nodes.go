package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/cluster"
	"github.com/choked/choked/internal/testkit/ports"
)

const secret = "bench"

// startNodes starts n nodes on loopback, and waits until there is a leader and
// three of them vote. With dirs each keeps its state on disk.
func startNodes(ctx context.Context, n int, dirs bool) (nodes []*cluster.Node, stop func() error, err error) {
	if !dirs {
		return startNodesIn(ctx, n, "")
	}
	dir, err := os.MkdirTemp("", "choked-bench-")
	if err != nil {
		return nil, nil, err
	}
	nodes, end, err := startNodesIn(ctx, n, dir)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	return nodes, func() error { return errors.Join(end(), os.RemoveAll(dir)) }, nil
}

// startNodesIn is startNodes, the state of each in a directory of its own in
// dir. With none, nothing is written.
func startNodesIn(ctx context.Context, n int, dir string) (nodes []*cluster.Node, stop func() error, err error) {
	addrs, err := ports.Free(n)
	if err != nil {
		return nil, nil, err
	}
	stop = func() error { return closeAll(nodes) }
	for i, addr := range addrs {
		cfg := cluster.Config{Name: fmt.Sprint("node-", i+1), Bind: addr, Join: addrs[:min(n, 3)], Secret: secret}
		if dir != "" {
			cfg.Dir = fmt.Sprint(dir, "/", i)
			if err := os.Mkdir(cfg.Dir, 0o700); err != nil {
				return nil, nil, errors.Join(err, stop())
			}
		}
		node, err := cluster.Start(cfg)
		if err != nil {
			return nil, nil, errors.Join(err, stop())
		}
		nodes = append(nodes, node)
		if i == 2 || i == n-1 { // those that vote first
			if err := whole(ctx, nodes[0], i+1); err != nil {
				return nil, nil, errors.Join(err, stop())
			}
		}
	}
	return nodes, stop, nil
}

// closeAll closes nodes, the last first: those that vote go when nobody needs
// them.
func closeAll(nodes []*cluster.Node) (err error) {
	for i := len(nodes) - 1; i >= 0; i-- {
		err = errors.Join(err, nodes[i].Close())
	}
	return err
}

// errNotWhole means that nodes have not found each other.
var errNotWhole = errors.New("not whole")

// joinWithin is how long they may take to.
const joinWithin = time.Minute

// whole waits until node sees n members, of whom three vote and one leads.
func whole(ctx context.Context, node *cluster.Node, n int) error {
	for end := time.Now().Add(joinWithin); ; time.Sleep(20 * time.Millisecond) {
		members, voters := node.Members(), 0
		for _, m := range members {
			if m.Voter {
				voters++
			}
		}
		_, led := node.Leader()
		if led && voters == min(n, 3) && len(members) >= n {
			return nil
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return fmt.Errorf("%w: %d members of %d, %d of them vote, leader: %v", errNotWhole, len(members), n, voters, led)
		}
	}
}

// spread gives n workers a store each, of those that there are in turn.
func spread[S choked.Store](stores []S, n int) []choked.Store {
	out := make([]choked.Store, n)
	for i := range out {
		out[i] = stores[i%len(stores)]
	}
	return out
}
