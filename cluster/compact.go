package cluster

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// A log file is written to a new file when it has more than compactAbove bytes and
	// more than compactFactor times the bytes of its entries. bbolt reuses free pages, but never
	// makes the file shorter.
	compactAbove  = 8 << 20
	compactFactor = 4

	compactTx = 1 << 20 // bytes in one transaction while the file is copied
)

// compactBolt writes the log at path to a new file, if it must or if it is worth it,
// and puts that in the place of the old one. All of it is on the disk then. It returns
// the entries of the log.
func compactBolt(path string, cfg diskConfig) (entries []entrySize, err error) {
	fresh := path + ".new"
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	// The lock is held until the new file is in place: another process would work on
	// the old one.
	old, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return nil, err
	}
	defer old.Close()
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) { // of a process that was killed
		return nil, err
	}
	entries, err = entriesOf(old)
	if err != nil {
		return nil, err
	}
	if size := info.Size(); !cfg.rewrite && (size <= compactAbove || size <= compactFactor*total(entries)) {
		return entries, nil
	}
	if err := copyBolt(fresh, old, cfg.noSync); err != nil {
		return entries, errors.Join(fmt.Errorf("compact: %w", err), os.Remove(fresh))
	}
	if runtime.GOOS == "windows" { // where an open file cannot be replaced
		old.Close()
	}
	if err := os.Rename(fresh, path); err != nil {
		return entries, err
	}
	return entries, syncDir(filepath.Dir(path))
}

// copyBolt copies a log to a new file at path.
func copyBolt(path string, from *bbolt.DB, noSync bool) error {
	to, err := bbolt.Open(path, 0o600, &bbolt.Options{NoSync: true})
	if err != nil {
		return err
	}
	err = bbolt.Compact(to, from, compactTx)
	if err == nil && !noSync {
		err = to.Sync()
	}
	return errors.Join(err, to.Close())
}

// isAt reports whether file is the one at path.
func isAt(path string, file *os.File) bool {
	there, err := os.Stat(path)
	if err != nil {
		return false
	}
	here, err := file.Stat()
	return err == nil && os.SameFile(there, here)
}

// syncDir returns when the names of the files in a directory are on the disk.
func syncDir(name string) error {
	dir, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
