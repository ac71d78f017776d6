//go:build linux

package fleet

import (
	"bytes"
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

// replicated is what the disks of the voters have said so far: one log, and
// states that some of them were in after an entry of it.
type replicated struct {
	entries []raft.Log // without a gap
	states  []state
}

// state is a snapshot that a voter has made, or was sent.
type state struct {
	of    string
	index uint64
	*fsm.Machine
}

// overlap is how much of what is known of a log is read again, so that what follows
// is seen to be of the same one.
const overlap = 1000

// Read takes down what a slot's disk says that is new, before Raft cuts the log
// off at its beginning or somebody wipes the disk. Its process has ended.
func (f *Fleet) Read(slot int) error {
	from := uint64(0)
	if n := len(f.disks.entries); n > overlap {
		from = f.disks.entries[n-overlap].Index
	}
	return f.read(slot, from)
}

// LastEntry returns the index of the last log entry that Read has found; 0: none.
func (f *Fleet) LastEntry() uint64 {
	if n := len(f.disks.entries); n > 0 {
		return f.disks.entries[n-1].Index
	}
	return 0
}

func (f *Fleet) read(slot int, from uint64) error {
	dir := f.State(slot)
	if _, err := os.Stat(dir); err != nil || f.Spoiled[slot] {
		return nil
	}
	entries, err := readLog(dir, from)
	if err != nil {
		return fmt.Errorf("log of %s: %w", filepath.Base(dir), err)
	}
	if f.disks.entries, err = join(f.disks.entries, entries); err != nil {
		return fmt.Errorf("log of %s beside the others: %w", filepath.Base(dir), err)
	}
	states, err := readStates(dir)
	if err != nil {
		return fmt.Errorf("snapshots of %s: %w", filepath.Base(dir), err)
	}
	for _, s := range states {
		if !slices.ContainsFunc(f.disks.states, func(t state) bool {
			return t.of == s.of && t.index == s.index && t.Hash() == s.Hash()
		}) {
			f.disks.states = append(f.disks.states, s)
		}
	}
	return nil
}

// readLog returns what there is of a log, beginning with an entry. A voter that
// was sent a snapshot keeps some entries from long before it, and what lies
// between is missing: these do not count.
func readLog(dir string, from uint64) ([]raft.Log, error) {
	path := filepath.Join(dir, "raft.db")
	options := &bbolt.Options{ReadOnly: true}
	if info, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil, nil // killed too early
	}
	db, err := bbolt.Open(path, 0o600, options)
	if err != nil {
		return nil, err
	}
	begun := false
	db.View(func(tx *bbolt.Tx) error { begun = tx.Bucket([]byte("logs")) != nil; return nil }) //nolint:errcheck // it has none
	if err := db.Close(); err != nil || !begun {
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

// readStates returns the snapshots that there are.
func readStates(dir string) (states []state, err error) {
	if _, err := os.Stat(filepath.Join(dir, "snapshots")); err != nil {
		return nil, nil
	}
	snapshots, err := raft.NewFileSnapshotStore(dir, 2, io.Discard)
	if err != nil {
		return nil, err
	}
	list, err := snapshots.List()
	if err != nil {
		return nil, err
	}
	for _, meta := range list {
		_, content, err := snapshots.Open(meta.ID)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", meta.ID, err)
		}
		m := fsm.New()
		if err := m.Restore(content); err != nil {
			return nil, fmt.Errorf("%s: %w", meta.ID, err)
		}
		states = append(states, state{filepath.Base(dir), meta.Index, m})
	}
	return states, nil
}

// join returns what two logs say together, or where they differ that should
// not: if they have an entry of one term, all before it are the same. What comes
// after may not have been committed; there the later log counts, as in an
// election. Of two that have no entry in common the later one counts.
func join(a, b []raft.Log) ([]raft.Log, error) {
	switch {
	case len(a) == 0:
		return b, nil
	case len(b) == 0:
		return a, nil
	case b[0].Index < a[0].Index:
		a, b = b, a
	}
	behind := int(b[0].Index - a[0].Index) // of a's, b's first
	same := min(len(a)-behind, len(b))     // that they have in common
	for same > 0 && a[behind+same-1].Term != b[same-1].Term {
		same--
	}
	for i := range max(same, 0) {
		x, y := &a[behind+i], &b[i]
		if x.Term != y.Term || x.Type != y.Type || !bytes.Equal(x.Data, y.Data) {
			return nil, fmt.Errorf("entry %d differs", x.Index)
		}
	}
	switch {
	case later(a, b):
		return a, nil
	case same <= 0:
		return b, nil
	}
	return append(a[:behind:behind], b...), nil
}

// later reports whether a node with log a would refuse its vote to one with b.
func later(a, b []raft.Log) bool {
	x, y := a[len(a)-1], b[len(b)-1]
	return x.Term > y.Term || x.Term == y.Term && x.Index > y.Index
}

// beginning returns a machine as it was before an entry, and the index of that
// entry: the first of the log, or the first after a state that is known.
func (r *replicated) beginning() (*fsm.Machine, uint64, error) {
	first, last := r.entries[0].Index, r.entries[len(r.entries)-1].Index
	if first == 1 {
		return fsm.New(), 1, nil
	}
	var from *state
	for i := range r.states {
		if s := &r.states[i]; s.index+1 >= first && s.index <= last && (from == nil || s.index < from.index) {
			from = s
		}
	}
	if from == nil {
		return nil, 0, fmt.Errorf("the log begins with entry %d, and there is no snapshot to begin with", first)
	}
	// Others will be compared with it: what follows changes a copy.
	m := fsm.New()
	snapshot, err := from.Snapshot()
	if err != nil {
		return nil, 0, err
	}
	defer snapshot.Release()
	var content inMemory
	if err := snapshot.Persist(&content); err != nil {
		return nil, 0, err
	}
	return m, from.index + 1, m.Restore(io.NopCloser(&content))
}

// inMemory is where a snapshot is written to.
type inMemory struct{ bytes.Buffer }

func (*inMemory) ID() string    { return "" }
func (*inMemory) Cancel() error { return nil }
func (*inMemory) Close() error  { return nil }

// agree reports which of the states, as of an entry, is not that of m.
func (r *replicated) agree(m *fsm.Machine, index uint64) (states int, err error) {
	for _, s := range r.states {
		if s.index != index {
			continue
		}
		if s.Hash() != m.Hash() {
			return states, fmt.Errorf("the snapshot of %s has another state than follows from the log: %v", s.of, buckets(s.Machine))
		}
		states++
	}
	return states, nil
}

func buckets(m *fsm.Machine) (list []bucket.Info) {
	m.View(func(t *ledger.Table) { list = t.List() })
	return list
}
