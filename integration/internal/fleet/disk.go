//go:build linux

package fleet

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/choked/choked/fsm"
)

// NeedsForMount returns what is missing for [Fleet.SmallDisk], or nil.
func NeedsForMount() error {
	if os.Geteuid() != 0 {
		return errors.New("needs root, to mount a small file system")
	}
	return nil
}

// SmallDisk gives a slot that was never started a file system of its own, in
// memory, of so many bytes. The function returned removes it.
func (f *Fleet) SmallDisk(slot int, size int) (remove func() error, err error) {
	dir := f.StateDir(slot)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		return nil, fmt.Errorf("mount a tmpfs on %s: %w", dir, err)
	}
	return func() error { return syscall.Unmount(dir, syscall.MNT_DETACH) }, nil
}

// filler is the file in a slot's directory that fills its disk.
const filler = "filler"

// Fill leaves no room on a slot's small disk.
func (f *Fleet) Fill(slot int) error {
	file, err := os.OpenFile(filepath.Join(f.StateDir(slot), filler), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	for block := make([]byte, 4096); ; {
		if _, err := file.Write(block); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// Free makes room again on a slot's disk after Fill.
func (f *Fleet) Free(slot int) error { return os.Remove(filepath.Join(f.StateDir(slot), filler)) }

// Wipe empties a slot's directory. Its process has ended.
func (f *Fleet) Wipe(slot int) error {
	entries, err := os.ReadDir(f.StateDir(slot))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, os.RemoveAll(filepath.Join(f.StateDir(slot), e.Name())))
	}
	return errors.Join(errs...)
}

// CopyDir copies the directory of a slot to the empty one of another slot. Neither
// process runs.
func (f *Fleet) CopyDir(from, to int) error {
	return os.CopyFS(f.StateDir(to), os.DirFS(f.StateDir(from)))
}

// NeedsForFaultInjection returns what is missing for [FailingSync], or nil.
func NeedsForFaultInjection() error {
	if _, err := exec.LookPath("strace"); err != nil {
		return errors.New("needs the program strace (Debian: strace)")
	}
	cmd := exec.Command("strace", "-f", "-o", os.DevNull, "-e", "trace=fdatasync", "-e", "inject=fdatasync:error=EIO", "true")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("needs to be allowed to use strace: %w: %s", err, out)
	}
	return nil
}

// FailingSync is the command that runs another whose fdatasync fails, in each
// thread, from the nth call on.
func FailingSync(n int) []string {
	return []string{"strace", "-f", "--seccomp-bpf", "-o", os.DevNull, "-e", "trace=fdatasync", "-e", fmt.Sprintf("inject=fdatasync:error=EIO:when=%d+", n)}
}

// Compact replaces a slot's log by two snapshots, one of half of what it says and
// one of all, as Raft does after some thousands of entries. Its process has ended.
func (f *Fleet) Compact(slot int) error {
	dir := f.StateDir(slot)
	entries, err := readLog(dir, 0)
	if err != nil {
		return err
	}
	machine := fsm.New()
	var config raft.Configuration
	var configAt uint64
	for i := range entries {
		switch e := &entries[i]; e.Type {
		case raft.LogCommand:
			machine.Apply(e)
		case raft.LogConfiguration:
			config, configAt = raft.DecodeConfiguration(e.Data), e.Index
		}
		if i != len(entries)/2 && i != len(entries)-1 {
			continue
		}
		if err := snapshot(dir, machine, &entries[i], config, configAt); err != nil {
			return err
		}
	}
	store, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	if err != nil {
		return err
	}
	return errors.Join(store.DeleteRange(1, uint64(len(entries))), store.Close())
}

// snapshot writes one of m, which has applied the log up to an entry.
func snapshot(dir string, m *fsm.Machine, last *raft.Log, config raft.Configuration, configAt uint64) error {
	snapshots, err := raft.NewFileSnapshotStore(dir, 2, io.Discard)
	if err != nil {
		return err
	}
	_, transport := raft.NewInmemTransport("") // names the members in the old way, beside the new
	sink, err := snapshots.Create(raft.SnapshotVersionMax, last.Index, last.Term, config, configAt, transport)
	if err != nil {
		return err
	}
	s, err := m.Snapshot()
	if err != nil {
		return err
	}
	defer s.Release()
	return errors.Join(s.Persist(sink), sink.Close())
}
