package cluster

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"hash/fnv"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// identity is who this node is, for as long as it keeps its log. A node that
// lost its log must not be taken for the one that had it: it would vote twice.
type identity struct {
	Node    string `json:"node"`
	Cluster string `json:"cluster,omitempty"` // empty: of none yet
}

// saved is an identity as it is kept. With an id that was misread a node would
// be another one.
type saved struct {
	identity
	Sum string `json:"sum"`
}

func (id identity) sum() string {
	return hex.EncodeToString(sum([]byte(id.Node), []byte{0}, []byte(id.Cluster)))
}

// disk is where a node keeps its log, its snapshots and its identity.
type disk struct {
	dir       string // "": in memory
	logs      raft.LogStore
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	bolt      *raftboltdb.BoltStore // nil in memory
	guard     *guard
	fresh     bool // no log was there
}

const (
	identityFile = "identity.json"
	logFile      = "raft.db"
	keepSnaps    = 2
)

// openDisk opens dir, which is created if it is not there, and reads who the
// node is. broken is called once, on any goroutine, when the disk fails later.
func openDisk(dir string, noSync bool, log hclog.Logger, broken func(error)) (*disk, identity, error) {
	if dir == "" {
		store := raft.NewInmemStore()
		return &disk{logs: store, stable: store, snapshots: raft.NewInmemSnapshotStore(), fresh: true}, identity{Node: newID()}, nil
	}
	fail := func(err error) (*disk, identity, error) {
		return nil, identity{}, fmt.Errorf("dir %q: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fail(err)
	}
	id, known, err := readIdentity(dir)
	if err != nil {
		return fail(err)
	}
	file, err := os.Stat(filepath.Join(dir, logFile))
	if fresh := errors.Is(err, os.ErrNotExist); (fresh || err == nil && file.Size() == 0) && known && id.Cluster != "" {
		return fail(fmt.Errorf("the log %s is gone that belongs to %s: restore it, or empty the directory to join as a new member", logFile, identityFile))
	} else if !fresh && !known {
		return fail(fmt.Errorf("there is a log %s without %s: restore it, or empty the directory to join as a new member", logFile, identityFile))
	}
	d := &disk{dir: dir, fresh: !known, guard: &guard{broken: broken}}
	if !known {
		id = identity{Node: newID()}
		if err := writeIdentity(dir, id); err != nil {
			return fail(err)
		}
	}
	if d.bolt, err = openBolt(filepath.Join(dir, logFile), noSync); err != nil {
		return fail(err)
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnaps, log)
	if err != nil {
		return fail(errors.Join(err, d.bolt.Close()))
	}
	if err := newestReadable(filepath.Join(dir, "snapshots"), snapshots); err != nil {
		return fail(errors.Join(err, d.bolt.Close()))
	}
	d.logs = guardedLogs{d.guard, d.bolt}
	d.stable = guardedStable{d.guard, d.bolt}
	d.snapshots = snapshots
	return d, id, nil
}

// openBolt opens the log. What is not a log makes bbolt return errors, or
// panic; both end here as an error.
func openBolt(path string, noSync bool) (store *raftboltdb.BoltStore, err error) {
	err = recoverFault(func() error {
		if err := bothMetas(path); err != nil {
			return err
		}
		store, err = raftboltdb.New(raftboltdb.Options{Path: path, NoSync: noSync, BoltOptions: &bbolt.Options{Timeout: time.Second}})
		return err
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("log %s is in use by another process", path)
	}
	if err != nil {
		return nil, fmt.Errorf("log %s: %w", path, err)
	}
	return store, nil
}

// bothMetas returns an error unless both pages are whole that say, by turns, which
// write is the last. bbolt passes over one that is not for the other: the last
// write, which may be a vote or a grant, would be forgotten. A crash leaves both
// whole, for what counts of such a page is in one sector of the disk.
func bothMetas(path string) error {
	if info, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second}) // nobody writes meanwhile
	if err != nil {
		return err
	}
	defer db.Close()
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	for page := range 2 {
		const head, length = 16, 56 // of the page, and of what its checksum is over: FNV-1a
		var meta [head + length + 8]byte
		if _, err := file.ReadAt(meta[:], int64(page*db.Info().PageSize)); err != nil {
			return err
		}
		sum := fnv.New64a()
		sum.Write(meta[head : head+length])
		if sum.Sum64() != binary.NativeEndian.Uint64(meta[head+length:]) {
			return fmt.Errorf("page %d is damaged: its checksum does not match: restore it, or empty the directory to join as a new member", page)
		}
	}
	return nil
}

// newestReadable returns an error unless the newest snapshot in dir is whole.
// Raft would pass over it and begin with one before: what was granted between
// them would be forgotten, if the log does not go back so far. A crash leaves no
// such snapshot, for it gets its name when all of it is on the disk.
func newestReadable(dir string, snapshots raft.SnapshotStore) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var newest snapshotName
	for _, e := range entries {
		if name, ok := parseSnapshotName(e.Name()); ok && name.compare(newest) > 0 {
			newest = name
		}
	}
	if newest == (snapshotName{}) {
		return nil
	}
	damaged := func(err error) error {
		return fmt.Errorf("snapshot %v is damaged: %w: restore it, or empty the directory to join as a new member", newest, err)
	}
	meta, state, err := snapshots.Open(newest.String())
	if err != nil {
		return damaged(err)
	}
	if err := state.Close(); err != nil {
		return err
	}
	if meta.ID != newest.String() || meta.Term != newest.term || meta.Index != newest.index {
		return damaged(fmt.Errorf("its meta.json is that of %s, of term %d, index %d", meta.ID, meta.Term, meta.Index))
	}
	if list, err := snapshots.List(); err != nil || len(list) == 0 || list[0].ID != meta.ID {
		return damaged(fmt.Errorf("its meta.json is of version %d", meta.Version))
	}
	return nil
}

// snapshotName is what Raft's store of snapshots calls one.
type snapshotName struct{ term, index, ms uint64 }

// parseSnapshotName returns false for what is not the name of a snapshot, such
// as that of one that is not finished.
func parseSnapshotName(s string) (n snapshotName, ok bool) {
	_, err := fmt.Sscanf(s, "%d-%d-%d", &n.term, &n.index, &n.ms)
	return n, err == nil && n.String() == s
}

func (n snapshotName) String() string { return fmt.Sprintf("%d-%d-%d", n.term, n.index, n.ms) }

func (n snapshotName) compare(m snapshotName) int {
	return cmp.Or(cmp.Compare(n.term, m.term), cmp.Compare(n.index, m.index), cmp.Compare(n.ms, m.ms))
}

func (d *disk) close() error {
	if d.bolt == nil {
		return nil
	}
	return d.bolt.Close()
}

func newID() string {
	var b [8]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func readIdentity(dir string) (id identity, known bool, err error) {
	b, err := os.ReadFile(filepath.Join(dir, identityFile))
	if errors.Is(err, os.ErrNotExist) {
		return identity{}, false, nil
	}
	if err != nil {
		return identity{}, false, err
	}
	var s saved
	if err := json.Unmarshal(b, &s); err != nil || s.Node == "" || s.Sum != s.sum() {
		return identity{}, false, fmt.Errorf("%s is damaged: want a node and a cluster id and their checksum, have %.100q", identityFile, b)
	}
	return s.identity, true, nil
}

// identify writes down who the node is, and of which cluster.
func (d *disk) identify(node, cluster string) error {
	if d.dir == "" {
		return nil
	}
	if err := writeIdentity(d.dir, identity{Node: node, Cluster: cluster}); err != nil {
		return fmt.Errorf("dir %q: %w", d.dir, err)
	}
	return nil
}

// writeIdentity replaces the file as a whole, and returns when it is on disk.
func writeIdentity(dir string, id identity) error {
	b, err := json.Marshal(saved{id, id.sum()})
	if err != nil {
		return err
	}
	name := filepath.Join(dir, identityFile)
	f, err := os.Create(name + ".new")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+".new", name); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// guard keeps a failing disk from ending the process. Raft panics when it
// cannot save its term or read its log, for it must not go on. With a guard it
// does not go on either: the node is told, and the goroutine that met the error
// ends there, before anything that rests on the write can leave.
type guard struct {
	armed    atomic.Bool // before, while raft starts, errors are returned
	founding atomic.Bool // while it bootstraps, those of writing are returned, for it then answers
	failed   atomic.Bool
	broken   func(error)
}

func (g *guard) check(what string, err error) error {
	if err == nil || errors.Is(err, raft.ErrLogNotFound) || errors.Is(err, raftboltdb.ErrKeyNotFound) || !g.armed.Load() {
		return err
	}
	if g.failed.CompareAndSwap(false, true) {
		g.broken(fmt.Errorf("%s: %w", what, err))
	}
	if !g.founding.Load() || what == readLog {
		runtime.Goexit()
	}
	return err
}

const readLog = "read log"

// try runs f under the guard.
func (g *guard) try(what string, f func() error) error { return g.check(what, recoverFault(f)) }

// survive runs f, which may panic on a damaged file. The file is mapped into
// memory: where it ends too early, or cannot be read, access is a fault, which
// would end the process.
func recoverFault(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("it is damaged: %v", p)
		}
	}()
	return f()
}

type guardedLogs struct {
	*guard
	store *raftboltdb.BoltStore
}

func (l guardedLogs) FirstIndex() (i uint64, err error) {
	err = l.try(readLog, func() error { i, err = l.store.FirstIndex(); return err })
	return i, err
}

func (l guardedLogs) LastIndex() (i uint64, err error) {
	err = l.try(readLog, func() error { i, err = l.store.LastIndex(); return err })
	return i, err
}

func (l guardedLogs) GetLog(i uint64, log *raft.Log) error {
	return l.try(readLog, func() error {
		if err := l.store.GetLog(i, log); err != nil {
			return err
		}
		if log.Index != i || !bytes.Equal(log.Extensions, sumOfLog(log)) {
			return fmt.Errorf("entry %d is damaged: its checksum does not match", i)
		}
		log.Extensions = nil
		return nil
	})
}

func (l guardedLogs) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// StoreLogs keeps a checksum with each entry: bbolt has none. An entry that was
// read wrongly would make this replica another than the rest, for good.
func (l guardedLogs) StoreLogs(logs []*raft.Log) error {
	summed := make([]*raft.Log, len(logs))
	for i, log := range logs {
		entry := *log // Raft goes on to use its own
		entry.Extensions = sumOfLog(log)
		summed[i] = &entry
	}
	return l.try("write log", func() error { return l.store.StoreLogs(summed) })
}

func (l guardedLogs) DeleteRange(from, to uint64) error {
	return l.try("write log", func() error { return l.store.DeleteRange(from, to) })
}

type guardedStable struct {
	*guard
	store *raftboltdb.BoltStore
}

func (s guardedStable) Set(key, val []byte) error {
	return s.try("write state", func() error { return s.store.Set(key, append(slices.Clip(val), sum(key, val)...)) })
}

func (s guardedStable) Get(key []byte) (val []byte, err error) {
	err = s.try("read state", func() error {
		summed, err := s.store.Get(key)
		if err != nil {
			return err
		}
		at := max(0, len(summed)-crc32.Size)
		if val = summed[:at]; !bytes.Equal(summed[at:], sum(key, val)) {
			return fmt.Errorf("%s is damaged: its checksum does not match", key)
		}
		return nil
	})
	return val, err
}

func (s guardedStable) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

func (s guardedStable) GetUint64(key []byte) (uint64, error) {
	val, err := s.Get(key)
	if err != nil || len(val) != 8 {
		return 0, err
	}
	return binary.BigEndian.Uint64(val), nil
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sum is the CRC-32C of some fields.
func sum(fields ...[]byte) []byte {
	var crc uint32
	for _, f := range fields {
		crc = crc32.Update(crc, castagnoli, f)
	}
	return binary.BigEndian.AppendUint32(nil, crc)
}

func sumOfLog(log *raft.Log) []byte {
	head := binary.BigEndian.AppendUint64(nil, log.Index)
	head = append(binary.BigEndian.AppendUint64(head, log.Term), byte(log.Type))
	return sum(head, log.Data)
}
