package storetest_test

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// memory is the simplest store that passes: a table, a lock, and a line for
// each key that is looked at whenever something happens. defect breaks it on
// purpose.
type memory struct {
	defect defect
	start  time.Time

	mu     sync.Mutex
	table  *ledger.Table
	lines  map[string][]*waiter
	timer  *time.Timer
	closed bool
	faults faults // what a defect has to remember
}

type waiter struct {
	ask      bucket.Ask
	arrived  int64
	deadline int64
	answer   chan answer // has room for the answer
}

type answer struct {
	lease bucket.Lease
	err   error
}

func newMemory(d defect) *memory {
	m := &memory{defect: d, start: time.Now(), table: ledger.NewTable(), lines: make(map[string][]*waiter)}
	m.timer = time.AfterFunc(time.Hour, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.turnLocked()
	})
	m.timer.Stop()
	return m
}

func (m *memory) now() int64 { return int64(time.Since(m.start)) }

func (m *memory) Lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error) {
	if err := ctx.Err(); err != nil && m.defect != careless {
		return bucket.Lease{}, err
	}
	w := &waiter{ask: ask, answer: make(chan answer, 1)}
	if err := m.stand(w); err != nil {
		return bucket.Lease{}, err
	}
	if m.defect == careless && ctx.Err() != nil {
		return bucket.Lease{}, ctx.Err()
	}
	select {
	case a := <-w.answer:
		return a.lease, a.err
	case <-ctx.Done():
	}
	m.leave(w)
	return bucket.Lease{}, ctx.Err()
}

// stand puts w in line.
func (m *memory) stand(w *waiter) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.admitLocked(&w.ask); err != nil {
		return err
	}
	if m.defect != doneLate {
		for i := range w.ask.Done {
			m.applyLocked(&w.ask.Done[i])
		}
		w.ask.Done = nil
	}
	w.arrived = m.now()
	w.deadline = w.arrived + int64(w.ask.MaxWait)
	m.lines[w.ask.Key] = append(m.lines[w.ask.Key], w)
	m.turnLocked()
	return nil
}

// leave takes w out of line, and gives back what it was granted meanwhile.
func (m *memory) leave(w *waiter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.defect == ghosts {
		return
	}
	line := m.lines[w.ask.Key]
	if i := slices.Index(line, w); i >= 0 {
		m.lines[w.ask.Key] = slices.Delete(line, i, i+1)
	}
	select {
	case a := <-w.answer:
		if a.lease.OK {
			m.table.Apply(m.now(), &bucket.Settlement{Key: w.ask.Key, ID: w.ask.ID})
		}
	default:
	}
	m.turnLocked()
}

func (m *memory) Settle(ctx context.Context, done []bucket.Settlement) error {
	if m.defect == stubborn {
		m.standBehind(ctx)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range done {
		if err := m.admitLocked(&done[i]); err != nil {
			return err
		}
	}
	for i := range done {
		m.applyLocked(&done[i])
	}
	m.turnLocked()
	return nil
}

func (m *memory) Adjust(_ context.Context, a bucket.Adjustment) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.admitLocked(&a); err != nil {
		return err
	}
	m.applyLocked(&a)
	m.turnLocked()
	return nil
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.timer.Stop()
	if m.defect == abandoning {
		return nil
	}
	for _, line := range m.lines {
		for _, w := range line {
			w.answer <- answer{err: bucket.ErrClosed}
		}
	}
	clear(m.lines)
	return nil
}

func (m *memory) admitLocked(op ledger.Op) error {
	if m.closed && m.defect != undead {
		return bucket.ErrClosed
	}
	if m.defect == lenient {
		return nil
	}
	return op.Check()
}

// turnLocked serves all whose turn it is, and sets the timer for the next look.
func (m *memory) turnLocked() {
	m.repayLocked() // a defect
	next := time.Hour
	for key, line := range m.lines {
		for m.serveLocked(line, &next) {
			line = m.lines[key]
		}
	}
	m.timer.Reset(next)
}

// serveLocked answers the first in line, or refuses one whose wait is over or
// hopeless. It reports whether there was someone.
func (m *memory) serveLocked(line []*waiter, next *time.Duration) bool {
	now := m.now()
	for i, w := range line {
		left := time.Duration(w.deadline - now)
		if i == 0 || w.ask.Need.IsZero() || m.defect == overtaking {
			r := m.applyLocked(&w.ask)
			if r.Err == nil && !r.Grant.OK && !w.ask.Need.IsZero() && left > 0 && m.reachable(w, now, left) && m.defect != impatient {
				*next = min(*next, r.Grant.RetryAfter, left)
				continue
			}
			lease := r.Grant.Lease(w.ask.ID, 0)
			lease.ValidFor += time.Duration(now - w.arrived)
			m.answerLocked(line, i, m.spoil(lease), r.Err)
			return true
		}
		if left <= 0 || !m.reachable(w, now, left) {
			m.answerLocked(line, i, bucket.Lease{ID: w.ask.ID, RetryAfter: max(left, 1)}, nil)
			return true
		}
		*next = min(*next, left)
	}
	return false
}

// reachable reports whether the refill could serve w in time.
func (m *memory) reachable(w *waiter, now int64, left time.Duration) bool {
	if m.defect == hoping {
		return true
	}
	b := m.table.Get(w.ask.Key)
	return b == nil || b.Refill(now, w.ask.Need, true) <= left
}

func (m *memory) answerLocked(line []*waiter, i int, l bucket.Lease, err error) {
	w := line[i]
	m.lines[w.ask.Key] = slices.Delete(line, i, i+1)
	w.answer <- answer{l, err}
}
