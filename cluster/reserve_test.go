//go:build unix

package cluster

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A node whose disk becomes full gives up its reserve, and goes on as a voter. It makes
// the reserve again once the disk has room.
func TestNodeGoesOnWithItsReserve(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, c *fleet) {
		cfg := c.config(1)
		cfg.Dir = dir
		file := filepath.Join(dir, reserveFile)
		var disk smallDisk
		cfg.diskFault = func() error {
			if _, err := os.Stat(file); err != nil { // what the reserve took is free
				return nil
			}
			return disk.fault()
		}
		n := c.start(cfg)
		c.await("a leader", func() bool { return c.leader() == n })
		require.FileExists(t, file)
		disk.full.Store(true)
		for i := range uint64(20) {
			_, err := n.Lease(t.Context(), oneRequest("k", 1+i))
			require.NoError(t, err)
		}
		assert.NoError(t, n.Health())
		assert.NoFileExists(t, file)
		c.await("a snapshot, so that the log file has free pages", func() bool {
			snapshots, err := n.raft.current().disk.snapshots.List()
			return err == nil && len(snapshots) > 0
		})
		disk.full.Store(false)
		time.Sleep(reserveEvery)
		assert.FileExists(t, file)
	})
}

func TestReserve(t *testing.T) {
	r := &reserve{path: filepath.Join(t.TempDir(), reserveFile), log: slog.New(slog.DiscardHandler)}
	assert.False(t, r.giveUp(), "there is none")
	require.NoError(t, r.take())
	info, err := os.Stat(r.path)
	require.NoError(t, err)
	assert.EqualValues(t, reserveSize, info.Size())
	assert.GreaterOrEqual(t, blocks(t, filepath.Dir(r.path)), int64(reserveSize), "it takes up room")
	assert.Equal(t, fs.FileMode(0o600), info.Mode().Perm())
	require.NoError(t, r.take(), "it is there")
	assert.True(t, r.giveUp())
	assert.NoFileExists(t, r.path)
	assert.False(t, r.giveUp())

	require.NoError(t, r.take())
	again := &reserve{path: r.path, log: r.log} // of the next process
	require.NoError(t, again.take())
	assert.True(t, again.giveUp())
}

// A reserve that is given up while it is being made does not take room again.
func TestReserveIsGivenUpWhileItIsMade(t *testing.T) {
	r := &reserve{path: filepath.Join(t.TempDir(), reserveFile), log: slog.New(slog.DiscardHandler), state: reserveGrowing}
	f, err := os.Create(r.path)
	require.NoError(t, err)
	defer f.Close()
	block := make([]byte, 1000)
	require.NoError(t, r.append(f, block))
	assert.True(t, r.giveUp())
	assert.EqualError(t, r.append(f, block), "given up")
	r.held()
	assert.False(t, r.giveUp())
	info, err := f.Stat()
	require.NoError(t, err)
	assert.Zero(t, info.Size(), "its room is free at once, though it is still open")
}

// The files of a node are private, whoever made them or the directory, and others stay
// as they are.
func TestFilesInDirArePrivate(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	other := filepath.Join(dir, "other")
	require.NoError(t, os.WriteFile(other, nil, 0o600))
	require.NoError(t, os.Chmod(other, 0o644))
	check := func(t *testing.T) {
		files := 0
		require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			require.NoError(t, err)
			info, err := e.Info()
			require.NoError(t, err)
			switch {
			case path == dir:
			case path == other:
				assert.Equal(t, fs.FileMode(0o644), info.Mode().Perm())
			case e.IsDir():
				assert.Equal(t, fs.FileMode(0o700), info.Mode().Perm(), path)
			default:
				files++
				assert.Equal(t, fs.FileMode(0o600), info.Mode().Perm(), path)
			}
			return nil
		}))
		assert.GreaterOrEqual(t, files, 5, "identity, log, reserve, and two of a snapshot")
	}
	inBubble(t, func(t *testing.T, c *fleet) {
		n := c.startIn(1, dir)
		c.await("a leader", func() bool { return c.leader() == n })
		_, err := n.Lease(t.Context(), oneRequest("k", 1))
		require.NoError(t, err)
		require.NoError(t, n.raft.current().Snapshot().Error())
		check(t)
		c.leave(n)
		require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			require.NoError(t, err)
			if e.IsDir() {
				return os.Chmod(path, 0o755)
			}
			return os.Chmod(path, 0o644)
		}))
		n = c.startIn(1, dir)
		check(t)
	})
}
