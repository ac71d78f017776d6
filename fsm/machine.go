// Package fsm is the replicated state machine: log entries in, buckets out.
// Its state is a function of the log. It reads no clock and draws no random
// number, so replicas that applied the same entries are equal.
package fsm

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"sync"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/internal/ledger"
)

// Machine implements [raft.FSM] over a [ledger.Table]. Reading it is safe at
// any time.
type Machine struct {
	mu    sync.RWMutex
	table *ledger.Table
}

// New returns a machine at the instant 0 in which every bucket is full.
func New() *Machine { return &Machine{table: ledger.NewTable()} }

// Reset makes the machine as [New] returns it.
func (m *Machine) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.table = ledger.NewTable()
}

// sweep is the number of buckets examined after each operation, to drop the idle
// ones. With two for each operation, idle buckets stay few.
const sweep = 2

// Apply applies one entry and returns a []ledger.Result, one for each operation. If
// the entry cannot be decoded, it returns the error and leaves the state unchanged.
func (m *Machine) Apply(l *raft.Log) any {
	e, err := Decode(l.Data)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	results := make([]ledger.Result, len(e.Ops))
	m.table.Stamp(e.Stamps)
	for i, op := range e.Ops {
		results[i] = m.table.Apply(e.At, op)
	}
	m.table.Sweep(sweep * len(e.Ops))
	return results
}

// View calls f with the table, for reading only and until f returns.
func (m *Machine) View(f func(*ledger.Table)) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	f(m.table)
}

// Hash digests the state. Machines that applied the same entries hash alike.
func (m *Machine) Hash() uint64 {
	m.mu.RLock()
	defer m.mu.RUnlock()
	h := fnv.New64a()
	h.Write(ledger.AppendTable(nil, m.table))
	return h.Sum64()
}

// Snapshot implements [raft.FSM]. It returns at once: the state is encoded while the
// snapshot is written, each bucket before it changes. Only one snapshot can be open.
func (m *Machine) Snapshot() (raft.FSMSnapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.table.Snapshot()
	if s == nil {
		return nil, errors.New("snapshot: another one is open")
	}
	return &snapshot{m, s}, nil
}

// snapshot is the machine as it was at one instant.
type snapshot struct {
	machine *Machine
	table   *ledger.Snapshot
}

// Persist implements [raft.FSMSnapshot].
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.write(sink); err != nil {
		return errors.Join(fmt.Errorf("write snapshot: %w", err), sink.Cancel())
	}
	return sink.Close()
}

func (s *snapshot) write(w io.Writer) error {
	if _, err := w.Write([]byte{version}); err != nil {
		return err
	}
	mu := &s.machine.mu
	mu.Lock()
	defer mu.Unlock()
	for chunk := range s.table.Chunks() {
		mu.Unlock() // entries are applied between any two chunks
		_, err := w.Write(chunk)
		mu.Lock()
		if err != nil {
			return err
		}
	}
	return nil
}

// Release implements [raft.FSMSnapshot].
func (s *snapshot) Release() {
	s.machine.mu.Lock()
	defer s.machine.mu.Unlock()
	s.table.Close()
}

// Restore implements [raft.FSM]. If the snapshot cannot be decoded, the state is
// unchanged.
func (m *Machine) Restore(r io.ReadCloser) error {
	defer r.Close()
	var v [1]byte
	if _, err := io.ReadFull(r, v[:]); err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	if v[0] != version {
		return fmt.Errorf("snapshot of version %d: this release reads %d", v[0], version)
	}
	table, err := ledger.ReadTable(r)
	if err != nil {
		return fmt.Errorf("read snapshot: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.table = table
	return nil
}
