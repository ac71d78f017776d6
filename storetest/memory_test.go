package storetest_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// memory is the simplest store that passes: a table, a mutex, and a queue for each key
// that every operation serves. defect breaks it on purpose.
type memory struct {
	defect defect
	start  time.Time

	mu     sync.Mutex
	table  *ledger.Table
	queues map[string][]*waiter
	timer  *time.Timer
	down   bool // the store cannot decide
	closed bool
	faults faults // the state of a defect
}

type waiter struct {
	ask      bucket.Ask
	arrived  int64
	deadline int64
	answer   chan answer // buffered
}

type answer struct {
	lease bucket.Lease
	err   error
}

func newMemory(d defect) *memory {
	m := &memory{defect: d, start: time.Now(), table: ledger.NewTable(), queues: make(map[string][]*waiter)}
	m.timer = time.AfterFunc(time.Hour, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.serveAllLocked()
	})
	m.timer.Stop()
	return m
}

func (m *memory) now() int64 { return int64(time.Since(m.start)) }

func (m *memory) Lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error) {
	if err := ctx.Err(); err != nil && m.defect != careless {
		return bucket.Lease{}, err
	}
	if m.down && m.defect == deaf {
		time.Sleep(time.Second)
	}
	w := &waiter{ask: ask, answer: make(chan answer, 1)}
	if err := m.enqueue(w); err != nil {
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

// enqueue appends w to the queue of its key.
func (m *memory) enqueue(w *waiter) error {
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
	m.queues[w.ask.Key] = append(m.queues[w.ask.Key], w)
	m.serveAllLocked()
	return nil
}

// leave removes w from its queue, or returns the lease that it was granted meanwhile.
func (m *memory) leave(w *waiter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.defect == ghosts {
		return
	}
	queue := m.queues[w.ask.Key]
	if i := slices.Index(queue, w); i >= 0 {
		m.queues[w.ask.Key] = slices.Delete(queue, i, i+1)
	}
	select {
	case a := <-w.answer:
		if a.lease.OK {
			m.table.Apply(m.now(), &bucket.Settlement{Key: w.ask.Key, ID: w.ask.ID})
		}
	default:
	}
	m.serveAllLocked()
}

func (m *memory) Settle(ctx context.Context, done []bucket.Settlement) error {
	if m.defect == stubborn {
		m.awaitEmptyQueues(ctx)
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
	m.serveAllLocked()
	return nil
}

func (m *memory) Adjust(_ context.Context, a bucket.Adjustment) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.admitLocked(&a); err != nil {
		return err
	}
	m.applyLocked(&a)
	m.serveAllLocked()
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
	for _, queue := range m.queues {
		for _, w := range queue {
			w.answer <- answer{err: bucket.ErrClosed}
		}
	}
	clear(m.queues)
	return nil
}

func (m *memory) admitLocked(op ledger.Op) error {
	if m.closed && m.defect != undead {
		return bucket.ErrClosed
	}
	if m.down {
		return m.unavailable(op)
	}
	if m.defect == lenient {
		return nil
	}
	return op.Check()
}

// errDown is why the store cannot decide.
var errDown = errors.New("the power is off")

func (m *memory) unavailable(op ledger.Op) error {
	switch m.defect {
	case anonymous:
		return errDown
	case causeless:
		return bucket.ErrUnavailable
	case mistaken:
		return fmt.Errorf("%w: %w: %w", bucket.ErrUnavailable, errDown, context.DeadlineExceeded)
	}
	err := fmt.Errorf("%w: %w", bucket.ErrUnavailable, errDown)
	if a, ok := op.(*bucket.Adjustment); ok && m.defect == repetitive {
		return fmt.Errorf("adjust %q: %w", a.Key, err)
	}
	return err
}

// serveAllLocked serves all waiters that can be served, and sets the timer for the
// next one.
func (m *memory) serveAllLocked() {
	m.refundExpiredLocked() // for a defect
	next := time.Hour
	for key, queue := range m.queues {
		for m.serveLocked(queue, &next) {
			queue = m.queues[key]
		}
	}
	m.timer.Reset(next)
}

// serveLocked answers the first waiter of a queue, or refuses one whose wait has ended
// or is hopeless. It reports whether it answered one.
func (m *memory) serveLocked(queue []*waiter, next *time.Duration) bool {
	now := m.now()
	for i, w := range queue {
		left := time.Duration(w.deadline - now)
		if i == 0 || w.ask.Need.IsZero() || m.defect == overtaking {
			r := m.applyLocked(&w.ask)
			if r.Err == nil && !r.Grant.OK && !w.ask.Need.IsZero() && left > 0 && m.reachable(w, now, left) && m.defect != impatient {
				*next = min(*next, r.Grant.RetryAfter, left)
				continue
			}
			lease := r.Grant.Lease(w.ask.ID, 0)
			lease.ValidFor += time.Duration(now - w.arrived)
			m.answerLocked(queue, i, m.spoil(lease), r.Err)
			return true
		}
		if left <= 0 || !m.reachable(w, now, left) {
			m.answerLocked(queue, i, bucket.Lease{ID: w.ask.ID, RetryAfter: max(left, 1)}, nil)
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

func (m *memory) answerLocked(queue []*waiter, i int, l bucket.Lease, err error) {
	w := queue[i]
	m.queues[w.ask.Key] = slices.Delete(queue, i, i+1)
	w.answer <- answer{l, err}
}
