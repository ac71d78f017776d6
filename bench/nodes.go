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

// startNodes starts n nodes on loopback and waits until there are a leader and three
// voters. With dirs, each node keeps its state on disk.
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

// startNodesIn is startNodes with the state of each node in a subdirectory of dir. If
// dir is empty, the nodes keep their state in memory.
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
		if i == 2 || i == n-1 { // the first three are the voters
			if err := awaitComplete(ctx, nodes[0], i+1); err != nil {
				return nil, nil, errors.Join(err, stop())
			}
		}
	}
	return nodes, stop, nil
}

// closeAll closes the nodes in reverse order, the voters last: the others need them.
func closeAll(nodes []*cluster.Node) (err error) {
	for i := len(nodes) - 1; i >= 0; i-- {
		err = errors.Join(err, nodes[i].Close())
	}
	return err
}

// errIncomplete means that the nodes have not found each other in time.
var errIncomplete = errors.New("cluster is not complete")

// joinTimeout is how long the nodes may take to find each other.
const joinTimeout = time.Minute

// awaitComplete waits until node sees n members, three voters and a leader.
func awaitComplete(ctx context.Context, node *cluster.Node, n int) error {
	for end := time.Now().Add(joinTimeout); ; time.Sleep(20 * time.Millisecond) {
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
			return fmt.Errorf("%w: %d of %d members, %d voters, leader %v", errIncomplete, len(members), n, voters, led)
		}
	}
}

// spread returns a store for each of n workers, from stores in turn.
func spread[S choked.Store](stores []S, n int) []choked.Store {
	out := make([]choked.Store, n)
	for i := range out {
		out[i] = stores[i%len(stores)]
	}
	return out
}
