package cluster

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
)

// reserveSize is the number of bytes that a node keeps free for itself on its disk.
const reserveSize = 4 << 20

// reserve is a file that takes up room on the disk until the disk is full. It is given
// up then, so that the node can take a snapshot and cut its log, and has a log file
// with free pages: it goes on in its Dir without more room.
type reserve struct {
	path   string
	noSync bool // take no room: the file is sparse
	log    *slog.Logger

	mu    sync.Mutex
	state reserveState
}

type reserveState int

const (
	reserveGone reserveState = iota
	reserveGrowing
	reserveHeld
)

// besideReserve is the number of bytes that remain free when the reserve is taken.
const besideReserve = 1 << 20

// take makes the file unless it is there. It does not try if there is clearly no room,
// since others need what is left.
func (r *reserve) take() (err error) {
	r.mu.Lock()
	if r.state != reserveGone {
		r.mu.Unlock()
		return nil
	}
	r.state = reserveGrowing
	r.mu.Unlock()
	if info, err := os.Stat(r.path); err == nil && info.Size() == reserveSize {
		r.held()
		return os.Chmod(r.path, 0o600)
	}
	if free, known := freeBytes(filepath.Dir(r.path)); known && free < reserveSize+besideReserve && !r.noSync {
		r.giveUp()
		return fmt.Errorf("reserve of %d MiB: disk has %d KiB left: %w", reserveSize>>20, free>>10, refusals[0])
	}
	f, err := os.OpenFile(r.path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err == nil {
		err = errors.Join(r.fill(f), f.Close())
	}
	if err != nil {
		r.giveUp()
		return fmt.Errorf("reserve of %d MiB: %w", reserveSize>>20, err)
	}
	r.held()
	return nil
}

// held records that the file is complete, unless it was given up meanwhile.
func (r *reserve) held() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state == reserveGrowing {
		r.state = reserveHeld
	}
}

// fill writes the file, until it is complete or given up.
func (r *reserve) fill(f *os.File) error {
	if r.noSync {
		return f.Truncate(reserveSize)
	}
	block := make([]byte, 64<<10)
	for i := range block { // not zeros, for which some file systems need no room
		block[i] = byte(i*i>>8 + i)
	}
	for range reserveSize / len(block) {
		if err := r.append(f, block); err != nil {
			return err
		}
	}
	return f.Sync()
}

func (r *reserve) append(f *os.File, block []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.state != reserveGrowing {
		return errors.New("given up")
	}
	_, err := f.Write(block)
	return err
}

// giveUp removes the file, and reports whether that made room.
func (r *reserve) giveUp() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	had := r.state
	r.state = reserveGone
	if had == reserveGone {
		return false
	}
	if had == reserveHeld {
		r.log.Warn("disk is full, gave up the reserve", "file", r.path, "bytes", reserveSize)
	}
	// It is truncated first, as it may be open.
	return errors.Join(os.Truncate(r.path, 0), os.Remove(r.path)) == nil
}
