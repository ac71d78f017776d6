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
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/choked/choked/internal/fold"
)

// identity identifies this node for as long as it keeps its log. A node that lost
// its log gets a new identity: under the old one it could vote twice in a term.
type identity struct {
	Node    string `json:"node"`
	Cluster string `json:"cluster,omitempty"` // empty: the node has not joined one yet

	// A cluster of which Cluster keeps the state, by [Config.Recover]. The recovery is
	// being made, or is complete.
	Recovers  string `json:"recovers,omitempty"`
	Recovered string `json:"recovered,omitempty"`
}

// savedIdentity is an identity as the file holds it, with a checksum: a node that
// misread its id would be a different node.
type savedIdentity struct {
	identity
	Format int    `json:"format"` // of all files of the directory
	Sum    string `json:"sum"`
}

// dirFormat is the format of the files of a directory. Releases before it wrote none.
const dirFormat = 2

func (id identity) sum() string {
	fields := [][]byte{[]byte(id.Node), {0}, []byte(id.Cluster)}
	if id.Recovers != "" || id.Recovered != "" {
		fields = append(fields, []byte{0}, []byte(id.Recovers), []byte{0}, []byte(id.Recovered))
	}
	return hex.EncodeToString(sum(fields...))
}

// disk holds a node's log, snapshots and identity.
type disk struct {
	dir       string // empty: in memory
	logs      *sizedLogs
	stable    raft.StableStore
	snapshots raft.SnapshotStore
	guard     *guard // nil in memory, as are the next two
	reserve   *reserve
	bolt      *raftboltdb.BoltStore // the log and Raft's own state
	close     func() error          // closes bolt once
	fresh     bool                  // there was no log, nor any other state of Raft
}

// diskConfig tells how to open a disk.
type diskConfig struct {
	dir     string // empty: in memory
	noSync  bool   // do not fsync
	rewrite bool   // write the log to a new file first
	log     *slog.Logger
	fault   func() error // error of the next write; nil: none is injected
}

// disk returns how to open the disk of a node.
func (cfg Config) disk() diskConfig {
	return diskConfig{dir: cfg.Dir, noSync: cfg.noSync, log: cfg.Logger, fault: cfg.diskFault}
}

const (
	identityFile = "identity.json"
	logFile      = "raft.db"
	reserveFile  = "reserve"
	keepSnaps    = 2
	snapshotsDir = "snapshots" // Raft's snapshot store gives it this name
)

// openDisk opens the disk of a node and reads the node's identity. It creates the
// directory if necessary.
func openDisk(cfg diskConfig) (*disk, identity, error) {
	if cfg.dir == "" {
		store := raft.NewInmemStore()
		return &disk{logs: newSizedLogs(store, nil), stable: store, snapshots: new(memorySnapshots), fresh: true, close: func() error { return nil }}, identity{Node: newID()}, nil
	}
	d, id, err := openDir(cfg)
	if err != nil {
		return nil, identity{}, fmt.Errorf("dir %q: %w", cfg.dir, err)
	}
	return d, id, nil
}

// openDir is openDisk for a node that has a directory.
func openDir(cfg diskConfig) (*disk, identity, error) {
	fail := func(err error) (*disk, identity, error) { return nil, identity{}, err }
	if cfg.fault != nil {
		if err := cfg.fault(); err != nil {
			return fail(err)
		}
	}
	if err := os.MkdirAll(cfg.dir, 0o700); err != nil {
		return fail(err)
	}
	id, known, err := checkIdentity(cfg.dir)
	if err != nil {
		return fail(err)
	}
	makeDirPrivate(cfg.dir, cfg.log)
	d := &disk{dir: cfg.dir, reserve: &reserve{path: filepath.Join(cfg.dir, reserveFile), noSync: cfg.noSync, log: cfg.log}}
	if err := d.reserve.take(); err != nil {
		if cfg.rewrite { // there is no room yet
			return fail(err)
		}
		cfg.log.Warn("disk has no room for the reserve, which lets a node go on while its disk is full", "error", err)
	}
	if !known {
		id = identity{Node: newID()}
		if err := writeIdentity(cfg.dir, id); err != nil {
			return fail(err)
		}
	}
	if err := d.openLog(cfg); err != nil {
		return fail(err)
	}
	if err := d.openSnapshots(cfg); err != nil {
		return fail(errors.Join(err, d.close()))
	}
	makeDirPrivate(cfg.dir, cfg.log) // with what Raft has made
	return d, id, nil
}

// checkIdentity returns the identity in dir, and whether there is one. It fails if the
// identity or the log is gone and the other is there.
func checkIdentity(dir string) (id identity, known bool, err error) {
	if id, known, err = readIdentity(dir); err != nil {
		return identity{}, false, err
	}
	file, err := os.Stat(filepath.Join(dir, logFile))
	if fresh := errors.Is(err, os.ErrNotExist); (fresh || err == nil && file.Size() == 0) && known && id.Cluster != "" {
		return id, known, fmt.Errorf("log %s is gone, but %s is there: restore the log, or empty the directory to join as a new member", logFile, identityFile)
	} else if !fresh && !known {
		return id, known, fmt.Errorf("log %s without %s: restore the latter, or empty the directory to join as a new member", logFile, identityFile)
	}
	return id, known, nil
}

// openLog opens the log and Raft's own state.
func (d *disk) openLog(cfg diskConfig) error {
	path := filepath.Join(d.dir, logFile)
	entries, err := compactLog(path, cfg, d.reserve)
	if err != nil {
		return err
	}
	if d.bolt, err = openBolt(path, cfg.noSync); err != nil {
		return err
	}
	d.close = sync.OnceValue(d.bolt.Close)
	d.guard = &guard{fault: cfg.fault, reserve: d.reserve}
	d.logs = newSizedLogs(guardedLogs{d.guard, d.bolt}, entries)
	d.guard.relieved = d.logs.due.set
	d.stable = guardedStable{d.guard, d.bolt}
	return nil
}

// openSnapshots opens the snapshots, after the log.
func (d *disk) openSnapshots(cfg diskConfig) error {
	dir := filepath.Join(d.dir, snapshotsDir)
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(d.dir, keepSnaps, hclogTo(cfg.log, new(fold.Events)))
	if err != nil {
		return err
	}
	if err := checkNewestSnapshot(dir, snapshots); err != nil {
		return err
	}
	files := &snapshotFiles{FileSnapshotStore: snapshots, dir: dir, reserve: d.reserve, fault: cfg.fault, written: make(map[string]bool)}
	if err := errors.Join(files.removeUnfinished(), snapshots.ReapSnapshots()); err != nil {
		return err
	}
	d.snapshots = files
	state, err := raft.HasExistingState(d.logs, d.stable, d.snapshots)
	d.fresh = !state
	return err
}

// compactLog makes the log file smaller if it must or if that is worth it, and returns
// the entries of the log. If the file is damaged, bbolt returns an error or panics;
// compactLog returns an error in both cases.
func compactLog(path string, cfg diskConfig, r *reserve) (entries []entrySize, err error) {
	err = recoverFault(func() error {
		err := checkMetaPages(path)
		if err == nil {
			entries, err = compactBolt(path, cfg)
		}
		if isFull(err) && r.giveUp() {
			entries, err = compactBolt(path, cfg)
		}
		if isFull(err) && !cfg.rewrite { // it can wait
			cfg.log.Warn("disk has no room to compact the log", "error", err)
			return nil
		}
		return err
	})
	return entries, logError(path, err)
}

// openBolt opens the log, like compactLog.
func openBolt(path string, noSync bool) (store *raftboltdb.BoltStore, err error) {
	err = recoverFault(func() error {
		var file *os.File // that bbolt has locked
		options := &bbolt.Options{Timeout: time.Second, OpenFile: func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
			file, err = os.OpenFile(name, flag, mode)
			return file, err
		}}
		store, err = raftboltdb.New(raftboltdb.Options{Path: path, NoSync: noSync, BoltOptions: options})
		if err != nil {
			return err
		}
		if !isAt(path, file) { // another process has replaced it meanwhile, and holds the lock of the new one
			return errors.Join(bolterrors.ErrTimeout, store.Close())
		}
		return nil
	})
	return store, logError(path, err)
}

// logError names the log in an error of it.
func logError(path string, err error) error {
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("log %s is in use by another process", path)
	}
	if err != nil {
		return fmt.Errorf("log %s: %w", path, err)
	}
	return nil
}

// makeDirPrivate lets no other user read the files of a node in dir, whoever made them
// or the directory. It leaves other files alone.
func makeDirPrivate(dir string, log *slog.Logger) {
	for _, name := range []string{identityFile, logFile, reserveFile, snapshotsDir} {
		makePrivate(log, filepath.Join(dir, name))
	}
}

// makePrivate lets no other user read the files at and below a path.
func makePrivate(log *slog.Logger, path string) {
	filepath.WalkDir(path, func(path string, e fs.DirEntry, err error) error { //nolint:errcheck // it has none
		if err != nil || e.Type()&fs.ModeSymlink != 0 {
			return nil // as a rule it does not exist yet
		}
		mode := fs.FileMode(0o600)
		if e.IsDir() {
			mode = 0o700
		}
		if info, err := e.Info(); err == nil && info.Mode().Perm()&^mode == 0 {
			return nil
		}
		if err := os.Chmod(path, mode); err != nil {
			log.Warn("failed to make a file private", "error", err)
		}
		return nil
	})
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
	if s.Format != dirFormat {
		return identity{}, false, fmt.Errorf("%s has format %d, and this release reads %d: run the release that wrote the directory, or empty it to join as a new member; "+
			"when all nodes begin with empty directories, what was spent before is forgotten", identityFile, max(s.Format, 1), dirFormat)
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
	b, err := json.Marshal(savedIdentity{id, dirFormat, id.sum()})
	if err != nil {
		return err
	}
	name := filepath.Join(dir, identityFile)
	f, err := os.OpenFile(name+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
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
	return syncDir(dir)
}

// guard keeps a failing disk from ending the process. Raft panics when it cannot
// save its term or read its log, because it must not go on. With a guard it does not
// go on either: onFailure is called, and the goroutine that got the error exits
// before any message that depends on the write can leave.
type guard struct {
	armed     atomic.Bool // unset while Raft starts: errors are returned
	founding  atomic.Bool // set while Raft bootstraps, when it handles errors of writes: they are returned
	failed    atomic.Bool
	cause     error       // why it failed; set before failed is
	failing   sync.Mutex  // held while failed is being set
	onFailure func(error) // set before armed is
	reserve   *reserve
	relieved  func()       // called when the reserve was given up
	fault     func() error // error of the next write; nil: none is injected
}

// Operations on the disk. Raft handles an error of the first two.
const (
	findLog  = "find log"
	cutLog   = "cut log"
	readLog  = "read log"
	writeLog = "write log"
)

// check returns err, which operation op returned, unless it means that the disk has
// failed and Raft would not stop by itself.
func (g *guard) check(op string, err error) error {
	if err == nil || errors.Is(err, raft.ErrLogNotFound) || errors.Is(err, raftboltdb.ErrKeyNotFound) || !g.armed.Load() {
		return err
	}
	g.fail(fmt.Errorf("%s: %w", op, err))
	if op == findLog || op == cutLog || g.founding.Load() && op != readLog {
		return err
	}
	runtime.Goexit()
	return err
}

// fail calls onFailure unless the disk has failed before.
func (g *guard) fail(err error) {
	g.failing.Lock()
	first := !g.failed.Load()
	if first {
		g.cause = err
		g.failed.Store(true)
	}
	g.failing.Unlock()
	if first {
		g.onFailure(err)
	}
}

// failure returns why the disk has failed; nil: it has not.
func (g *guard) failure() error {
	g.failing.Lock()
	defer g.failing.Unlock()
	return g.cause
}

// try runs f under the guard.
func (g *guard) try(op string, f func() error) error { return g.check(op, recoverFault(f)) }

// write runs f, which writes, under the guard. If the disk is full, it gives up the
// reserve and tries again.
func (g *guard) write(op string, f func() error) error {
	write := func() error {
		if g.fault != nil {
			if err := g.fault(); err != nil {
				return err
			}
		}
		return f()
	}
	return g.try(op, func() error {
		err := write()
		if isFull(err) && g.reserve.giveUp() {
			g.relieved()
			err = write()
		}
		return err
	})
}

// isFull reports whether err means that the file system refused a write: it is full,
// has reached a quota, or is mounted read-only. All that was written before is intact.
func isFull(err error) bool {
	if err == nil {
		return false
	}
	for _, refusal := range refusals {
		// bbolt does not wrap all of its causes.
		if errors.Is(err, refusal) || strings.Contains(err.Error(), refusal.Error()) {
			return true
		}
	}
	return false
}

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
	err = l.try(findLog, func() error { i, err = l.store.FirstIndex(); return err })
	return i, err
}

func (l guardedLogs) LastIndex() (i uint64, err error) {
	err = l.try(findLog, func() error { i, err = l.store.LastIndex(); return err })
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
	return l.write(writeLog, func() error { return l.store.StoreLogs(summed) })
}

func (l guardedLogs) DeleteRange(from, to uint64) error {
	return l.write(cutLog, func() error { return l.store.DeleteRange(from, to) })
}

// guardedStable is a [raft.StableStore] under a guard. It stores a checksum with
// each value.
type guardedStable struct {
	*guard
	store *raftboltdb.BoltStore
}

func (s guardedStable) Set(key, val []byte) error {
	return s.write("write state", func() error { return s.store.Set(key, append(slices.Clip(val), sum(key, val)...)) })
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
