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
	// more than compactFactor times the bytes in use. bbolt reuses free pages, but never
	// makes the file shorter.
	compactAbove  = 8 << 20
	compactFactor = 4

	compactTx = 1 << 20 // bytes in one transaction while the file is copied
)

// compactBolt writes the log at path to a new file, if it must or if it is worth it,
// and puts that in the place of the old one. All of it is on the disk then.
func compactBolt(path string, cfg diskConfig) error {
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) { // of a process that was killed
		return err
	}
	info, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) || err == nil && info.Size() == 0 || err == nil && info.Size() <= compactAbove && !cfg.rewrite {
		return nil
	}
	if err != nil {
		return err
	}
	// The lock is held until the new file is in place: another process would work on
	// the old one.
	old, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if err != nil {
		return err
	}
	defer old.Close()
	if used, err := bytesInUse(old); err != nil || !cfg.rewrite && info.Size() <= compactFactor*used {
		return err
	}
	if err := copyBolt(fresh, old, cfg.noSync); err != nil {
		return errors.Join(fmt.Errorf("compact: %w", err), os.Remove(fresh))
	}
	if runtime.GOOS == "windows" { // where an open file cannot be replaced
		old.Close()
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
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

// bytesInUse returns how many bytes of a log hold entries, and their keys.
func bytesInUse(db *bbolt.DB) (n int64, err error) {
	err = db.View(func(tx *bbolt.Tx) error {
		return tx.ForEach(func(_ []byte, b *bbolt.Bucket) error {
			stats := b.Stats()
			n += int64(stats.BranchInuse + stats.LeafInuse)
			return nil
		})
	})
	return n, err
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
