//go:build unix

package cluster

import (
	"bytes"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
)

func TestSizedLogsCountsEntries(t *testing.T) {
	entry := func(index uint64, bytes int) *raft.Log {
		return &raft.Log{Index: index, Data: make([]byte, bytes-entryOverhead)}
	}
	s := newSizedLogs(raft.NewInmemStore(), []entrySize{{7, 1000}, {8, 500}})
	assert.EqualValues(t, 1500, s.bytes)
	require.NoError(t, s.StoreLog(entry(9, 200)))
	require.NoError(t, s.StoreLogs([]*raft.Log{entry(10, 300), entry(11, 400)}))
	assert.EqualValues(t, 2400, s.bytes)
	require.NoError(t, s.DeleteRange(10, 11)) // a follower whose last entries were not committed
	require.NoError(t, s.StoreLog(entry(10, 250)))
	assert.EqualValues(t, 1950, s.bytes)
	require.NoError(t, s.DeleteRange(1, 8)) // after a snapshot
	assert.EqualValues(t, 450, s.bytes)
	assert.Empty(t, s.due)

	require.NoError(t, s.StoreLog(entry(11, keepLog)))
	assert.EqualValues(t, 1, s.keep(0))
	require.NoError(t, s.StoreLogs([]*raft.Log{entry(12, keepLog/2), entry(13, keepLog/2-450)}))
	assert.Empty(t, s.due, "twice keepLog bytes, and no more")
	require.NoError(t, s.StoreLog(entry(14, 300)))
	assert.Len(t, s.due, 1, "a snapshot is due")
	assert.EqualValues(t, 3, s.keep(1000))
	assert.EqualValues(t, 4, s.keep(2*keepLog), "a log as large as the snapshot remains")
	<-s.due
	s.check()
	assert.Empty(t, s.due, "until it is twice as large")
}

// blocks returns how many bytes the files below dir take on the disk.
func blocks(t *testing.T, dir string) (n int64) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err == nil && !e.IsDir() {
			n += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return err
	}))
	return n
}

// fillLog has a lone node write n bytes to its log, in entries of some hundred bytes to
// some hundred kilobytes. Its state remains small.
func fillLog(t *testing.T, node *Node, n int) {
	t.Helper()
	limits := choked.MustLimits("requests 1000000/s")
	for written, i := 0, 0; written < n; i++ {
		ops := 1
		if i%50 == 0 {
			ops = 500
		}
		answers := make(chan struct{}, ops)
		for op := range ops {
			ask := oneRequest(fmt.Sprintf("%s%d", strings.Repeat("k", 200), op), uint64(1+i))
			ask.Limits = limits
			written += 400
			go func() {
				_, err := node.Lease(t.Context(), ask)
				assert.NoError(t, err)
				assert.NoError(t, node.Settle(t.Context(), []bucket.Settlement{{Key: ask.Key, ID: ask.ID}}))
				answers <- struct{}{}
			}()
		}
		for range ops {
			<-answers
		}
	}
}

// A log has a bounded size, in memory and on the disk, however many entries are
// written, and few snapshots remain.
func TestLogIsBoundedByBytes(t *testing.T) {
	tooSlowForRace(t)
	for _, test := range []struct {
		name string
		dir  string
		keys int // in use all the time
	}{
		{"in memory", "", 0},
		{"on disk", t.TempDir(), 0},
		{"on disk, large state", t.TempDir(), 20_000},
	} {
		t.Run(test.name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *fleet) {
				node := c.startIn(1, test.dir)
				c.await("a leader", func() bool { return c.leader() == node })
				for first := 0; first < test.keys; first += 500 {
					var asking sync.WaitGroup
					for i := range 500 {
						asking.Go(func() {
							_, err := node.Lease(t.Context(), oneRequest(fmt.Sprintf("%s%d", strings.Repeat("key", 30), first+i), 1))
							assert.NoError(t, err)
						})
					}
					asking.Wait()
				}
				most, mostOnDisk, snapshot := int64(0), int64(0), int64(0)
				for range 20 {
					fillLog(t, node, 1<<20)
					time.Sleep(2 * time.Second)
					d := node.raft.current().disk
					d.logs.mu.Lock()
					most = max(most, d.logs.bytes)
					d.logs.mu.Unlock()
					snapshots, err := d.snapshots.List()
					require.NoError(t, err)
					assert.LessOrEqual(t, len(snapshots), keepSnaps)
					for _, s := range snapshots {
						snapshot = max(snapshot, s.Size)
					}
					if test.dir != "" {
						mostOnDisk = max(mostOnDisk, blocks(t, test.dir))
					}
				}
				t.Logf("figures: %s: a log of at most %d KiB, a snapshot of %d KiB, %d KiB on disk", test.name, most>>10, snapshot>>10, mostOnDisk>>10)
				assert.NotZero(t, snapshot)
				assert.Greater(t, most, int64(keepLog))
				assert.Less(t, most, 2*max(keepLog, snapshot)+1<<20)
				// As docs/production.md says, but for the reserve, which takes no room in tests.
				allowed := int64(20_000_000)
				if snapshot > 1_000_000 {
					allowed = 10_000_000 + 9*snapshot
				}
				assert.Less(t, mostOnDisk, allowed-reserveSize)
			})
		})
	}
}

// A log file that is mostly free is written anew when the node starts, without a loss.
func TestLogFileIsCompactedAtStart(t *testing.T) {
	dir := t.TempDir()
	open := func() *disk {
		d, _, err := openDisk(diskConfig{dir: dir, log: slog.New(slog.DiscardHandler), noSync: true})
		require.NoError(t, err)
		return d
	}
	size := func() int64 {
		info, err := os.Stat(filepath.Join(dir, logFile))
		require.NoError(t, err)
		return info.Size()
	}
	d := open()
	require.NoError(t, d.stable.SetUint64([]byte("CurrentTerm"), 7))
	data := bytes.Repeat([]byte("entry "), 200)
	for i := range uint64(20) {
		var logs []*raft.Log
		for j := range uint64(1000) {
			logs = append(logs, &raft.Log{Index: 1 + 1000*i + j, Term: 7, Data: data})
		}
		require.NoError(t, d.logs.StoreLogs(logs))
	}
	require.NoError(t, d.close())
	before := size()
	d = open()
	assert.Equal(t, before, size(), "nearly all of the file is in use")
	require.NoError(t, d.logs.DeleteRange(1, 19_000))
	bytesBefore := d.logs.bytes
	require.NoError(t, d.close())
	assert.Equal(t, before, size(), "bbolt keeps the free pages")

	require.NoError(t, os.WriteFile(filepath.Join(dir, logFile+".new"), []byte("of a process that was killed"), 0o600))
	d = open()
	assert.Less(t, size(), before/8)
	assert.InDelta(t, bytesBefore, d.logs.bytes, float64(bytesBefore)/10)
	term, err := d.stable.GetUint64([]byte("CurrentTerm"))
	require.NoError(t, err)
	assert.EqualValues(t, 7, term)
	for i := uint64(19_001); i <= 20_000; i++ {
		var log raft.Log
		require.NoError(t, d.logs.GetLog(i, &log))
		require.Equal(t, data, log.Data)
	}
	require.NoError(t, d.close())
	assert.NoFileExists(t, filepath.Join(dir, logFile+".new"))
}

// Of two processes in one directory one starts, also if the other replaces the log file
// meanwhile.
func TestReplacedLogFileIsNotUsed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, logFile)
	file, err := os.Create(path)
	require.NoError(t, err)
	defer file.Close()
	assert.True(t, isAt(path, file))
	other := filepath.Join(dir, "other")
	require.NoError(t, os.WriteFile(other, nil, 0o600))
	require.NoError(t, os.Rename(other, path))
	assert.False(t, isAt(path, file))
	require.NoError(t, os.Remove(path))
	assert.False(t, isAt(path, file))

	db, err := bbolt.Open(path, 0o600, nil) // a process that has it open
	require.NoError(t, err)
	defer db.Close()
	_, err = compactLog(path, diskConfig{rewrite: true}, &reserve{})
	assert.ErrorContains(t, err, "in use by another process")
}
