package cluster

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"go.etcd.io/bbolt"
)

const (
	// A snapshot is taken, and the log is cut, when the log has more than twice
	// keepLog bytes. keepLog bytes remain, for voters that were away for a while.
	keepLog = 2 << 20

	// cutEvery is the least time between two snapshots, and how long a snapshot that
	// failed waits for the next try.
	cutEvery = time.Second

	// entryOverhead is about the number of bytes by which an entry in the log exceeds
	// its data: its index, term, time and checksum, and their names.
	entryOverhead = 128
)

// entrySize is the number of bytes of one log entry.
type entrySize struct {
	index uint64
	bytes int64
}

// sizedLogs is a [raft.LogStore] that counts the bytes of its entries. Raft itself
// takes a snapshot after a number of entries, whatever their size.
type sizedLogs struct {
	raft.LogStore
	due signal // a snapshot is due

	mu      sync.Mutex
	entries []entrySize // by index
	bytes   int64       // of all entries
	most    int64       // a snapshot is due when there are more
}

func newSizedLogs(store raft.LogStore, entries []entrySize) *sizedLogs {
	s := &sizedLogs{LogStore: store, due: newSignal(), entries: entries, bytes: total(entries), most: 2 * keepLog}
	s.check()
	return s
}

func total(entries []entrySize) (n int64) {
	for _, e := range entries {
		n += e.bytes
	}
	return n
}

func (s *sizedLogs) StoreLog(log *raft.Log) error { return s.StoreLogs([]*raft.Log{log}) }

func (s *sizedLogs) StoreLogs(logs []*raft.Log) error {
	if err := s.LogStore.StoreLogs(logs); err != nil {
		return err
	}
	s.mu.Lock()
	for _, log := range logs {
		e := entrySize{log.Index, int64(len(log.Data) + len(log.Extensions) + entryOverhead)}
		s.entries = append(s.entries, e)
		s.bytes += e.bytes
	}
	s.mu.Unlock()
	s.check()
	return nil
}

func (s *sizedLogs) DeleteRange(from, to uint64) error {
	if err := s.LogStore.DeleteRange(from, to); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = slices.DeleteFunc(s.entries, func(e entrySize) bool { return from <= e.index && e.index <= to })
	s.bytes = total(s.entries)
	return nil
}

// check gives notice if a snapshot is due.
func (s *sizedLogs) check() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes > s.most {
		s.due.set()
	}
}

// keep bounds the log for a snapshot of so many bytes, and returns how many entries
// may remain when the log is cut now. The log may become as large as two snapshots:
// otherwise most of what is written would be snapshots.
func (s *sizedLogs) keep(snapshot int64) (entries uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left := max(keepLog, snapshot)
	s.most = 2 * left
	for _, e := range slices.Backward(s.entries) {
		if left -= e.bytes; left < 0 {
			break
		}
		entries++
	}
	return entries
}

// boundLog takes snapshots of a run of Raft when they are due, until ctx ends.
func (n *Node) boundLog(ctx context.Context, run *raftRun) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-run.disk.logs.due:
		}
		if err := run.cutLog(); err != nil && ctx.Err() == nil {
			n.log.Debug("failed to take a snapshot, retrying", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(cutEvery):
			run.disk.logs.check()
		}
	}
}

// cutLog takes a snapshot and removes entries that it contains.
func (r *raftRun) cutLog() error {
	snapshots, err := r.disk.snapshots.List()
	if err != nil {
		return err
	}
	size := int64(0)
	if len(snapshots) > 0 {
		size = snapshots[0].Size
	}
	c := r.ReloadableConfig()
	c.TrailingLogs = r.disk.logs.keep(size)
	if err := r.ReloadConfig(c); err != nil {
		return err
	}
	return r.Snapshot().Error()
}

// entriesOf returns the sizes of the entries in a log file.
func entriesOf(db *bbolt.DB) (entries []entrySize, err error) {
	err = db.View(func(tx *bbolt.Tx) error {
		logs := tx.Bucket([]byte("logs"))
		if logs == nil { // the file is new
			return nil
		}
		return logs.ForEach(func(index, entry []byte) error {
			if len(index) == 8 {
				entries = append(entries, entrySize{binary.BigEndian.Uint64(index), int64(len(index) + len(entry))})
			}
			return nil
		})
	})
	return entries, err
}
