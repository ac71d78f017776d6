//go:build linux

package fleet

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/fsm"
	"github.com/choked/choked/internal/ledger"
)

// entry returns entry n of a log: it grants lease n, of ten requests, at n tenths of
// a second. Of each four leases one is never settled; the others are settled one
// second later, with seven requests spent.
func entry(n uint64) raft.Log {
	limits, err := bucket.ParseLimits("requests 1000/s")
	if err != nil {
		panic(err)
	}
	ten := bucket.Cost{Requests: 10}
	ask := &bucket.Ask{Key: key, ID: bucket.LeaseID{Holder: n % 4, Seq: n}, Limits: limits, Need: ten, Want: ten}
	if n > 10 && (n-10)%4 != 0 {
		ask.Done = []bucket.Settlement{{Key: key, ID: bucket.LeaseID{Holder: (n - 10) % 4, Seq: n - 10}, Spent: bucket.Cost{Requests: 7}}}
	}
	return command(n, &fsm.Entry{At: int64(n) * int64(100*time.Millisecond), Ops: []ledger.Op{ask}})
}

func command(index uint64, e *fsm.Entry) raft.Log {
	return raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: e.Encode()}
}

func entries(from, to uint64) (list []raft.Log) {
	for n := from; n <= to; n++ {
		list = append(list, entry(n))
	}
	return list
}

// disk is the content of a slot's disk: a log, and snapshots after some entries.
type disk struct {
	log       []raft.Log
	snapshots []uint64
	wrong     bool // the snapshots lack an entry
}

func (d disk) write(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.MkdirAll(dir, 0o700))
	store, err := raftboltdb.NewBoltStore(filepath.Join(dir, "raft.db"))
	require.NoError(t, err)
	logs := make([]*raft.Log, len(d.log))
	for i := range d.log {
		logs[i] = &d.log[i]
	}
	require.NoError(t, store.StoreLogs(logs))
	require.NoError(t, store.Close())
	for _, index := range d.snapshots {
		m := fsm.New()
		for n := uint64(1); n <= index; n++ {
			if e := entry(n); !d.wrong || n != index-1 {
				m.Apply(&e)
			}
		}
		last := entry(index)
		require.NoError(t, snapshot(dir, m, &last, raft.Configuration{}, 1))
	}
}

func TestAuditReplaysTheLog(t *testing.T) {
	requests := func(n int64) bucket.Cost { return bucket.Cost{Requests: n} }
	changed := entries(1, 100)
	changed[49] = entry(51)
	changed[49].Index = 50
	uncommitted := append(entries(1, 100), command(101, &fsm.Entry{At: 1}), command(102, &fsm.Entry{At: 1}))
	elected := append(entries(1, 100), raft.Log{Index: 101, Term: 2, Type: raft.LogNoop})
	regranted := append(entries(1, 100), command(101, &fsm.Entry{At: 1, Ops: []ledger.Op{
		&bucket.Ask{Key: key, ID: bucket.LeaseID{Holder: 1, Seq: 89}, Limits: Slow, Need: requests(1), Want: requests(1)},
	}}))
	for _, tt := range []struct {
		name  string
		disks [][]disk // per round of reading, the disk of each slot
		want  Ledger   // zero costs are not compared
		err   string
	}{
		{
			name: "a complete log", disks: [][]disk{{{log: entries(1, 100)}, {log: entries(1, 90)}}},
			// Three of four of the first 90 leases are settled. The others expire after
			// two seconds.
			want: Ledger{From: 1, To: 100, Leases: 100, Granted: requests(1000),
				Spent: requests(68 * 7), Returned: requests(68 * 3), Expired: requests(20 * 10), Live: requests(12 * 10)},
		},
		{
			name: "a log that begins with a snapshot", disks: [][]disk{{{log: entries(41, 100), snapshots: []uint64{60}}}},
			want: Ledger{From: 61, To: 100, Snapshots: 0, Leases: 40, Granted: requests(400),
				Spent: requests(23 * 7), Returned: requests(23 * 3), Expired: requests(5 * 10), Live: requests(12 * 10)},
		},
		{
			name: "the first of two snapshots leads to the second", disks: [][]disk{{{log: entries(41, 100), snapshots: []uint64{50, 80}}}},
			want: Ledger{From: 51, To: 100, Snapshots: 1, Leases: 50, Granted: requests(500)},
		},
		{
			name:  "the beginning was read before it was cut off",
			disks: [][]disk{{{log: entries(1, 50)}, {log: entries(1, 40)}}, {{log: entries(41, 100), snapshots: []uint64{60}}, {log: entries(30, 100), snapshots: []uint64{70}}}},
			want:  Ledger{From: 1, To: 100, Snapshots: 2, Leases: 100, Granted: requests(1000)},
		},
		{
			name:  "the beginning was cut off too early",
			disks: [][]disk{{{log: entries(1, 30)}}, {{log: entries(41, 100), snapshots: []uint64{60}}}},
			want:  Ledger{From: 61, To: 100, Leases: 40, Granted: requests(400)},
		},
		{
			name:  "a voter that was sent a snapshot is read before one that has the entries in between",
			disks: [][]disk{{{log: entries(1, 30)}}, {{log: entries(41, 100), snapshots: []uint64{60}}, {log: entries(25, 60)}}},
			want:  Ledger{From: 1, To: 100, Snapshots: 1, Leases: 100, Granted: requests(1000)},
		},
		{
			name:  "a voter was sent a snapshot of all that the others have",
			disks: [][]disk{{{log: entries(1, 60)}, {log: entries(61, 100), snapshots: []uint64{60}}}},
			want:  Ledger{From: 1, To: 100, Snapshots: 1, Leases: 100, Granted: requests(1000)},
		},
		{
			name:  "a voter that was sent a snapshot kept its old entries",
			disks: [][]disk{{{log: append(entries(1, 20), entries(61, 100)...), snapshots: []uint64{60}}}},
			want:  Ledger{From: 61, To: 100, Leases: 40, Granted: requests(400)},
		},
		{
			name: "uncommitted entries do not count", disks: [][]disk{{{log: uncommitted}, {log: elected}}},
			want: Ledger{From: 1, To: 101, Leases: 100, Granted: requests(1000)},
		},
		{name: "an empty disk", disks: [][]disk{{{}}}},
		{
			name: "logs that differ", disks: [][]disk{{{log: entries(1, 100)}, {log: changed}}},
			err: "merge log of worker-2: entry 50 differs",
		},
		{
			name: "a snapshot that differs from the log", disks: [][]disk{{{log: entries(1, 100)}, {log: entries(90, 100), snapshots: []uint64{92}, wrong: true}}},
			err: "entry 92: snapshot of worker-2 differs from the replayed log",
		},
		{
			name: "a lease is granted again after its settlement", disks: [][]disk{{{log: regranted}}},
			err: "entry 101: lease 1-89 was granted again after its settlement",
		},
		{
			name: "no snapshot of the state before the log", disks: [][]disk{{{log: entries(41, 100), snapshots: []uint64{30}}}},
			err: "log begins with entry 41: no snapshot of the state before it",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &Fleet{Dir: t.TempDir(), slots: make([]*Process, 2)}
			for _, now := range tt.disks {
				for slot, d := range now {
					d.write(t, f.StateDir(slot))
					require.True(t, f.ReadDisk(slot) == nil || tt.err != "")
				}
			}
			got, err := f.Audit()
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, [...]uint64{tt.want.From, tt.want.To}, [...]uint64{got.From, got.To}, "entries replayed")
			assert.Equal(t, tt.want.Snapshots, got.Snapshots, "snapshots compared")
			assert.Equal(t, tt.want.Leases, got.Leases)
			assert.Equal(t, tt.want.Granted, got.Granted, "granted")
			if !tt.want.Spent.IsZero() {
				assert.Equal(t, tt.want.Spent, got.Spent, "spent")
				assert.Equal(t, tt.want.Returned, got.Returned, "returned")
				assert.Equal(t, tt.want.Expired, got.Expired, "expired")
				assert.Equal(t, tt.want.Live, got.Live, "live")
			}
			lost := bucket.Cost{}
			for _, c := range got.Lost {
				lost = lost.Add(c)
			}
			assert.Equal(t, got.Expired, lost, "the lost quota of all holders is the expired quota")
		})
	}
}
