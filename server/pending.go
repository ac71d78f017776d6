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

// asks indexes the pending asks. Which events an ask accepts depends on its state
// alone.
type asks struct {
	mu      sync.Mutex
	pending map[askID]*pending
}

// pending is one ask to the store. A request waits up to httpapi.Poll for the decision.
// After that the client resumes the ask with another request to the same node.
type pending struct {
	id     askID
	sent   int64              // when the store was asked, by the server's clock
	cancel context.CancelFunc // of the call to the store
	over   chan struct{}      // closed when the ask is decided or withdrawn

	// The fields below are guarded by asks.mu.

	state      askState
	arrived    int64             // arrival of the latest request, by the server's clock
	unpark     *time.Timer       // withdraws a parked ask that no request resumes
	settlement bucket.Settlement // of a lease that no request takes
	lease      bucket.Lease      // of a decided ask, with err
	err        error
}

// askState is the state of a pending ask.
type askState int

const (
	waiting   askState = iota // the store has not decided, and a request waits
	parked                    // the store has not decided, and the client has to resume the ask
	decided                   // the store has decided, and no request has taken the answer
	answered                  // a request has taken the answer
	withdrawn                 // no request will take the answer: a lease is returned
)

// askEvent is an event in the life of a pending ask.
type askEvent int

const (
	onDecide   askEvent = iota // the store answers
	onPoll                     // httpapi.Poll is over: the request answers that the ask is pending
	onResume                   // another request continues the ask
	onTake                     // a request wants the store's answer
	onWithdraw                 // the request has ended, the client has settled the ask or not resumed it in time, or the server drains
)

// askEffects are the actions of a transition.
type askEffects int

const (
	wake       askEffects = 1 << iota // let the waiting request continue
	startTimer                        // withdraw the ask after resumeWithin
	stopTimer                         // undo startTimer
	cancelCall                        // cancel the call to the store
	forget                            // remove the ask from the index, which frees its id
	refund                            // return the lease, if the store has granted one
	refuse                            // answer the request with unknownAsk
)

// transition returns the state of an ask after an event, and the actions to take.
// It is the whole protocol of a pending ask:
//
//   - An ask ends once, by an answer or by withdrawal, whichever comes first. The end
//     frees its id, and later requests for the ask are refused.
//   - A request can resume an ask that is parked, or decided and not taken. It cannot
//     resume an ask for which another request waits. A decision does not stop the
//     timer of a parked ask.
//   - A lease is taken by one request or refunded, whether the store grants it before
//     the withdrawal or after it.
func transition(s askState, e askEvent) (askState, askEffects) {
	switch e {
	case onDecide:
		switch s {
		case waiting, parked:
			return decided, wake
		case withdrawn: // the store decided before it noticed the cancellation
			return withdrawn, refund
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
			return withdrawn, stopTimer | forget | refund
		}
	}
	return s, 0
}

// step applies an event to p, takes the actions of the transition and returns them.
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
	if effects&refund != 0 && p.err == nil && p.lease.OK {
		s.settleLater(p.settlement)
	}
	return effects
}
