package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/choked/choked"
)

// exchange measures the shared resources that an admission takes: exchanges with the
// leader, log entries, and bytes in the log and on the wire.
func exchange(ctx context.Context, c *config) ([]table, error) {
	t := table{
		note: "Three nodes that write to disk, four callers on each, one key; for each admission, the medians of " + fmt.Sprint(c.repeats, " runs of ", c.runTime/2) + ". Bytes on the wire are all bytes over loopback, with the headers of TCP and IP; CPU is that of all nodes and callers.",
		head: []string{"limit", "admitted", "exchanges", "entries", "bytes in the log", "bytes on the wire", "CPU"},
	}
	for _, limit := range []string{"50/s", "1000/s", "20000/s"} {
		var runs [][]float64
		for range c.repeats {
			s, entries, size, err := runLogged(ctx, limit, c.runTime/2)
			if err != nil {
				return nil, err
			}
			runs = append(runs, []float64{float64(s.admitted), s.perAdmission(s.exchanges), s.perAdmission(entries), s.perAdmission(size), s.perAdmission(s.wire), float64(s.cpuPerAdmission())})
		}
		m := medians(runs)
		t.row(limit, int(m[0]), fmt.Sprintf("%.3f", m[1]), fmt.Sprintf("%.3f", m[2]), fmt.Sprintf("%.1f", m[3]), fmt.Sprintf("%.0f", m[4]), time.Duration(m[5]))
	}
	return []table{t}, nil
}

// runLogged runs a load on nodes that write to disk, and counts the entries in the log
// after the nodes have closed.
func runLogged(ctx context.Context, limit string, d time.Duration) (s loadCost, entries, size int64, err error) {
	dir, err := os.MkdirTemp("", "choked-bench-")
	if err != nil {
		return s, 0, 0, err
	}
	defer os.RemoveAll(dir)
	nodes, stop, err := startNodesIn(ctx, 3, dir)
	if err != nil {
		return s, 0, 0, err
	}
	s, err = load{stores: spread(nodes, 3), keys: []string{"cost"}, limits: choked.MustLimits("requests " + limit), callers: 4, duration: d}.run(ctx)
	if err = errors.Join(err, stop()); err != nil {
		return s, 0, 0, err
	}
	logs, err := filepath.Glob(filepath.Join(dir, "*", "raft.db"))
	if err != nil {
		return s, 0, 0, err
	}
	for _, log := range logs { // equal, except that a node that left early lacks the last entries
		n, b, err := countEntries(log)
		if err != nil {
			return s, 0, 0, err
		}
		if n > entries {
			entries, size = n, b
		}
	}
	return s, entries, size, nil
}

// countEntries returns the number of command entries in a log, and the size of their
// data in bytes.
func countEntries(file string) (entries, size int64, err error) {
	db, err := raftboltdb.NewBoltStore(file)
	if err != nil {
		return 0, 0, err
	}
	defer db.Close()
	first, err := db.FirstIndex()
	if err != nil {
		return 0, 0, err
	}
	last, err := db.LastIndex()
	if err != nil {
		return 0, 0, err
	}
	for i := first; i <= last && i > 0; i++ {
		var l raft.Log
		if err := db.GetLog(i, &l); err != nil {
			return 0, 0, fmt.Errorf("%s: entry %d: %w", file, i, err)
		}
		if l.Type == raft.LogCommand {
			entries, size = entries+1, size+int64(len(l.Data))
		}
	}
	return entries, size, nil
}
