package fsm

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// crowded returns a machine with n keys that are not full.
func crowded(n int) *Machine {
	limits, err := bucket.ParseLimits("requests 100/d; tokens 100000/d")
	if err != nil {
		panic(err)
	}
	m := New()
	for i := range n {
		m.table.Apply(1, &bucket.Adjustment{Key: fmt.Sprint("tenant/key-", i), Limits: limits, Charge: bucket.Cost{Requests: 10, Tokens: 1000}})
	}
	return m
}

// nowhere is a sink that discards the snapshot.
type nowhere struct{}

func (nowhere) Write(b []byte) (int, error) { return len(b), nil }
func (nowhere) ID() string                  { return "" }
func (nowhere) Cancel() error               { return nil }
func (nowhere) Close() error                { return nil }

// A snapshot of a million keys is written while entries change keys. ms-worst is the
// longest time that Apply takes.
func BenchmarkApplyWhileASnapshotIsWritten(b *testing.B) {
	m := crowded(1_000_000)
	entry := func(i int) []byte {
		limits, _ := bucket.ParseLimits("requests 100/d; tokens 100000/d")
		return (&Entry{At: 2, Ops: []ledger.Op{&bucket.Adjustment{Key: fmt.Sprint("tenant/key-", i), Limits: limits, Charge: bucket.Cost{Requests: 1}}}}).Encode()
	}
	var worst, took time.Duration
	for b.Loop() {
		begun := time.Now()
		s, err := m.Snapshot()
		if err != nil {
			b.Fatal(err)
		}
		worst = max(worst, time.Since(begun))
		done := make(chan error)
		go func() { done <- s.Persist(nowhere{}) }()
		for i, over := 0, false; !over; i++ {
			e := entry(i * 7919 % 1_000_000)
			begun := time.Now()
			m.Apply(&raft.Log{Data: e})
			worst = max(worst, time.Since(begun))
			select {
			case err := <-done:
				if err != nil {
					b.Fatal(err)
				}
				over = true
			default:
			}
		}
		took = time.Since(begun)
		s.Release()
	}
	b.ReportMetric(float64(worst)/1e6, "ms-worst")
	b.ReportMetric(float64(took)/1e6, "ms-written")
}

func BenchmarkRestore(b *testing.B) {
	var out sink
	if err := must(crowded(1_000_000).Snapshot()).Persist(&out); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := New().Restore(io.NopCloser(bytes.NewReader(out.Bytes()))); err != nil {
			b.Fatal(err)
		}
	}
}
