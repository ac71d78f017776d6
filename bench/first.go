package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/hashicorp/go-metrics"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/choked/choked"
)

// firstsPerNode is how many first admissions are measured at each node.
const firstsPerNode = 300

// first measures how long the first admission under a new key takes, compared with the
// disk writes and round trips that it needs, and which step takes how long.
func first(ctx context.Context, c *config) ([]table, error) {
	fsync, err := measureFsyncs(firstsPerNode)
	if err != nil {
		return nil, err
	}
	trip, err := measureRoundTrips(firstsPerNode)
	if err != nil {
		return nil, err
	}
	one, three, err := measureLogStores(firstsPerNode)
	if err != nil {
		return nil, err
	}
	stages, err := newTrace()
	if err != nil {
		return nil, err
	}
	t := table{
		note: "One caller asks for one new key after the other. Its lease is returned before the next, and " + settleTime.String() + " pass. The lower bound is an fsync of 1 KiB and a round trip of a byte over TCP on loopback. " +
			"raft-boltdb makes two fsyncs for a log entry, and Raft stores an entry at the leader, then at the followers, of which one must have it. In fact an admission needs stores in this order, three on this disk, and a round trip.",
		head: []string{"", "p50", "p99", "against fsync and round trip", "against the stores and a round trip"},
	}
	least := quantile(fsync, 0.5) + quantile(trip, 0.5)
	stores := quantile(three, 0.5) + quantile(trip, 0.5)
	for _, x := range []struct {
		name string
		took []time.Duration
	}{{"fsync", fsync}, {"round trip", trip}, {"an entry in raft-boltdb", one}, {"an entry in three, the leader's first, then one of the followers'", three}} {
		t.row(x.name, quantile(x.took, 0.5), quantile(x.took, 0.99), "", "")
	}
	parts := table{
		note: "How these times divide: the median of each part. The times of the stores are Raft's own metrics.",
		head: []string{"", "the leader's store", "the first follower's store", "all the rest", "of it on disk"},
	}
	var worst time.Duration
	onDisk := 0.0
	for _, dirs := range []bool{true, false} {
		disk := ""
		if !dirs {
			disk = ", nothing on disk"
		}
		if err := measureFirst(ctx, dirs, stages, func(node string, fs []admission) {
			var took, leads, follows, rest []time.Duration
			for _, f := range fs {
				took, leads, follows, rest = append(took, f.took), append(leads, f.leads), append(follows, f.follows), append(rest, f.took-f.leads-f.follows)
			}
			p50 := quantile(took, 0.5)
			t.row("first admission at "+node+disk, p50, quantile(took, 0.99), ratio(float64(p50), float64(least)), ratio(float64(p50), float64(stores)))
			share := float64(quantile(leads, 0.5)+quantile(follows, 0.5)) / float64(p50)
			parts.row(node+disk, quantile(leads, 0.5), quantile(follows, 0.5), quantile(rest, 0.5), percent(share))
			if dirs && p50 > worst {
				worst, onDisk = p50, share
			}
		}); err != nil {
			return nil, err
		}
	}
	reason := ""
	if onDisk > 0.5 {
		reason = fmt.Sprintf("%s of it are the stores of the entry at the leader and then at a follower, two fsyncs each: %v by themselves; a round trip is %v", percent(onDisk), quantile(three, 0.5), quantile(trip, 0.5))
	}
	c.goals.add("cold key, first admission, 3 nodes, p50", fmt.Sprintf("≤ 2 × (fsync + round trip) = %v", 2*least), worst.String(), worst <= 2*least, reason)
	return []table{t, parts}, nil
}

// settleTime is the pause in which the followers store the last entries.
const settleTime = 5 * time.Millisecond

// admission holds the duration of an admission, and of the stores at the leader and at
// the first follower.
type admission struct{ took, leads, follows time.Duration }

// measureFirst reports the first admissions at each of three nodes.
func measureFirst(ctx context.Context, dirs bool, stages *trace, report func(node string, fs []admission)) (err error) {
	nodes, stop, err := startNodes(ctx, 3, dirs)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	for i, node := range nodes {
		name := fmt.Sprint("node ", i+1)
		if m, ok := node.Leader(); ok && m.Self {
			name += ", the leader"
		}
		var fs []admission
		for j := range firstsPerNode {
			f, err := admitFirst(ctx, node, fmt.Sprint("first-", i, "-", j), stages)
			if err != nil {
				return err
			}
			fs = append(fs, f)
			time.Sleep(settleTime)
		}
		report(name, fs)
	}
	return nil
}

// admitFirst measures the first admission under a new key, and returns after the lease
// was settled.
func admitFirst(ctx context.Context, store choked.Store, key string, stages *trace) (f admission, err error) {
	choke := choked.New(store)
	defer func() { err = errors.Join(err, choke.Close()) }()
	l, err := choke.Limiter(key, choked.MustLimits("requests 100/s"), nil)
	if err != nil {
		return f, err
	}
	stages.reset()
	started := time.Now()
	if err := l.Wait(ctx, choked.Cost{Requests: 1}); err != nil {
		return f, err
	}
	f.took = time.Since(started)
	f.leads, f.follows = stages.stored()
	return f, nil
}

// trace receives the metrics of Raft from all nodes of the process.
type trace struct {
	metrics.BlackholeSink // ignores all other metrics

	mu             sync.Mutex
	leads, follows time.Duration // the first of each since reset
}

func newTrace() (*trace, error) {
	t := &trace{}
	cfg := metrics.DefaultConfig("")
	cfg.EnableHostname, cfg.EnableRuntimeMetrics = false, false
	_, err := metrics.NewGlobal(cfg, t)
	return t, err
}

func (t *trace) AddSample(key []string, ms float32) { t.AddSampleWithLabels(key, ms, nil) }

// AddSampleWithLabels implements [metrics.MetricSink]. The leader waits for the first
// follower only, so later samples are ignored.
func (t *trace) AddSampleWithLabels(key []string, ms float32, _ []metrics.Label) {
	took := time.Duration(float64(ms) * float64(time.Millisecond))
	is := func(name ...string) bool { return fmt.Sprint(key) == fmt.Sprint(append([]string{"raft"}, name...)) }
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.leads == 0 && is("leader", "dispatchLog"):
		t.leads = took
	case t.follows == 0 && is("rpc", "appendEntries", "storeLogs"):
		t.follows = took
	}
}

func (t *trace) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.leads, t.follows = 0, 0
}

func (t *trace) stored() (leads, follows time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.leads, t.follows
}

// timed returns how long each of n calls of f took.
func timed(n int, f func() error) (took []time.Duration, err error) {
	for range n {
		started := time.Now()
		if err := f(); err != nil {
			return nil, err
		}
		took = append(took, time.Since(started))
	}
	return took, nil
}

// measureFsyncs returns the durations of n writes of 1 KiB with fsync.
func measureFsyncs(n int) (took []time.Duration, err error) {
	f, err := os.CreateTemp("", "choked-bench-")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	block := make([]byte, 1024)
	return timed(n, func() error {
		_, err := f.Write(block)
		return errors.Join(err, f.Sync())
	})
}

// measureRoundTrips returns the durations of n round trips of a byte over TCP on
// loopback.
func measureRoundTrips(n int) (took []time.Duration, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer l.Close()
	go func() { // ends with the connection
		if conn, err := l.Accept(); err == nil {
			io.Copy(conn, conn) //nolint:errcheck // ends with an error when the connection closes
			conn.Close()
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	b := make([]byte, 1)
	return timed(n, func() error {
		if _, err := conn.Write(b); err != nil {
			return err
		}
		_, err := io.ReadFull(conn, b)
		return err
	})
}

// measureLogStores returns how long it takes to append an entry to one log of
// raft-boltdb, and to three on the same disk, in Raft's order: to the leader's log,
// then at the same time to those of two followers until the first one has it.
func measureLogStores(n int) (one, three []time.Duration, err error) {
	dir, err := os.MkdirTemp("", "choked-bench-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	var logs [3]*raftboltdb.BoltStore
	for i := range logs {
		if logs[i], err = raftboltdb.New(raftboltdb.Options{Path: fmt.Sprint(dir, "/log-", i)}); err != nil {
			return nil, nil, err
		}
		defer logs[i].Close()
	}
	var index uint64
	store := func(log *raftboltdb.BoltStore) error {
		return log.StoreLog(&raft.Log{Index: index, Term: 1, Data: make([]byte, 128)})
	}
	if one, err = timed(n, func() error { index++; return store(logs[0]) }); err != nil {
		return nil, nil, err
	}
	for range n {
		index++
		started := time.Now()
		if err := store(logs[0]); err != nil {
			return nil, nil, err
		}
		done := make(chan error, 2)
		for _, log := range logs[1:] {
			go func() { done <- store(log) }()
		}
		err := <-done
		three = append(three, time.Since(started))
		if err = errors.Join(err, <-done); err != nil {
			return nil, nil, err
		}
	}
	return one, three, nil
}
