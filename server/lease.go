package server

import (
	"context"
	"fmt"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
)

// resumeWithin is how long a parked ask keeps its place in the queue. A client
// that still wants the lease resumes the ask at once.
const resumeWithin = 3 * time.Second

// lease has the store decide an ask, and answers after httpapi.Poll that it is
// pending. The end of the request withdraws the ask and returns its lease to
// the bucket, so a client that has lost an answer has to ask again with another id.
func (s *Server) lease(c *call) (any, *httpapi.Error) {
	var r httpapi.LeaseRequest
	if e := c.read(&r); e != nil {
		return nil, e
	}
	ask, err := r.Ask()
	if err != nil {
		return nil, askError(err)
	}
	ask.Key = c.tenant.key(ask.Key)
	c.tenant.claim(ask.Done)
	s.withdrawSettled(ask.Done)
	p, e := s.attach(ask, r.Resume)
	if e != nil {
		return nil, e
	}
	poll := time.NewTimer(httpapi.Poll)
	defer poll.Stop()
	select {
	case <-p.over:
	case <-poll.C:
		if s.step(p, onPoll)&startTimer != 0 {
			return httpapi.Lease{ID: httpapi.ID(ask.ID), Pending: true}, nil
		} // otherwise it was decided or withdrawn just now
	case <-c.Context().Done():
		s.step(p, onWithdraw)
		return nil, closing // no client reads it
	case <-s.open.Done():
		s.step(p, onWithdraw)
		return nil, &httpapi.Error{Code: httpapi.Lost, Message: "this node is shutting down and has withdrawn the ask: retry with a new id at another node"}
	}
	lease, err, ok := s.take(p)
	switch {
	case !ok:
		return nil, unknownAsk
	case err != nil:
		return nil, s.storeError(c, err)
	case lease.OK && lease.ValidFor <= 0: // granted long before it was resumed
		s.settleLater(p.settlement)
		return nil, unknownAsk
	}
	if !r.Resume {
		setRateLimit(c.w.Header(), ask.Limits, ask.Need, lease)
	}
	if !lease.OK {
		setRetryAfter(c.w.Header(), lease.RetryAfter)
	}
	return httpapi.LeaseOf(lease), nil
}

var unknownAsk = &httpapi.Error{Code: httpapi.Lost, Message: "unknown or expired ask on this node: retry with a new id"}

func askError(err error) *httpapi.Error {
	if e := httpapi.ErrorOf(err); e.Code == httpapi.ExceedsBurst {
		return e
	}
	return badRequest(err)
}

// attach returns the pending ask that a request waits for: a new one, or one to
// resume.
func (s *Server) attach(ask bucket.Ask, resume bool) (*pending, *httpapi.Error) {
	if resume {
		return s.resume(askID{ask.Key, ask.ID})
	}
	return s.ask(ask)
}

// ask sends an ask to the store.
func (s *Server) ask(ask bucket.Ask) (*pending, *httpapi.Error) {
	now := s.clock.Now()
	p := &pending{
		id: askID{ask.Key, ask.ID}, sent: now, arrived: now, over: make(chan struct{}),
		settlement: bucket.Settlement{Key: ask.Key, ID: ask.ID},
	}
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(s.ctx)
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	if s.asks.pending[p.id] != nil {
		p.cancel()
		return nil, &httpapi.Error{Code: httpapi.InProgress, Message: fmt.Sprintf("lease %v: another request waits for it", ask.ID)}
	}
	s.asks.pending[p.id] = p
	s.work.Go(func() {
		defer p.cancel()
		lease, err := s.cfg.Store.Lease(ctx, ask)
		s.asks.mu.Lock()
		defer s.asks.mu.Unlock()
		p.lease, p.err = lease, err
		s.stepLocked(p, onDecide)
	})
	return p, nil
}

// resume attaches another request to a parked ask.
func (s *Server) resume(id askID) (*pending, *httpapi.Error) {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	p := s.asks.pending[id]
	if p == nil || p.unpark != nil && !p.unpark.Stop() { // the timer has fired, and is about to withdraw it
		return nil, unknownAsk
	}
	if s.stepLocked(p, onResume)&refuse != 0 {
		return nil, unknownAsk
	}
	p.arrived = s.clock.Now()
	return p, nil
}

// take returns the store's answer to an ask. ok is false if the ask was withdrawn,
// or another request has taken the answer. The lease's validity counts from the
// arrival of the last request.
func (s *Server) take(p *pending) (lease bucket.Lease, err error, ok bool) {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	if s.stepLocked(p, onTake)&refuse != 0 {
		return bucket.Lease{}, nil, false
	}
	lease = p.lease
	if lease.OK {
		// By this clock the lease is valid until sent + ValidFor. The client counts
		// the part since the request's arrival by its own clock, which may be slower.
		waited := s.clock.Since(p.arrived)
		lease.ValidFor = max(lease.ValidFor-time.Duration(p.arrived-p.sent)-(waited-bucket.Early(waited)), 0)
	}
	return lease, p.err, true
}

// withdrawSettled withdraws the pending asks that are settled: a client that
// settles an ask has lost sight of it, and the asks behind it should not wait.
func (s *Server) withdrawSettled(done []bucket.Settlement) {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	for _, d := range done {
		if p := s.asks.pending[askID{d.Key, d.ID}]; p != nil {
			p.settlement = d // or units that the client reports as spent might be returned, too
			s.stepLocked(p, onWithdraw)
		}
	}
}

func (s *Server) withdrawAll() {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	for _, p := range s.asks.pending {
		s.stepLocked(p, onWithdraw)
	}
}
