//go:build linux

package integration

import (
	"cmp"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/integration/internal/fleet"
	"github.com/choked/choked/internal/testkit/history"
)

// steppedOut is how a worker stands whose disk has failed: it says so, and is
// served by the others.
func steppedOut(t *testing.T, f *fleet.Fleet, slot int) {
	t.Helper()
	p := f.Slot(slot)
	require.NoError(t, p.Await(30*time.Second, "says that its disk has failed", func(s fleet.Status) bool {
		return strings.Contains(s.Health, "disk failed")
	}))
	f.Faults = append(f.Faults, fleet.Fault{At: history.Now(), What: "step out", Slot: slot})
	id := p.Status().ID
	for i := range 3 {
		require.NoError(t, f.Slot(i).Await(20*time.Second, "another leader", func(s fleet.Status) bool {
			return s.Leader != "" && s.Leader != id
		}))
	}
	require.NoError(t, f.AwaitServed(30*time.Second, 50), "all are served, it too")
}

// fill fills a slot's disk, for as long as it takes until the worker's node has stepped
// out.
func fill(t *testing.T, f *fleet.Fleet, slots ...int) {
	t.Helper()
	failed := func(slot int) bool { return strings.Contains(f.Slot(slot).Status().Health, "disk failed") }
	require.Eventually(t, func() bool {
		for _, slot := range slots {
			require.NoError(t, f.Fill(slot))
		}
		n := 0
		for _, slot := range slots {
			if failed(slot) {
				n++
			}
		}
		return n >= (len(slots)+1)/2 // without a majority nothing more is written
	}, 30*time.Second, 50*time.Millisecond)
}

// startSmall starts a fleet of three on disks of 8 MB.
func startSmall(t *testing.T) *fleet.Fleet {
	t.Helper()
	need(t, fleet.NeedsForMount())
	f := begin(t, 3)
	for slot := range 3 { // the small one must not show by its name
		remove, err := f.SmallDisk(slot, 8<<20)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, remove()) })
	}
	startAll(t, f)
	return f
}

// A node whose disk is full steps out of Raft, and rejoins within 10 s once the disk has
// room again.
func TestDiskFull(t *testing.T) {
	for _, who := range []string{"a follower's", "the leader's"} {
		t.Run(who, func(t *testing.T) {
			f := startSmall(t)
			leader, err := f.AwaitLeader(10 * time.Second)
			require.NoError(t, err)
			slot := leader.Job.Slot
			if who == "a follower's" {
				slot = (slot + 1) % 3
			}
			id := f.Slot(slot).Status().ID
			fill(t, f, slot)
			steppedOut(t, f, slot)
			require.NoError(t, f.Free(slot))
			freed := time.Now()
			require.NoError(t, f.AwaitComplete(10*time.Second))
			t.Logf("figures: %s: three voters again after %v", t.Name(), time.Since(freed).Round(10*time.Millisecond))
			assert.Equal(t, id, f.Slot(slot).Status().ID, "it is the same node")
			require.NoError(t, f.AwaitServed(10*time.Second, 50))
			finish(t, f, 3*time.Second, "step out")
		})
	}
}

// Disks of one size fill at the same time. Service resumes within 15 s once they have
// room again, without a restart, and nothing that was spent is forgotten.
func TestAllDisksFull(t *testing.T) {
	f := startSmall(t)
	fill(t, f, 0, 1, 2)
	time.Sleep(5 * time.Second) // no leader is elected meanwhile, or it could not write
	for slot := range 3 {
		require.NoError(t, f.Free(slot))
	}
	freed := time.Now()
	require.NoError(t, f.AwaitServed(15*time.Second, 20), "all are served")
	t.Logf("figures: %s: all are served after %v", t.Name(), time.Since(freed).Round(10*time.Millisecond))
	require.NoError(t, f.AwaitComplete(15*time.Second))
	finish(t, f, 3*time.Second)
}

func TestDiskError(t *testing.T) {
	need(t, fleet.NeedsForFaultInjection())
	f := begin(t, 3)
	for slot := range 3 {
		var wrap []string
		if slot == 1 {
			wrap = fleet.FailingSync(300) // of two that vote none may fail, so not before there are three
		}
		_, err := f.Start(slot, nil, wrap...)
		require.NoError(t, err)
	}
	require.NoError(t, f.AwaitComplete(30*time.Second))
	steppedOut(t, f, 1)
	f.FailedDisk[1] = true
	leader, err := f.AwaitLeader(10 * time.Second)
	require.NoError(t, err)
	require.NoError(t, f.Inject("leave", leader, func() error { return leader.Leave(20 * time.Second) }))
	require.NoError(t, f.AwaitServed(30*time.Second, 20), "who is left is served, the one without a disk too")
	finish(t, f, 3*time.Second, "step out", "leave")
}

// What a lone worker finds on its disk is what it knows. Where that is damaged
// it must refuse to start and say so, or not have needed what is damaged: it
// never begins anew.
func TestDiskCorrupt(t *testing.T) {
	for _, compacted := range []bool{false, true} {
		t.Run(map[bool]string{false: "log", true: "snapshot"}[compacted], func(t *testing.T) {
			f := begin(t, 1)
			f.Limits = choked.MustLimits("requests 1/s burst 100")
			startAll(t, f)
			require.NoError(t, f.Slot(0).Await(20*time.Second, "has spent the burst", func(s fleet.Status) bool { return s.Sent >= 100 }))
			require.NoError(t, f.Slot(0).Kill())
			if compacted {
				require.NoError(t, f.Compact(0))
			}
			whole := filepath.Join(f.Dir, "whole")
			require.NoError(t, os.CopyFS(whole, os.DirFS(f.StateDir(0))))
			before, err := f.Records()
			require.NoError(t, err)

			rnd := rand.New(rand.NewPCG(1, 2))
			refused, went, waits := 0, 0, 0
			for _, d := range damages(t, whole, files(t, whole, compacted), rnd) {
				require.NoError(t, os.RemoveAll(f.StateDir(0)))
				require.NoError(t, os.CopyFS(f.StateDir(0), os.DirFS(whole)))
				d.do(t, f.StateDir(0))
				p, err := f.Start(0, nil)
				require.NoError(t, err)
				err = p.Await(20*time.Second, "leads, or says why not", func(s fleet.Status) bool {
					return s.Leads && s.Sent > 0 || strings.Contains(s.Health, "no leader")
				})
				switch {
				case err != nil:
					require.ErrorContains(t, err, "has ended", d.what)
					assert.Regexp(t, `worker: cluster: .*worker-1`, p.LogTail(), d.what)
					refused++
				case p.Status().Leads:
					went++
				default: // Raft has no checksum on what a snapshot says of the members
					assert.Contains(t, d.what, "meta.json")
					waits++
				}
				require.NoError(t, p.Kill())
				after, err := history.Read(p.Job.Records)
				if err == nil {
					worst := history.Check(append(before[:len(before):len(before)], after...), f.Limits)
					assert.LessOrEqual(t, worst.Proved, 1e-6, "%s: units over the bound", d.what)
				}
			}
			require.NoError(t, f.CheckLogs())
			assert.NotZero(t, refused, "times that it refused to start")
			t.Logf("figures: %s: refused to start %d times, did not need what was damaged %d times, had no leader %d times", t.Name(), refused, went, waits)
		})
	}
}

type damage struct {
	what string
	do   func(t *testing.T, dir string)
}

// files returns the names of those in dir that hold something: of its latest snapshot, or all.
func files(t *testing.T, dir string, snapshot bool) (list []string) {
	t.Helper()
	err := fs.WalkDir(os.DirFS(dir), ".", func(file string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && file != "reserve" && strings.HasPrefix(file, "snapshots") == snapshot {
			list = append(list, file)
		}
		return err
	})
	require.NoError(t, err)
	if snapshot { // they are named by term and index, in decimal
		slices.SortFunc(list, func(a, b string) int {
			return cmp.Or(cmp.Compare(len(path.Dir(a)), len(path.Dir(b))), cmp.Compare(a, b))
		})
		list = list[len(list)-2:]
	}
	return list
}

// damages returns what can become of files in dir.
func damages(t *testing.T, dir string, files []string, rnd *rand.Rand) (list []damage) {
	t.Helper()
	change := func(file, what string, f func(b []byte) []byte) {
		list = append(list, damage{file + ": " + what, func(t *testing.T, dir string) {
			b, err := os.ReadFile(filepath.Join(dir, file))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(dir, file), f(b), 0o600))
		}})
	}
	for _, file := range files {
		b, err := os.ReadFile(filepath.Join(dir, file))
		require.NoError(t, err)
		cuts, flips := 2, 3
		if filepath.Ext(file) == ".db" {
			cuts, flips = 4, 8
		}
		for i := range cuts {
			at := len(b) * i / cuts
			change(file, fmt.Sprint("cut off at ", at), func(b []byte) []byte { return b[:at] })
		}
		for range flips {
			at := rnd.IntN(len(b))
			for b[at] == 0 { // most of the file is not in use
				at = rnd.IntN(len(b))
			}
			bit := byte(1) << rnd.IntN(8)
			change(file, fmt.Sprintf("bit %#x flipped at %d", bit, at), func(b []byte) []byte {
				b[at] ^= bit
				return b
			})
		}
	}
	return list
}
