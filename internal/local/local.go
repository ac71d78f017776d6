// Package local is a store in the memory of one process.
package local

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/ledger"
	"github.com/choked/choked/internal/waitqueue"
)

// Store is a choked.Store in this process's memory. It owns no goroutines. Safe
// for concurrent use.
type Store struct {
	clock *boottime.Clock

	mu     sync.Mutex
	table  *ledger.Table
	queue  *waitqueue.Queue
	timer  *time.Timer // fires at the queue's next decision
	closed bool
}

// New returns a store in which all buckets are full.
func New() *Store { return NewAt(boottime.New()) }

// NewAt is [New] with a clock of the caller's, for tests of clocks that drift.
func NewAt(clock *boottime.Clock) *Store {
	s := &Store{clock: clock, table: ledger.NewTable()}
	s.queue = waitqueue.New(s.table.Find)
	s.timer = time.AfterFunc(math.MaxInt64, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.decideLocked()
	})
	return s
}

// Lease implements choked.Store.
func (s *Store) Lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error) {
	answers := make(chan waitqueue.Answer, 1)
	e, err := s.add(&ask, func(a waitqueue.Answer) { answers <- a })
	if err != nil {
		return bucket.Lease{}, err
	}
	select {
	case a := <-answers:
		return granted(&ask, a)
	default:
	}
	select {
	case a := <-answers:
		return granted(&ask, a)
	case <-ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue.Cancel(e)
	select {
	case a := <-answers:
		if a.Grant.OK {
			s.queue.Add(s.clock.Now(), &bucket.Settlement{Key: ask.Key, ID: ask.ID}, func(waitqueue.Answer) {})
		}
	default:
	}
	s.decideLocked()
	return bucket.Lease{}, context.Cause(ctx)
}

// granted returns the lease of an answer. The holder's clock is the store's, so the
// time in the queue does not shorten its validity.
func granted(ask *bucket.Ask, a waitqueue.Answer) (bucket.Lease, error) {
	lease := a.Grant.Lease(ask.ID, 0)
	lease.ValidFor += a.Waited
	return lease, a.Err
}

// Settle implements choked.Store.
func (s *Store) Settle(_ context.Context, done []bucket.Settlement) error {
	for i := range done {
		if err := s.do(&done[i]); err != nil {
			return err
		}
	}
	return nil
}

// Adjust implements choked.Store.
func (s *Store) Adjust(_ context.Context, a bucket.Adjustment) error { return s.do(&a) }

// do decides op, which is never an ask, and returns its error.
func (s *Store) do(op ledger.Op) (err error) {
	_, e := s.add(op, func(a waitqueue.Answer) { err = a.Err })
	if e != nil {
		return e
	}
	return err
}

func (s *Store) add(op ledger.Op, reply func(waitqueue.Answer)) (*waitqueue.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, bucket.ErrClosed
	}
	e := s.queue.Add(s.clock.Now(), op, reply)
	s.decideLocked()
	return e, nil
}

// decideLocked decides every operation that is due, and sets the timer for the
// next.
func (s *Store) decideLocked() {
	now := s.clock.Now()
	for {
		batch := s.queue.Take(now, math.MaxInt)
		if len(batch) == 0 {
			break
		}
		for _, e := range batch {
			s.table.Stamp(s.table.StampsFor(time.Now().UnixNano(), e.Op))
			s.queue.Resolve(now, e, s.table.Apply(now, e.Op))
		}
		s.table.Sweep(2 * len(batch))
	}
	if next := s.queue.Next(); next < math.MaxInt64 {
		s.timer.Reset(time.Duration(next - now))
	} else {
		s.timer.Stop()
	}
}

// Buckets describes the buckets that are not idle, sorted by key.
func (s *Store) Buckets() []bucket.Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.clock.Now()
	var list []bucket.Info
	for _, key := range slices.Sorted(slices.Values(s.table.Keys())) {
		if b := s.table.Get(key); !b.Idle(now) {
			list = append(list, b.Info(key, now))
		}
	}
	return list
}

// Close implements choked.Store. Queued asks end with [bucket.ErrClosed].
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.timer.Stop()
	s.queue.Fail(s.clock.Now(), nil, bucket.ErrClosed)
	return nil
}
