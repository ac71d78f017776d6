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

// identity identifies this node for as long as it keeps its log. A node that lost
// its log gets a new identity: under the old one it could vote twice in a term.
type identity struct {
	Node    string `json:"node"`
	Cluster string `json:"cluster,omitempty"` // empty: the node has not joined one yet
}

// savedIdentity is an identity as the file holds it, with a checksum: a node that
// misread its id would be a different node.
type savedIdentity struct {
	identity
	Sum string `json:"sum"`
}

func (id identity) sum() string {
	return hex.EncodeToString(sum([]byte(id.Node), []byte{0}, []byte(id.Cluster)))
}

// disk holds a node's log, snapshots and identity.
type disk struct {
	dir       string // empty: in memory
	logs      raft.LogStore
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	bolt      *raftboltdb.BoltStore // nil in memory
	guard     *guard
	fresh     bool // there was no log at the start
}

const (
	identityFile = "identity.json"
	logFile      = "raft.db"
	keepSnaps    = 2
)

// openDisk opens dir, which it creates if necessary, and reads the node's identity.
// It calls onFailure once, on any goroutine, if the disk fails later.
func openDisk(dir string, noSync bool, log hclog.Logger, onFailure func(error)) (*disk, identity, error) {
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
		return fail(fmt.Errorf("log %s is gone, but %s is there: restore the log, or empty the directory to join as a new member", logFile, identityFile))
	} else if !fresh && !known {
		return fail(fmt.Errorf("log %s without %s: restore the latter, or empty the directory to join as a new member", logFile, identityFile))
	}
	d := &disk{dir: dir, fresh: !known, guard: &guard{onFailure: onFailure}}
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
	if err := checkNewestSnapshot(filepath.Join(dir, "snapshots"), snapshots); err != nil {
		return fail(errors.Join(err, d.bolt.Close()))
	}
	d.logs = guardedLogs{d.guard, d.bolt}
	d.stable = guardedStable{d.guard, d.bolt}
	d.snapshots = snapshots
	return d, id, nil
}

// openBolt opens the log. If the file is damaged, bbolt returns an error or panics;
// openBolt returns an error in both cases.
func openBolt(path string, noSync bool) (store *raftboltdb.BoltStore, err error) {
	err = recoverFault(func() error {
		if err := checkMetaPages(path); err != nil {
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

// checkMetaPages returns an error unless both meta pages of the file are intact.
// bbolt writes them by turns, and each names the root of one of the last two states.
// It ignores a damaged page and takes the other one: the last write, which may be a
// vote or a grant, would be forgotten. After a crash both pages are intact, because
// the relevant bytes of a page lie in one sector of the disk.
func checkMetaPages(path string) error {
	if info, err := os.Stat(path); errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true, Timeout: time.Second}) // locked: no process writes meanwhile
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
		const head, length = 16, 56 // bytes before, and bytes covered by, the FNV-1a checksum
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

// checkNewestSnapshot returns an error unless the newest snapshot in dir is intact.
// Raft would ignore a damaged one and start from an older one: grants between the
// two would be forgotten, if the log does not go back that far. A crash does not
// damage a snapshot, which gets its name only after all of it is on the disk.
func checkNewestSnapshot(dir string, snapshots raft.SnapshotStore) error {
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
		return damaged(fmt.Errorf("its meta.json describes snapshot %s of term %d, index %d", meta.ID, meta.Term, meta.Index))
	}
	if list, err := snapshots.List(); err != nil || len(list) == 0 || list[0].ID != meta.ID {
		return damaged(fmt.Errorf("its meta.json has version %d", meta.Version))
	}
	return nil
}

// snapshotName is the name that Raft's snapshot store gives to a snapshot.
type snapshotName struct{ term, index, ms uint64 }

// parseSnapshotName returns false if s is not the name of a complete snapshot.
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
	var s savedIdentity
	if err := json.Unmarshal(b, &s); err != nil || s.Node == "" || s.Sum != s.sum() {
		return identity{}, false, fmt.Errorf("%s is damaged: want a node and a cluster id and their checksum, have %.100q", identityFile, b)
	}
	return s.identity, true, nil
}

// identify saves the node's identity.
func (d *disk) identify(node, cluster string) error {
	if d.dir == "" {
		return nil
	}
	if err := writeIdentity(d.dir, identity{Node: node, Cluster: cluster}); err != nil {
		return fmt.Errorf("dir %q: %w", d.dir, err)
	}
	return nil
}

// writeIdentity replaces the identity file atomically, and returns when the new one
// is on the disk.
func writeIdentity(dir string, id identity) error {
	b, err := json.Marshal(savedIdentity{id, id.sum()})
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

// guard keeps a failing disk from ending the process. Raft panics when it cannot
// save its term or read its log, because it must not go on. With a guard it does not
// go on either: onFailure is called, and the goroutine that got the error exits
// before any message that depends on the write can leave.
type guard struct {
	armed     atomic.Bool // unset while Raft starts: errors are returned
	founding  atomic.Bool // set while Raft bootstraps, when it handles errors of writes: they are returned
	failed    atomic.Bool
	onFailure func(error)
}

// check returns err, which operation op returned, unless it means that the disk has
// failed.
func (g *guard) check(op string, err error) error {
	if err == nil || errors.Is(err, raft.ErrLogNotFound) || errors.Is(err, raftboltdb.ErrKeyNotFound) || !g.armed.Load() {
		return err
	}
	if g.failed.CompareAndSwap(false, true) {
		g.onFailure(fmt.Errorf("%s: %w", op, err))
	}
	if !g.founding.Load() || op == readLog {
		runtime.Goexit()
	}
	return err
}

const readLog = "read log"

// try runs f under the guard.
func (g *guard) try(op string, f func() error) error { return g.check(op, recoverFault(f)) }

// recoverFault runs f and returns a panic of it as an error. A damaged file can make
// bbolt panic. bbolt maps the file into memory, so that access to a part which is
// missing, or cannot be read, is a memory fault that would otherwise end the process.
func recoverFault(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("file is damaged: %v", p)
		}
	}()
	return f()
}

// guardedLogs is a [raft.LogStore] under a guard.
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

// StoreLogs stores a checksum with each entry, which bbolt does not. If an entry
// were misread, this replica would differ from the others for good.
func (l guardedLogs) StoreLogs(logs []*raft.Log) error {
	summed := make([]*raft.Log, len(logs))
	for i, log := range logs {
		entry := *log // a copy: Raft still uses its own
		entry.Extensions = sumOfLog(log)
		summed[i] = &entry
	}
	return l.try("write log", func() error { return l.store.StoreLogs(summed) })
}

func (l guardedLogs) DeleteRange(from, to uint64) error {
	return l.try("write log", func() error { return l.store.DeleteRange(from, to) })
}

// guardedStable is a [raft.StableStore] under a guard. It stores a checksum with
// each value.
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

// sum returns the CRC-32C of the fields, one after the other.
func sum(fields ...[]byte) []byte {
	var crc uint32
	for _, f := range fields {
		crc = crc32.Update(crc, castagnoli, f)
	}
	return binary.BigEndian.AppendUint32(nil, crc)
}

// sumOfLog returns the checksum of an entry.
func sumOfLog(log *raft.Log) []byte {
	head := binary.BigEndian.AppendUint64(nil, log.Index)
	head = append(binary.BigEndian.AppendUint64(head, log.Term), byte(log.Type))
	return sum(head, log.Data)
}
