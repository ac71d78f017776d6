package ledger

import (
	"bytes"
	"math"
	"testing"

	"pgregory.net/rapid"

	"github.com/choked/choked/bucket"
)

// A snapshot is the table at the instant at which it was taken, whatever changes the
// table before it is written and between its chunks.
func TestSnapshotIsOfOneInstant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab := NewTable()
		log := anyLog(t)
		apply := func(n int) {
			for _, e := range log[:min(n, len(log))] {
				e.apply(tab)
				tab.Sweep(rapid.SampledFrom([]int{0, 1, math.MaxInt}).Draw(t, "sweep"))
			}
			log = log[min(n, len(log)):]
		}
		some := rapid.IntRange(0, 5)
		for len(log) > 0 {
			apply(1 + some.Draw(t, "before it is taken"))
			want := AppendTable(nil, tab)
			s := tab.Snapshot()
			if tab.Snapshot() != nil {
				t.Fatal("two snapshots are open at a time")
			}
			s.chunk = rapid.IntRange(1, 100).Draw(t, "chunk")
			apply(some.Draw(t, "before it is written"))
			var b []byte
			stop := rapid.IntRange(0, 20).Draw(t, "pieces, at most")
			for piece := range s.Chunks() {
				if b = append(b, piece...); stop == 0 {
					break
				}
				stop--
				apply(some.Draw(t, "meanwhile"))
			}
			s.Close()
			if stop == 0 {
				continue // abandoned
			}
			got, err := readTable(&input{r: bytes.NewReader(b), piece: rapid.IntRange(1, 100).Draw(t, "read at a time")})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(AppendTable(nil, got), want) {
				t.Fatalf("%+v, want %x", got.List(), want)
			}
		}
	})
}

// A table encodes no buckets for a snapshot that is closed.
func TestClosedSnapshotCostsNoWork(t *testing.T) {
	tab := NewTable()
	limits := bucket.Limits{Requests: bucket.Rates{{N: 10, Per: s, Burst: 10}}}
	charge := &bucket.Adjustment{Key: "k", Limits: limits, Charge: bucket.Cost{Requests: 1, Tokens: 0}}
	tab.Apply(1, charge)
	snap := tab.Snapshot()
	snap.Close()
	tab.Apply(2, charge)
	if len(snap.saved) > 0 || tab.snapshot != nil {
		t.Errorf("%d bytes were saved", len(snap.saved))
	}
	again := tab.Snapshot()
	snap.Close()
	if tab.snapshot != again {
		t.Error("closing a snapshot twice closed another one")
	}
}
