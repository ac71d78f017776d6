package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/fsm"
)

const liveKeys = 1_000_000

var liveLimits = choked.MustLimits("requests 100/d; tokens 100000/d")

func liveKey(i int) string { return fmt.Sprintf("tenant-%04d/key-%d", i%1000, i) }

// state measures memory, snapshots and the leader's CPU time with a million live keys:
// keys whose buckets are not full and have no leases.
func state(ctx context.Context, c *config) ([]table, error) {
	t := table{head: []string{"", ""}}
	empty := heap()
	m := &stateMachine{Machine: fsm.New(), at: 1}
	for i := 0; i < liveKeys; i += 1000 {
		m.charge(1000, func(j int) int { return i + j })
	}
	bytesPerKey := (heap() - empty) / liveKeys
	t.row("memory a key, the key's own bytes included", fmt.Sprintf("%d bytes", bytesPerKey))
	c.goals.add("memory per idle-but-live key in the FSM", "≤ 300 B", fmt.Sprintf("%d B", bytesPerKey), bytesPerKey <= 300, "")
	if err := m.snapshots(c, &t); err != nil {
		return nil, err
	}
	m.at += int64(48 * time.Hour) // all buckets are full by then
	const more = 2_000_000
	for range more / 1000 {
		m.charge(1000, func(j int) int { return j })
	}
	left := max(heap(), empty) - empty
	t.row(fmt.Sprintf("memory a key when all but 1,000 are full, %d operations later", more), fmt.Sprintf("%.1f bytes", float64(left)/liveKeys))
	runtime.KeepAlive(m)
	if err := measureLeader(ctx, c, &t); err != nil {
		return nil, err
	}
	return []table{t}, nil
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// stateMachine is a state machine with the index and time of its last entry.
type stateMachine struct {
	*fsm.Machine
	index uint64
	at    int64
}

// charge applies an entry that charges n keys.
func (m *stateMachine) charge(n int, key func(i int) int) {
	m.index++
	entry := &fsm.Entry{At: m.at}
	for i := range n {
		entry.Ops = append(entry.Ops, &bucket.Adjustment{Key: liveKey(key(i)), Limits: liveLimits, Defined: 1, Charge: bucket.Cost{Requests: 10, Tokens: 1000}})
	}
	if err, ok := m.Apply(&raft.Log{Index: m.index, Data: entry.Encode()}).(error); ok {
		panic(err) // the entry is invalid
	}
}

// snapshots measures the time of snapshots, and of entries applied during them.
func (m *stateMachine) snapshots(c *config, t *table) error {
	var snapped, persisted, restored, applied []time.Duration
	var longest []time.Duration
	var size int64
	for range c.repeats {
		s, err := m.snapshot()
		if err != nil {
			return err
		}
		snapped, persisted, restored = append(snapped, s.snapped), append(persisted, s.persisted), append(restored, s.restored)
		applied, longest, size = append(applied, s.applied...), append(longest, slices.Max(s.applied)), s.size
	}
	ms := func(ds []time.Duration) time.Duration { return median(ds).Round(time.Millisecond) }
	t.row(fmt.Sprintf("snapshot, median of %d", c.repeats), fmt.Sprintf("%v, %d bytes a key", ms(persisted), size/liveKeys))
	t.row("of that, time in which Raft waits", median(snapped).Round(time.Microsecond))
	t.row(fmt.Sprintf("entry applied during it, of %d: p99; median of the longest of each run", len(applied)), fmt.Sprintf("%v, %v", quantile(applied, 0.99), median(longest).Round(time.Microsecond)))
	t.row("restore, median", ms(restored))
	c.goals.add("1,000,000 live keys: snapshot", "≤ 2 s", ms(persisted).String(), median(persisted) <= 2*time.Second, "")
	c.goals.add("1,000,000 live keys: restore", "≤ 2 s", ms(restored).String(), median(restored) <= 2*time.Second, "")
	c.goals.add("1,000,000 live keys: Apply stalls while snapshotting", "≤ 20 ms", ms(longest).String(), median(longest) <= 20*time.Millisecond, "")
	return nil
}

// snapshotTimes holds the measurements of one snapshot.
type snapshotTimes struct {
	snapped, persisted, restored time.Duration
	applied                      []time.Duration // of each entry during the snapshot
	size                         int64
}

func (m *stateMachine) snapshot() (found snapshotTimes, err error) {
	file, err := os.CreateTemp("", "choked-bench-")
	if err != nil {
		return found, err
	}
	defer os.Remove(file.Name())
	defer file.Close()
	runtime.GC()
	done := make(chan error)
	started := time.Now()
	go func() {
		s, err := m.Snapshot()
		found.snapped = time.Since(started)
		if err == nil {
			err = s.Persist(sink{file})
		}
		found.persisted = time.Since(started)
		done <- err
	}()
	for over := false; !over; {
		select {
		case err = <-done:
			over = true
		default:
			before := time.Now()
			m.charge(1, func(int) int { return rand.IntN(liveKeys) })
			found.applied = append(found.applied, time.Since(before))
		}
	}
	if err != nil {
		return found, err
	}
	if found.size, err = file.Seek(0, io.SeekCurrent); err != nil {
		return found, err
	}
	n := fsm.New()
	started = time.Now()
	err = n.Restore(io.NopCloser(io.NewSectionReader(file, 0, found.size)))
	found.restored = time.Since(started)
	return found, err
}

// sink writes a snapshot to a file and syncs it, as Raft does.
type sink struct{ *os.File }

func (s sink) ID() string    { return "" }
func (s sink) Cancel() error { return nil }
func (s sink) Close() error  { return s.Sync() }

// measureLeader measures the CPU time of a leader with a million live keys, in a
// process of its own.
func measureLeader(ctx context.Context, c *config, t *table) (err error) {
	three, err := startTrio(ctx, job{}, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, three.stop()) }()
	stores, stop, err := three.members(ctx, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	started := time.Now()
	if err := chargeKeys(ctx, stores[0], liveKey, liveLimits, liveKeys); err != nil {
		return err
	}
	t.row("time to charge all keys in a cluster of three, in memory", time.Since(started).Round(10*time.Millisecond))
	if err := sleep(ctx, c.runTime/2); err != nil { // until the last snapshot is complete
		return err
	}
	idle, err := three.leaderCPU(ctx, func() error { return sleep(ctx, c.runTime) })
	if err != nil {
		return err
	}
	t.row("CPU of the idle leader", percent(idle)+" of a core")
	l := load{stores: stores, limits: liveLimits, callers: 1000, interval: time.Second, duration: c.runTime}
	for range l.callers {
		l.keys = append(l.keys, liveKey(rand.IntN(liveKeys)))
	}
	var s loadCost
	busy, err := three.leaderCPU(ctx, func() (err error) { s, err = l.run(ctx); return err })
	if err != nil {
		return err
	}
	t.row(fmt.Sprintf("CPU of the leader, one call a second under each of 1,000 keys, %d exchanges", s.exchanges), percent(busy)+" of a core")
	return nil
}
