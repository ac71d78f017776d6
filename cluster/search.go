package cluster

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/choked/choked/bucket"
)

const (
	// askNextAfter is how long a search waits for an answer before it asks the next
	// member as well. askNextHeld is the same after a member has said that it is
	// waiting for a leader itself: that member may be cut off from the others.
	askNextAfter = 100 * time.Millisecond
	askNextHeld  = 250 * time.Millisecond

	searchMost = 8 // members asked in one search
)

// search decides which members to ask who leads, and when. It asks the most likely
// leader first, and the next member before the last one has answered, for that one
// may be frozen or may not know. It does no I/O and reads no clock.
type search struct {
	first   string          // the successor that the last leader named; empty: none
	queue   []string        // addresses to ask, the most likely leader first
	asked   map[string]bool // addresses that were asked, and this node's own
	waiting int             // members that were asked and have not answered
	err     error           // errors of their replies
}

// reply is a member's answer to the question who leads.
type reply struct {
	*peer       // nil if there is an error, or the member is waiting
	held  bool  // the member is waiting for a leader; another reply follows
	err   error // the member cannot be asked
}

// askFunc opens a stream to the member at addr, and calls onWait if the member says
// that it is waiting for a leader itself.
type askFunc func(ctx context.Context, addr string, onWait func()) (*peer, error)

// newSearch returns a search among candidates for the node at self.
func newSearch(self, first string, candidates []string) *search {
	s := &search{first: first, queue: candidates, asked: map[string]bool{self: true}}
	if first != "" {
		s.queue = slices.Insert(s.queue, 0, first)
	}
	return s
}

// hasNext reports whether there is another member to ask.
func (s *search) hasNext() bool {
	s.queue = slices.DeleteFunc(s.queue, func(addr string) bool { return s.asked[addr] })
	return len(s.queue) > 0 && len(s.asked) <= searchMost
}

// next returns the address to ask now, and how long to wait before asking the one
// after it. It may only be called if hasNext.
func (s *search) next() (addr string, wait time.Duration) {
	addr = s.queue[0]
	s.asked[addr] = true
	s.waiting++
	if addr == s.first { // it should know
		return addr, askNextHeld
	}
	return addr, askNextAfter
}

// onReply takes the reply of a member that does not lead. If reset is true, the next
// member is due after wait, and no longer when it was due before.
func (s *search) onReply(r reply) (wait time.Duration, reset bool) {
	if r.held {
		return askNextHeld, true
	}
	s.waiting--
	s.err = errors.Join(s.err, r.err)
	if r.peer != nil && r.leader != "" {
		s.queue = slices.Insert(s.queue, 0, r.leader)
		return 0, true
	}
	return 0, s.waiting == 0
}

// failed returns why the search has found no leader, or nil as long as a member can
// be asked or may still answer.
func (s *search) failed() error {
	if s.waiting > 0 || s.hasNext() {
		return nil
	}
	return cmp.Or(s.err, errors.New("no member knows a leader"))
}

// run asks members by ask, on goroutines that spawn starts, until one of them leads,
// and returns the stream to that one. It closes all other streams.
func (s *search) run(ctx context.Context, spawn func(func()) bool, ask askFunc) (*peer, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	replies := make(chan reply)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if err := s.failed(); err != nil {
			return nil, err
		}
		var due <-chan time.Time
		if s.hasNext() {
			due = timer.C
		}
		select {
		case <-ctx.Done():
			return nil, bucket.ErrClosed
		case <-due:
			addr, wait := s.next()
			spawn(func() { askForLeader(ctx, addr, ask, replies) })
			timer.Reset(wait)
		case r := <-replies:
			if r.peer != nil && r.leads {
				return r.peer, nil
			}
			if wait, reset := s.onReply(r); reset {
				timer.Reset(wait)
			}
		}
	}
}

// askForLeader sends the reply of the member at addr, unless ctx ends before. It
// closes the stream unless the member leads and the reply was received.
func askForLeader(ctx context.Context, addr string, ask askFunc, replies chan<- reply) {
	send := func(r reply) (sent bool) {
		select {
		case replies <- r:
			return true
		case <-ctx.Done():
			return false
		}
	}
	p, err := ask(ctx, addr, func() { send(reply{held: true}) })
	if sent := send(reply{peer: p, err: err}); p != nil && !(sent && p.leads) {
		p.conn.Close()
	}
}
