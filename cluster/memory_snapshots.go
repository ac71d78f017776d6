package cluster

import (
	"bytes"
	"fmt"
	"io"
	"sync"

	"github.com/hashicorp/raft"
)

// memorySnapshots is a [raft.SnapshotStore] that holds the newest complete snapshot in
// memory. raft.InmemSnapshotStore, which is made for tests, also hands out snapshots
// that are still being written, or that failed halfway.
type memorySnapshots struct {
	mu     sync.Mutex
	newest *memorySnapshot // nil: there is none
}

// memorySnapshot is a snapshot; as a [raft.SnapshotSink], one that is being written.
type memorySnapshot struct {
	store *memorySnapshots
	meta  raft.SnapshotMeta
	state bytes.Buffer
}

// Create implements [raft.SnapshotStore].
func (s *memorySnapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &memorySnapshot{store: s, meta: raft.SnapshotMeta{
		Version: version, ID: fmt.Sprintf("%d-%d", term, index), Index: index, Term: term,
		Configuration: configuration, ConfigurationIndex: configurationIndex,
	}}, nil
}

// List implements [raft.SnapshotStore].
func (s *memorySnapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest == nil {
		return nil, nil
	}
	meta := s.newest.meta
	return []*raft.SnapshotMeta{&meta}, nil
}

// Open implements [raft.SnapshotStore].
func (s *memorySnapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.newest == nil || s.newest.meta.ID != id {
		return nil, nil, fmt.Errorf("snapshot %s is not there: a newer one has taken its place", id)
	}
	meta := s.newest.meta
	return &meta, io.NopCloser(bytes.NewReader(s.newest.state.Bytes())), nil
}

// ID implements [raft.SnapshotSink].
func (k *memorySnapshot) ID() string { return k.meta.ID }

// Write implements [raft.SnapshotSink].
func (k *memorySnapshot) Write(b []byte) (int, error) { return k.state.Write(b) }

// Cancel implements [raft.SnapshotSink].
func (k *memorySnapshot) Cancel() error { return nil }

// Close implements [raft.SnapshotSink]. The snapshot is complete.
func (k *memorySnapshot) Close() error {
	k.meta.Size = int64(k.state.Len())
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	k.store.newest = k
	return nil
}
