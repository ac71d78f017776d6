package server

import (
	"context"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
)

// askID names an ask of a client. Another tenant's key differs by its namespace.
type askID struct {
	key string
	id  bucket.LeaseID
}

// asks indexes the pending asks. What may happen to one of them depends on its
// state alone.
type asks struct {
	mu      sync.Mutex
	pending map[askID]*pending
}

// pending is one ask to the store. It outlives the requests that wait for it one
// after the other, all of them at this node: a request waits for up to
// httpapi.Poll, and the next one resumes the ask.
type pending struct {
	id      askID
	sent    int64              // when the store was asked, by the server's clock
	arrived int64              // when the last request for it arrived, by the server's clock
	cancel  context.CancelFunc // of the call to the store
	over    chan struct{}      // closed when the ask is decided or withdrawn

	// The fields below are guarded by asks.mu.

	state  askState
	unpark *time.Timer       // withdraws a parked ask that no request resumes
	refund bucket.Settlement // settles what was granted to a withdrawn ask
	lease  bucket.Lease      // of a decided ask, with err
	err    error
}

// askState is the state of a pending ask.
type askState int

const (
	waiting   askState = iota // for the store, and a request waits for it
	parked                    // for the store, and for the next request to resume it
	decided                   // by the store: the first request that takes the answer gets it
	answered                  // a request has taken the answer
	withdrawn                 // no request waits for it: what the store grants is returned
)

// askEvent is what happens to a pending ask.
type askEvent int

const (
	onDecide   askEvent = iota // the store answers
	onPoll                     // httpapi.Poll is over: the request answers that the ask is pending
	onResume                   // another request wants to go on with the ask
	onTake                     // a request wants the store's answer
	onWithdraw                 // the request ends, the ask is settled or not resumed in time, or the server drains
)

// askEffects is what a transition does beside changing the state.
type askEffects int

const (
	wake       askEffects = 1 << iota // let the request that waits continue
	startTimer                        // to withdraw the ask unless a request resumes it
	stopTimer
	cancelCall // to the store
	forget     // remove the ask from the index: its id is free again
	giveBack   // return what the store granted
	refuse     // the request is told that the ask is unknown
)

// transition returns the state of an ask after an event, and what to do. It is
// the whole protocol of a pending ask:
//
//   - An ask is pending until it is answered or withdrawn, whichever comes first.
//     Then its id is free, and a request for it is refused.
//   - A request resumes an ask that is parked, or decided and not taken, and none
//     that another request waits for. A parked ask may be decided: its timer runs on.
//   - What the store grants is either taken by one request or given back, whether
//     it grants before the withdrawal or after it.
func transition(s askState, e askEvent) (askState, askEffects) {
	switch e {
	case onDecide:
		switch s {
		case waiting, parked:
			return decided, wake
		case withdrawn: // the store granted it before it noticed the end of the call
			return withdrawn, giveBack
		}
	case onPoll:
		if s == waiting {
			return parked, startTimer
		}
	case onResume:
		switch s {
		case parked:
			return waiting, stopTimer
		case decided:
			return decided, stopTimer
		}
		return s, refuse
	case onTake:
		if s == decided {
			return answered, stopTimer | forget
		}
		return s, refuse
	case onWithdraw:
		switch s {
		case waiting, parked:
			return withdrawn, wake | stopTimer | cancelCall | forget
		case decided:
			return withdrawn, stopTimer | forget | giveBack
		}
	}
	return s, 0
}

// step applies an event to p, and returns the effects that it had.
func (s *Server) step(p *pending, e askEvent) askEffects {
	s.asks.mu.Lock()
	defer s.asks.mu.Unlock()
	return s.stepLocked(p, e)
}

func (s *Server) stepLocked(p *pending, e askEvent) (effects askEffects) {
	p.state, effects = transition(p.state, e)
	if effects&wake != 0 {
		close(p.over)
	}
	if effects&startTimer != 0 {
		p.unpark = time.AfterFunc(resumeWithin, func() { s.step(p, onWithdraw) })
	}
	if effects&stopTimer != 0 && p.unpark != nil {
		p.unpark.Stop()
		p.unpark = nil
	}
	if effects&cancelCall != 0 {
		p.cancel()
	}
	if effects&forget != 0 {
		delete(s.asks.pending, p.id)
	}
	if effects&giveBack != 0 && p.err == nil && p.lease.OK {
		s.settleLater(p.refund)
	}
	return effects
}
