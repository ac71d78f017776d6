package choked

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/ledger"
	"github.com/choked/choked/internal/waitqueue"
)

// Local is a Store in this process's memory: limits hold for the process, as
// with a limiter that shares nothing. It owns no goroutines.
type Local struct {
	clock *boottime.Clock

	mu     sync.Mutex
	table  *ledger.Table
	line   *waitqueue.Queue
	timer  *time.Timer // for the next turn in line
	closed bool
}

// NewLocal returns a Local in which all buckets are full.
func NewLocal() *Local {
	s := &Local{clock: boottime.New(), table: ledger.NewTable()}
	s.line = waitqueue.New(s.table.Find)
	s.timer = time.AfterFunc(math.MaxInt64, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.turnLocked()
	})
	return s
}

// Lease implements [Store].
func (s *Local) Lease(ctx context.Context, ask Ask) (Lease, error) {
	answers := make(chan waitqueue.Answer, 1)
	e, err := s.add(&ask, func(a waitqueue.Answer) { answers <- a })
	if err != nil {
		return Lease{}, err
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
	s.line.Cancel(e)
	select {
	case a := <-answers:
		if a.Grant.OK {
			s.line.Add(s.clock.Now(), &Settlement{Key: ask.Key, ID: ask.ID}, func(waitqueue.Answer) {})
		}
	default:
	}
	s.turnLocked()
	return Lease{}, context.Cause(ctx)
}

// granted is what an answer grants. The asker's clock is that of the store.
func granted(ask *Ask, a waitqueue.Answer) (Lease, error) {
	lease := a.Grant.Lease(ask.ID, 0)
	lease.ValidFor += a.Waited
	return lease, a.Err
}

// Settle implements [Store].
func (s *Local) Settle(_ context.Context, done []Settlement) error {
	for i := range done {
		if err := s.do(&done[i]); err != nil {
			return err
		}
	}
	return nil
}

// Adjust implements [Store].
func (s *Local) Adjust(_ context.Context, a Adjustment) error { return s.do(&a) }

// do has op decided, which for anything but an ask is at once.
func (s *Local) do(op ledger.Op) (err error) {
	_, e := s.add(op, func(a waitqueue.Answer) { err = a.Err })
	if e != nil {
		return e
	}
	return err
}

func (s *Local) add(op ledger.Op, reply func(waitqueue.Answer)) (*waitqueue.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	e := s.line.Add(s.clock.Now(), op, reply)
	s.turnLocked()
	return e, nil
}

// turnLocked decides all whose turn it is, and sets the timer for the next.
func (s *Local) turnLocked() {
	now := s.clock.Now()
	for {
		batch := s.line.Take(now, math.MaxInt)
		if len(batch) == 0 {
			break
		}
		for _, e := range batch {
			s.line.Resolve(now, e, s.table.Apply(now, e.Op))
		}
		s.table.Sweep(2 * len(batch))
	}
	if next := s.line.Next(); next < math.MaxInt64 {
		s.timer.Reset(time.Duration(next - now))
	} else {
		s.timer.Stop()
	}
}

// Close implements [Store]: asks in line end with [ErrClosed].
func (s *Local) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.timer.Stop()
	s.line.Fail(s.clock.Now(), nil, ErrClosed)
	return nil
}
