package cluster

import (
	"errors"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/fsm"
	"github.com/choked/choked/internal/ledger"
	"github.com/choked/choked/internal/waitqueue"
)

// Errors of a request that has no decision.
var (
	// errNotLeader means that the request was not proposed, and never will be.
	errNotLeader = errors.New("not the leader")

	// errUnclear means that the request may have been decided or not. It is not
	// [bucket.ErrUnavailable], which means that nothing was decided: who repeats an
	// adjustment after that would return quota twice.
	errUnclear = errors.New("outcome unknown: it may have been decided or not")
)

// maxBatch bounds the operations in one log entry.
const maxBatch = 4096

// tellEvery is how often the time is told when nothing is decided. Who restarts from
// its log, or gets it, knows no later time than the last that it tells of.
const tellEvery = time.Minute

// telling is the operation of an entry that only tells the time. It settles what
// nobody has leased.
var telling = &bucket.Settlement{Key: "time"}

// authority decides, as long as this node leads: it keeps asks in line, and
// proposes those whose turn it is. All that arrives while one entry is being
// committed goes into the next.
type authority struct {
	raft    *consensus
	replica *replica
	line    *waitqueue.Queue
	table   *ledger.Table // while it is viewed

	mu      sync.Mutex
	inbox   []message
	wake    chan struct{}      // holds one when there is something in the inbox
	over    bool               // it has stopped reading the inbox
	ended   chan struct{}      // closed when it has answered all that it will
	members map[string]*member // those that have a stream open
	streams uint64             // opened so far
}

// member is who asks over streams: over one at a time, as a member has one link to
// the leader. It gives up one that is silent and asks again over the next. What it
// had sent may arrive yet, when the lease has been granted, spent, and settled, and
// would lease as much again to nobody. So whoever asks over one stream is not heard
// on those that were opened before.
type member struct {
	open   int
	newest uint64 // of the streams that it asked on
}

// stream is one of a member's.
type stream struct {
	id     string // of the member
	member *member
	n      uint64 // it is the n-th
}

// request is an operation that was submitted. Its fields belong to the
// authority's goroutine.
type request struct {
	op      ledger.Op
	entry   *waitqueue.Entry
	granted bool
}

type message struct {
	kind  uint8
	req   *request
	reply func(waitqueue.Answer)
}

const (
	submit  = iota
	cancel  // nobody wants the answer, and nobody asks again: a grant goes back
	abandon // who asked is gone, and may ask again: do not wait for it
)

func newAuthority(r *consensus, replica *replica) *authority {
	a := &authority{
		raft: r, replica: replica, wake: make(chan struct{}, 1), ended: make(chan struct{}),
		members: make(map[string]*member),
	}
	a.line = waitqueue.New(func(ask *bucket.Ask) *bucket.Bucket { return a.table.Find(ask) })
	return a
}

// submit has op decided. reply is called once, on the authority's goroutine,
// unless the request is cancelled: it must not block. An answer's error is
// errNotLeader if op was not proposed, and errUnclear if it may have been.
func (a *authority) submit(op ledger.Op, reply func(waitqueue.Answer)) *request {
	req := &request{op: op}
	if !a.send(message{submit, req, reply}) {
		reply(waitqueue.Answer{Result: ledger.Result{Err: errNotLeader}})
	}
	return req
}

// submitOn is submit of a request that came on s. It returns false, and nothing
// happens, if the member has asked on a later stream.
func (a *authority) submitOn(s stream, req *request, reply func(waitqueue.Answer)) bool {
	a.mu.Lock()
	if s.n < s.member.newest {
		a.mu.Unlock()
		return false
	}
	s.member.newest = s.n
	sent := a.put(message{submit, req, reply})
	a.mu.Unlock()
	if !sent {
		reply(waitqueue.Answer{Result: ledger.Result{Err: errNotLeader}})
	}
	return true
}

// open is to be called before a member is told that it may ask on a stream.
func (a *authority) open(id string) stream {
	a.mu.Lock()
	defer a.mu.Unlock()
	m := a.members[id]
	if m == nil {
		m = new(member)
		a.members[id] = m
	}
	m.open++
	a.streams++
	return stream{id, m, a.streams}
}

// close is to be called when nothing more comes on s.
func (a *authority) close(s stream) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if s.member.open--; s.member.open == 0 {
		delete(a.members, s.id)
	}
}

func (a *authority) cancel(req *request)  { a.send(message{kind: cancel, req: req}) }
func (a *authority) abandon(req *request) { a.send(message{kind: abandon, req: req}) }

func (a *authority) send(m message) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.put(m)
}

// put is send with the lock held.
func (a *authority) put(m message) bool {
	if a.over {
		return false
	}
	a.inbox = append(a.inbox, m)
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return true
}

func (a *authority) receive() []message {
	a.mu.Lock()
	defer a.mu.Unlock()
	in := a.inbox
	a.inbox = nil
	return in
}

// run decides until done is closed or leadership is lost.
func (a *authority) run(done <-chan struct{}) {
	defer close(a.ended)
	timer := time.NewTimer(tellEvery)
	defer timer.Stop()
	told := a.replica.now()
	var batch []*waitqueue.Entry
	var lost error
	for lost == nil {
		select {
		case <-done:
			lost = errNotLeader
			continue
		case <-a.wake:
		case <-timer.C:
		}
		for lost == nil {
			now := a.accept()
			if now-told >= int64(tellEvery) {
				a.line.Add(now, telling, func(waitqueue.Answer) {})
			}
			a.view(func() { batch = a.line.Take(now, maxBatch) })
			if len(batch) == 0 {
				break
			}
			told = now
			lost = a.decide(now, batch)
		}
		next := min(a.line.Next(), told+int64(tellEvery))
		timer.Reset(time.Duration(next - a.replica.now()))
	}
	a.mu.Lock()
	a.over = true
	a.mu.Unlock()
	now := a.accept()
	a.view(func() {
		if errors.Is(lost, errUnclear) {
			for _, e := range batch {
				a.line.Resolve(now, e, ledger.Result{Err: errUnclear})
			}
		}
		a.line.Fail(now, batch, errNotLeader)
	})
}

// view calls f, which may use the line, with the buckets held still.
func (a *authority) view(f func()) {
	a.replica.View(func(t *ledger.Table) {
		a.table = t
		f()
		a.table = nil
	})
}

// accept moves what has arrived into the line, and returns when it did. The clock
// is read last: an instant before an ask was made would count as time that it has
// waited, and have its lease end here before it ends where it is held.
func (a *authority) accept() int64 {
	in := a.receive()
	now := a.replica.now()
	for _, m := range in {
		switch m.kind {
		case submit:
			req, reply := m.req, m.reply
			req.entry = a.line.Add(now, req.op, func(answer waitqueue.Answer) {
				if req.granted = answer.Grant.OK; answer.Err == nil && !req.granted {
					// The line may refuse at a time that is in no entry, and that the
					// next leader comes to later.
					answer.Grant.At = a.table.Now()
				}
				reply(answer)
			})
		case cancel:
			a.line.Cancel(m.req.entry)
			if ask, ok := m.req.op.(*bucket.Ask); ok && m.req.granted {
				a.line.Add(now, &bucket.Settlement{Key: ask.Key, ID: ask.ID}, func(waitqueue.Answer) {})
			}
		case abandon:
			a.line.Drop(m.req.entry)
		}
	}
	return now
}

// decide commits batch as one entry stamped now and gives each its result. An
// error ends this leadership: errNotLeader if the entry surely was not
// proposed.
func (a *authority) decide(now int64, batch []*waitqueue.Entry) error {
	entry := fsm.Entry{At: now, Ops: make([]ledger.Op, len(batch))}
	for i, e := range batch {
		entry.Ops[i] = e.Op
	}
	response, err := a.raft.Apply(entry.Encode())
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return errNotLeader
	case err != nil:
		return errUnclear
	}
	results, ok := response.([]ledger.Result)
	if !ok || len(results) != len(batch) { // an entry that this node wrote and cannot read
		return errUnclear
	}
	a.view(func() {
		for i, e := range batch {
			a.line.Resolve(now, e, results[i])
		}
	})
	return nil
}
