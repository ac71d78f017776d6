package fsm

import (
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"testing/iotest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// history returns n entries as leaders write them: asks, settlements and adjustments
// on a few keys, up to 400 ms apart.
func history(seed uint64, n int) [][]byte {
	r := rand.New(rand.NewPCG(seed, 1))
	limits := []bucket.Limits{}
	for _, text := range []string{
		"requests 50/s; tokens 3000/m window pace 300",
		"requests 3/s burst 7,20/s window; tokens 1000/m",
		"requests 10/s,100/m; tokens 5000/m,9000/d reset Europe/Berlin",
	} {
		l, err := bucket.ParseLimits(text)
		if err != nil {
			panic(err)
		}
		limits = append(limits, l)
	}
	keys := []string{"a", "b\x00\n", "{c}"}
	var entries [][]byte
	var ids []bucket.LeaseID
	at := int64(0)
	for i := range n {
		at += r.Int64N(int64(400 * time.Millisecond))
		e := Entry{At: at}
		for range 1 + r.IntN(4) {
			k := r.IntN(len(keys))
			switch r.IntN(5) {
			case 0, 1, 2:
				id := bucket.LeaseID{Holder: uint64(r.IntN(3)), Seq: uint64(i)}
				ids = append(ids, id)
				need := bucket.Cost{Requests: r.Int64N(3), Tokens: r.Int64N(200)}
				e.Ops = append(e.Ops, &bucket.Ask{Key: keys[k], ID: id, Limits: limits[r.IntN(i/20+1)%3], Defined: int64(i / 20), Need: need, Want: need.Add(need)})
			case 3:
				if len(ids) > 0 {
					e.Ops = append(e.Ops, &bucket.Settlement{Key: keys[k], ID: ids[r.IntN(len(ids))], Spent: bucket.Cost{Requests: r.Int64N(3)}})
				}
			case 4:
				e.Ops = append(e.Ops, &bucket.Adjustment{Key: keys[k], Limits: limits[k], Return: bucket.Cost{Tokens: r.Int64N(50)}, Since: at / 2, Charge: bucket.Cost{Requests: r.Int64N(2)}})
			}
		}
		e.Stamps = bucket.StampsAt(midnight+at, &limits[0], &limits[1], &limits[2])
		entries = append(entries, e.Encode())
	}
	return entries
}

// midnight is the wall clock at the instant 0, four seconds before a day begins in Berlin.
var midnight = time.Date(2026, 11, 30, 22, 59, 56, 0, time.UTC).UnixNano()

func apply(m *Machine, entry []byte) any { return m.Apply(&raft.Log{Data: entry}) }

// sink keeps a snapshot in memory.
type sink struct{ bytes.Buffer }

func (*sink) ID() string    { return "test" }
func (*sink) Cancel() error { return nil }
func (*sink) Close() error  { return nil }

func snapshotOf(t *testing.T, m *Machine) []byte {
	t.Helper()
	s, err := m.Snapshot()
	require.NoError(t, err)
	var out sink
	require.NoError(t, s.Persist(&out))
	s.Release()
	return out.Bytes()
}

func restored(t *testing.T, snapshot []byte) *Machine {
	t.Helper()
	m := New()
	require.NoError(t, m.Restore(io.NopCloser(bytes.NewReader(snapshot))))
	return m
}

// A replica that was restored from a snapshot behaves like one that applied every
// entry, for a snapshot taken before any of the entries.
func TestSnapshotAtEveryIndex(t *testing.T) {
	for seed := range uint64(20) {
		entries := history(seed, 60)
		whole := New()
		var snapshots [][]byte
		var hashes []uint64
		var answers []any
		for _, e := range entries {
			snapshots = append(snapshots, snapshotOf(t, whole))
			hashes = append(hashes, whole.Hash())
			answers = append(answers, apply(whole, e))
		}
		for i, s := range snapshots {
			m := restored(t, s)
			require.Equal(t, hashes[i], m.Hash(), "seed %d: restored before entry %d", seed, i)
			for j := i; j < len(entries); j++ {
				require.Equal(t, answers[j], apply(m, entries[j]), "seed %d: restored before entry %d, answers to entry %d", seed, i, j)
			}
			require.Equal(t, whole.Hash(), m.Hash(), "seed %d: restored before entry %d, after the last", seed, i)
		}
	}
}

// Replicas that drop idle buckets at different times stay equal.
func TestSweepingChangesNothing(t *testing.T) {
	entries := history(7, 200)
	one, two := New(), New()
	for i, e := range entries {
		require.Equal(t, apply(one, e), apply(two, e))
		two.table.Sweep(1 << 20)
		require.Equal(t, one.Hash(), two.Hash(), "after entry %d", i)
	}
}

// An entry or a snapshot that cannot be decoded is an error and leaves the state
// unchanged.
func TestMalformedInputLeavesTheStateUnchanged(t *testing.T) {
	entries := history(3, 40)
	m := New()
	for _, e := range entries {
		apply(m, e)
	}
	before := m.Hash()
	snapshot := snapshotOf(t, m)

	for i, e := range entries {
		for cut := range e {
			_, isErr := apply(m, e[:cut]).(error)
			require.True(t, isErr, "entry %d cut off at byte %d", i, cut)
		}
	}
	for cut := range snapshot {
		require.Error(t, m.Restore(io.NopCloser(bytes.NewReader(snapshot[:cut]))), "snapshot cut off at byte %d", cut)
	}
	longer := append(slices.Clone(snapshot), 0)
	assert.ErrorContains(t, m.Restore(io.NopCloser(bytes.NewReader(longer))), "bytes follow the end")
	newer := append([]byte{version + 1}, snapshot[1:]...)
	assert.ErrorContains(t, m.Restore(io.NopCloser(bytes.NewReader(newer))), "version 3: this release reads 2")
	err, _ := apply(m, append([]byte{version + 1}, entries[0][1:]...)).(error)
	assert.ErrorContains(t, err, "version 3: this release reads 2")
	assert.Equal(t, before, m.Hash())
}

// The files in testdata were written by the commit before version 2.
func TestVersion1IsRefused(t *testing.T) {
	read := func(name string) []byte {
		b, err := os.ReadFile("testdata/" + name)
		require.NoError(t, err)
		return b
	}
	m := New()
	before := m.Hash()
	err, _ := apply(m, read("v1.entry")).(error)
	assert.ErrorContains(t, err, "version 1: this release reads 2")
	assert.ErrorContains(t, m.Restore(io.NopCloser(bytes.NewReader(read("v1.snapshot")))), "snapshot of version 1: this release reads 2")
	assert.Equal(t, before, m.Hash())
}

// Full buckets are dropped from memory and are in no snapshot.
func TestFullBucketsAreDropped(t *testing.T) {
	limits, err := bucket.ParseLimits("requests 10/s")
	require.NoError(t, err)
	m := New()
	empty := len(snapshotOf(t, m))
	for i := range 1000 {
		id := bucket.LeaseID{Seq: uint64(i)}
		key := string(rune('a' + i))
		one := bucket.Cost{Requests: 1}
		apply(m, (&Entry{At: int64(i), Ops: []ledger.Op{
			&bucket.Ask{Key: key, ID: id, Limits: limits, Need: one, Want: one},
			&bucket.Settlement{Key: key, ID: id, Spent: one},
		}}).Encode())
	}
	assert.Greater(t, len(snapshotOf(t, m)), 1000*10)
	later := &bucket.Adjustment{Key: "other", Limits: limits}
	for range 2000 {
		apply(m, (&Entry{At: int64(time.Second), Ops: []ledger.Op{later}}).Encode())
	}
	assert.Less(t, len(snapshotOf(t, m)), empty+10)
	m.View(func(t2 *ledger.Table) { assert.Less(t, t2.Len(), 50, "buckets kept") })
}

func FuzzDecode(f *testing.F) {
	for _, e := range history(1, 10) {
		f.Add(e)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(e.Encode())
		require.NoError(t, err)
		require.Equal(t, e, again)
		apply(New(), b)
	})
}

func FuzzRestore(f *testing.F) {
	m := New()
	for _, e := range history(2, 30) {
		apply(m, e)
	}
	var out sink
	if err := must(m.Snapshot()).Persist(&out); err != nil {
		f.Fatal(err)
	}
	f.Add(out.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		m := New()
		if m.Restore(io.NopCloser(bytes.NewReader(b))) != nil {
			return
		}
		for _, e := range history(4, 5) {
			apply(m, e)
		}
		require.Equal(t, m.Hash(), restored(t, snapshotOf(t, m)).Hash())
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// Restore reads a stream that arrives in pieces, and returns the error of a stream
// that breaks.
func TestRestoreReadsAStreamInPieces(t *testing.T) {
	m := crowded(10_000)
	b := snapshotOf(t, m)
	n := New()
	require.NoError(t, n.Restore(io.NopCloser(iotest.HalfReader(bytes.NewReader(b)))))
	assert.Equal(t, m.Hash(), n.Hash())
	for _, read := range []int{1, len(b) / 2, len(b) - 1, len(b)} {
		broken := io.MultiReader(bytes.NewReader(b[:read]), iotest.ErrReader(io.ErrUnexpectedEOF))
		assert.ErrorIs(t, n.Restore(io.NopCloser(broken)), io.ErrUnexpectedEOF, "after %d of %d bytes", read, len(b))
	}
	assert.Equal(t, m.Hash(), n.Hash(), "the state is unchanged")
}
