//go:build linux

package fleet

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/fsm"
	"github.com/choked/choked/internal/ledger"
)

// replicatedLog holds what was read from the disks of the voters so far: the log,
// and the snapshots that the voters have of it.
type replicatedLog struct {
	entries   []raft.Log // consecutive
	ahead     [][]raft.Log
	snapshots []snapshotState
}

// extend merges a log that was read into r. One that begins after the end of r waits
// until the entries in between, or around its beginning, are read from another voter: a
// voter that received a snapshot has none of them.
func (r *replicatedLog) extend(log []raft.Log) (err error) {
	if len(log) == 0 {
		return nil
	}
	logs := append(r.ahead, log)
	slices.SortStableFunc(logs, func(a, b []raft.Log) int { return cmp.Compare(a[0].Index, b[0].Index) })
	r.ahead = nil
	for _, l := range logs {
		if n := len(r.entries); n > 0 && l[0].Index > r.entries[n-1].Index {
			r.ahead = append(r.ahead, l)
		} else if r.entries, err = mergeLogs(r.entries, l); err != nil {
			return err
		}
	}
	return nil
}

// skipGaps merges the logs that still wait: no other log has the entries before them.
func (r *replicatedLog) skipGaps() (err error) {
	for _, l := range r.ahead {
		if r.entries, err = mergeLogs(r.entries, l); err != nil {
			return err
		}
	}
	r.ahead = nil
	return nil
}

// snapshotState is the state in a snapshot that a voter has made or received.
type snapshotState struct {
	owner string // name of the voter
	index uint64 // of the last entry in the snapshot
	*fsm.Machine
}

// overlap is how many known entries are read again, to check that new entries
// follow the same log.
const overlap = 1000

// ReadDisk reads the new log entries and snapshots on a slot's disk. Call it
// after the slot's process has ended and before Raft truncates the log or the disk
// is wiped.
func (f *Fleet) ReadDisk(slot int) error {
	from := uint64(0)
	if n := len(f.diskLog.entries); n > overlap {
		from = f.diskLog.entries[n-overlap].Index
	}
	return f.read(slot, from)
}

// LastEntry returns the index of the last log entry that ReadDisk has found without a
// gap before it; 0: none.
func (f *Fleet) LastEntry() uint64 {
	if n := len(f.diskLog.entries); n > 0 {
		return f.diskLog.entries[n-1].Index
	}
	return 0
}

func (f *Fleet) read(slot int, from uint64) error {
	dir := f.StateDir(slot)
	if _, err := os.Stat(dir); err != nil || f.FailedDisk[slot] {
		return nil
	}
	entries, err := readLog(dir, from)
	if err != nil {
		return fmt.Errorf("read log of %s: %w", filepath.Base(dir), err)
	}
	if err := f.diskLog.extend(entries); err != nil {
		return fmt.Errorf("merge log of %s: %w", filepath.Base(dir), err)
	}
	snapshots, err := readSnapshots(dir)
	if err != nil {
		return fmt.Errorf("read snapshots of %s: %w", filepath.Base(dir), err)
	}
	for _, s := range snapshots {
		if !slices.ContainsFunc(f.diskLog.snapshots, func(t snapshotState) bool {
			return t.owner == s.owner && t.index == s.index && t.Hash() == s.Hash()
		}) {
			f.diskLog.snapshots = append(f.diskLog.snapshots, s)
		}
	}
	return nil
}

// readLog returns the entries of a log from index from on, up to the last one. It
// leaves out entries before a gap: a voter that received a snapshot keeps some
// entries from long before it.
func readLog(dir string, from uint64) ([]raft.Log, error) {
	path := filepath.Join(dir, "raft.db")
	options := &bbolt.Options{ReadOnly: true}
	if info, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil, nil // killed before it wrote its log
	}
	db, err := bbolt.Open(path, 0o600, options)
	if err != nil {
		return nil, err
	}
	hasLogs := false
	db.View(func(tx *bbolt.Tx) error { hasLogs = tx.Bucket([]byte("logs")) != nil; return nil }) //nolint:errcheck // the function returns none
	if err := db.Close(); err != nil || !hasLogs {
		return nil, err
	}
	store, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: options})
	if err != nil {
		return nil, err
	}
	defer store.Close()
	first, err := store.FirstIndex()
	if err != nil {
		return nil, err
	}
	last, err := store.LastIndex()
	if first = max(first, from); err != nil || first > last || last == 0 {
		return nil, err
	}
	entries := make([]raft.Log, last-first+1)
	for i := len(entries) - 1; i >= 0; i-- {
		err := store.GetLog(first+uint64(i), &entries[i])
		if errors.Is(err, raft.ErrLogNotFound) {
			return entries[i+1:], nil
		}
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", first+uint64(i), err)
		}
	}
	return entries, nil
}

// readSnapshots returns the states in the snapshots of a node.
func readSnapshots(dir string) (snapshots []snapshotState, err error) {
	if _, err := os.Stat(filepath.Join(dir, "snapshots")); err != nil {
		return nil, nil
	}
	store, err := raft.NewFileSnapshotStore(dir, 2, io.Discard)
	if err != nil {
		return nil, err
	}
	list, err := store.List()
	if err != nil {
		return nil, err
	}
	for _, meta := range list {
		_, content, err := store.Open(meta.ID)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", meta.ID, err)
		}
		m := fsm.New()
		if err := m.Restore(content); err != nil {
			return nil, fmt.Errorf("%s: %w", meta.ID, err)
		}
		snapshots = append(snapshots, snapshotState{filepath.Base(dir), meta.Index, m})
	}
	return snapshots, nil
}

// mergeLogs merges two logs. By Raft's log matching property, if both have an entry of
// the same index and term, all entries before it are equal: otherwise mergeLogs returns
// an error. Entries after the last common one may be uncommitted, so the newer
// log's are kept, by the order that elections use. A log that begins where the other one
// ends is appended to it. If there are entries in between, mergeLogs returns the newer one.
func mergeLogs(a, b []raft.Log) ([]raft.Log, error) {
	switch {
	case len(a) == 0:
		return b, nil
	case len(b) == 0:
		return a, nil
	case b[0].Index < a[0].Index:
		a, b = b, a
	}
	offset := int(b[0].Index - a[0].Index) // position in a of b's first entry
	common := min(len(a)-offset, len(b))   // number of entries in common
	for common > 0 && a[offset+common-1].Term != b[common-1].Term {
		common--
	}
	for i := range max(common, 0) {
		x, y := &a[offset+i], &b[i]
		if x.Term != y.Term || x.Type != y.Type || !bytes.Equal(x.Data, y.Data) {
			return nil, fmt.Errorf("entry %d differs", x.Index)
		}
	}
	switch {
	case isNewer(a, b):
		return a, nil
	case common <= 0 && offset != len(a):
		return b, nil
	}
	return append(a[:offset:offset], b...), nil
}

// isNewer reports whether a voter with log a would refuse its vote to a candidate
// with log b.
func isNewer(a, b []raft.Log) bool {
	x, y := a[len(a)-1], b[len(b)-1]
	return x.Term > y.Term || x.Term == y.Term && x.Index > y.Index
}

// startingState returns the state with which a replay begins and the index of the
// first entry to replay: the first entry of the log, or the first one after the
// oldest snapshot that fits.
func (r *replicatedLog) startingState() (*fsm.Machine, uint64, error) {
	first, last := r.entries[0].Index, r.entries[len(r.entries)-1].Index
	if first == 1 {
		return fsm.New(), 1, nil
	}
	var from *snapshotState
	for i := range r.snapshots {
		if s := &r.snapshots[i]; s.index+1 >= first && s.index <= last && (from == nil || s.index < from.index) {
			from = s
		}
	}
	if from == nil {
		return nil, 0, fmt.Errorf("log begins with entry %d: no snapshot of the state before it", first)
	}
	// The replay changes a copy: from is still compared with other snapshots.
	m := fsm.New()
	snapshot, err := from.Snapshot()
	if err != nil {
		return nil, 0, err
	}
	defer snapshot.Release()
	var content memorySink
	if err := snapshot.Persist(&content); err != nil {
		return nil, 0, err
	}
	return m, from.index + 1, m.Restore(io.NopCloser(&content))
}

// memorySink is a snapshot sink in memory.
type memorySink struct{ bytes.Buffer }

func (*memorySink) ID() string    { return "" }
func (*memorySink) Cancel() error { return nil }
func (*memorySink) Close() error  { return nil }

// checkSnapshots compares the snapshots taken after an entry with m, which has
// applied the log up to that entry. It returns their number, or an error if one
// differs.
func (r *replicatedLog) checkSnapshots(m *fsm.Machine, index uint64) (snapshots int, err error) {
	for _, s := range r.snapshots {
		if s.index != index {
			continue
		}
		if s.Hash() != m.Hash() {
			return snapshots, fmt.Errorf("snapshot of %s differs from the replayed log: it has the buckets %v", s.owner, buckets(s.Machine))
		}
		snapshots++
	}
	return snapshots, nil
}

func buckets(m *fsm.Machine) (list []bucket.Info) {
	m.View(func(t *ledger.Table) { list = t.List() })
	return list
}
