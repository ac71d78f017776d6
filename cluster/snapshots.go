package cluster

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
)

// snapshotFiles is Raft's snapshot store in a directory. Other users cannot read its
// files, it gives up the reserve when the disk is full, and it removes snapshots that
// were not completed: Raft leaves them if the disk is full.
type snapshotFiles struct {
	*raft.FileSnapshotStore
	dir     string
	reserve *reserve
	fault   func() error // error of the next write; nil: none is injected

	mu      sync.Mutex
	written map[string]bool // directories of the snapshots that are being written
}

const unfinished = ".tmp" // suffix of the directory of a snapshot that is not complete

// Create implements [raft.SnapshotStore].
func (s *snapshotFiles) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, transport raft.Transport) (raft.SnapshotSink, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	create := func() (sink raft.SnapshotSink, err error) {
		if s.fault != nil {
			err = s.fault()
		}
		if err == nil {
			sink, err = s.FileSnapshotStore.Create(version, index, term, configuration, configurationIndex, transport)
		}
		if err != nil {
			return nil, errors.Join(err, s.removeUnfinished())
		}
		return sink, nil
	}
	sink, err := create()
	if isFull(err) && s.reserve.giveUp() {
		sink, err = create()
	}
	if err != nil {
		return nil, err
	}
	dir := sink.ID() + unfinished
	s.written[dir] = true
	makePrivate(s.reserve.log, filepath.Join(s.dir, dir))
	return &snapshotSink{sink, s, dir}, nil
}

// removeUnfinished removes the snapshots that are not complete and never will be. The
// caller holds mu.
func (s *snapshotFiles) removeUnfinished() error {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), unfinished) && !s.written[e.Name()] {
			errs = append(errs, os.RemoveAll(filepath.Join(s.dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// snapshotSink is a snapshot that is being written.
type snapshotSink struct {
	raft.SnapshotSink
	store *snapshotFiles
	dir   string
}

func (k *snapshotSink) Write(b []byte) (int, error) {
	n, err := k.SnapshotSink.Write(b)
	k.relieve(err)
	return n, err
}

func (k *snapshotSink) Close() error  { return k.end(k.SnapshotSink.Close()) }
func (k *snapshotSink) Cancel() error { return k.end(k.SnapshotSink.Cancel()) }

// end is called when the snapshot is complete or has failed.
func (k *snapshotSink) end(err error) error {
	k.relieve(err)
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	delete(k.store.written, k.dir)
	return errors.Join(err, k.store.removeUnfinished())
}

// relieve gives up the reserve if err means that the disk is full. The snapshot has
// failed, but the next one has room.
func (k *snapshotSink) relieve(err error) {
	if isFull(err) {
		k.store.reserve.giveUp()
	}
}
