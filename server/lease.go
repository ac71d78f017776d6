package server

import (
	"context"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
)

// resumeWithin is how long an ask that was answered to be pending keeps its
// place in line. A client that is there resumes it at once.
const resumeWithin = 3 * time.Second

type askID struct {
	key string
	id  bucket.LeaseID
}

// asks is what clients have asked and not been answered.
type asks struct {
	mu      sync.Mutex
	pending map[askID]*pending
}

// pending is one ask. It is asked of the store once, and outlives the requests
// that wait for it one after the other, all of them at this node. It is over when
// it is answered or withdrawn: then it is not among the asks any more, and of the
// two the first one counts.
type pending struct {
	began   int64 // when the store was asked
	arrived int64 // the last request that waits for it, or has waited
	cancel  context.CancelFunc
	settled bucket.Settlement // of what it was granted and nobody has got
	parked  *time.Timer       // not nil while no request waits; ends the ask
	gone    chan struct{}     // closed when it is withdrawn
	decided chan struct{}     // closed when lease and err are there
	lease   bucket.Lease
	err     error
}

// lease has an ask decided. The request's end withdraws it: whoever loses sight
// of an ask has to begin anew, by another id, for what the lost one was granted
// goes back to the bucket.
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
	id := askID{ask.Key, ask.ID}
	var p *pending
	var e *httpapi.Error
	if r.Resume {
		p, e = s.resume(id)
	} else {
		p, e = s.ask(id, ask)
	}
	if e != nil {
		return nil, e
	}
	still := time.NewTimer(httpapi.Poll)
	defer still.Stop()
	select {
	case <-p.decided:
	case <-p.gone:
	case <-still.C:
		if s.park(id, p) {
			return httpapi.Lease{ID: httpapi.ID(ask.ID), Pending: true}, nil
		}
	case <-c.Context().Done():
		s.withdraw(id, p)
		return nil, closing // nobody reads it
	case <-s.open.Done():
		s.withdraw(id, p)
		return nil, &httpapi.Error{Code: httpapi.Lost, Message: "this node of the service stops, the ask does not wait any more"}
	}
	lease, err, ok := s.answered(id, p)
	switch {
	case !ok:
		return nil, lost
	case err != nil:
		return nil, s.storeError(c, err)
	case lease.OK && lease.ValidFor <= 0: // it was granted long before it was resumed
		s.settleLater(p.settled)
		return nil, lost
	}
	if !r.Resume {
		setRateLimit(c.w.Header(), ask.Limits, lease.Level)
	}
	if !lease.OK {
		setRetryAfter(c.w.Header(), lease.RetryAfter)
	}
	return httpapi.LeaseOf(lease), nil
}

var lost = &httpapi.Error{Code: httpapi.Lost, Message: "no such ask waits here, begin anew by another id"}

func askError(err error) *httpapi.Error {
	if e := httpapi.ErrorOf(err); e.Code == httpapi.ExceedsBurst {
		return e
	}
	return badRequest(err)
}

// ask begins an ask at the store.
func (s *Server) ask(id askID, ask bucket.Ask) (*pending, *httpapi.Error) {
	now := s.clock.Now()
	p := &pending{began: now, arrived: now, settled: bucket.Settlement{Key: ask.Key, ID: ask.ID}, gone: make(chan struct{}), decided: make(chan struct{})}
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(s.ctx)
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	if s.asks.pending[id] != nil {
		p.cancel()
		return nil, &httpapi.Error{Code: httpapi.InHand, Message: "another request waits for this lease"}
	}
	s.asks.pending[id] = p
	s.work.Go(func() {
		defer p.cancel()
		lease, err := s.cfg.Store.Lease(ctx, ask)
		s.asks.mu.Lock()
		defer s.asks.mu.Unlock()
		p.lease, p.err = lease, err
		close(p.decided)
		if s.asks.pending[id] != p { // withdrawn meanwhile
			s.giveBackLocked(p)
		}
	})
	return p, nil
}

// resume goes on with a parked ask.
func (s *Server) resume(id askID) (*pending, *httpapi.Error) {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	p := s.asks.pending[id]
	if p == nil || p.parked == nil || !p.parked.Stop() {
		return nil, lost
	}
	p.parked, p.arrived = nil, s.clock.Now()
	return p, nil
}

// park lets an ask go on without a request, for a while. It reports false if it
// is over, or decided.
func (s *Server) park(id askID, p *pending) bool {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	if s.asks.pending[id] != p {
		return false
	}
	select {
	case <-p.decided:
		return false
	default:
	}
	p.parked = time.AfterFunc(resumeWithin, func() { s.withdraw(id, p) })
	return true
}

// answered takes a decided ask from the asks. ok is false if it was withdrawn
// before. The lease's validity counts from the arrival of the last request.
func (s *Server) answered(id askID, p *pending) (lease bucket.Lease, err error, ok bool) {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	if s.asks.pending[id] != p {
		return lease, nil, false
	}
	delete(s.asks.pending, id)
	lease = p.lease
	if lease.OK {
		// By this clock it would be valid until began + ValidFor. Of that, the
		// client counts the part since the request's arrival by its own, which
		// may be slower.
		waited := s.clock.Since(p.arrived)
		lease.ValidFor = max(lease.ValidFor-time.Duration(p.arrived-p.began)-(waited-bucket.Early(waited)), 0)
	}
	return lease, p.err, true
}

// withdraw ends an ask that nobody waits for any more.
func (s *Server) withdraw(id askID, p *pending) {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	s.withdrawLocked(id, p)
}

func (s *Server) withdrawLocked(id askID, p *pending) {
	if s.asks.pending[id] != p {
		return
	}
	delete(s.asks.pending, id)
	close(p.gone)
	p.cancel()
	select {
	case <-p.decided:
		s.giveBackLocked(p)
	default:
	}
}

// withdrawSettled ends those asks that wait here and are settled: whoever settles
// an ask has lost sight of it, and would have those behind it wait for nobody.
func (s *Server) withdrawSettled(done []bucket.Settlement) {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	for _, d := range done {
		id := askID{d.Key, d.ID}
		if p := s.asks.pending[id]; p != nil {
			p.settled = d // or what the client says is spent might go back, too
			s.withdrawLocked(id, p)
		}
	}
}

func (a *asks) withdrawAll(s *Server) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id, p := range a.pending {
		s.withdrawLocked(id, p)
	}
}

// giveBackLocked returns what was granted to an ask that nobody waits for.
func (s *Server) giveBackLocked(p *pending) {
	if p.err == nil && p.lease.OK {
		s.settleLater(p.settled)
	}
}
