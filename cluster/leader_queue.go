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

	// errUnclear means that the request may have been decided or not. It does not
	// wrap [bucket.ErrUnavailable], after which a caller may repeat the request: an
	// adjustment that is repeated returns quota twice.
	errUnclear = errors.New("outcome unknown: it may have been decided or not")
)

// maxBatch bounds the operations in one log entry.
const maxBatch = 4096

// clockEntryEvery is how often an idle leader commits an entry that only advances
// the clock. A node that restarts, or receives the log, knows no later time than
// that of the last entry.
const clockEntryEvery = time.Minute

// clockEntry is the operation of such an entry. It settles a lease that never
// existed.
var clockEntry = &bucket.Settlement{Key: "time"}

// leaderQueue decides operations while this node leads. Asks wait in a queue until
// they can be granted, then they are proposed to Raft. All operations that arrive
// while one entry is being committed go into the next entry.
type leaderQueue struct {
	raft    *raftRun
	replica *replica
	queue   *waitqueue.Queue
	table   *ledger.Table // nil, except during view

	mu      sync.Mutex
	inbox   []message
	wake    chan struct{}      // holds one while the inbox is not empty
	closed  bool               // run reads the inbox no longer
	ended   chan struct{}      // closed when run has answered all requests that it will
	members map[string]*member // members with an open stream
	streams uint64             // streams opened so far
}

// member tracks the streams of one client, which uses one at a time. A client
// retries on a new stream when the leader is silent on the old one. A late request
// from the old stream, which arrives after the lease was spent and settled, would
// lease quota that no caller uses. So the queue ignores requests on streams older
// than the newest that the client has used.
type member struct {
	open   int    // streams
	newest uint64 // number of the newest stream that carried a request
}

// stream is a stream of a member.
type stream struct {
	id     string // of the member
	member *member
	n      uint64 // streams are numbered in the order in which they were opened
}

// request is an operation that was submitted. Its fields belong to the goroutine
// of [leaderQueue.run].
type request struct {
	op      ledger.Op
	entry   *waitqueue.Entry
	granted bool
}

// message tells run to submit, cancel or abandon a request.
type message struct {
	kind  uint8
	req   *request
	reply func(waitqueue.Answer)
}

const (
	submit  = iota
	cancel  // no caller wants the answer, and none will retry: a grant is returned
	abandon // the client is gone, and may retry: drop the request, keep a grant
)

func newLeaderQueue(r *raftRun, replica *replica) *leaderQueue {
	q := &leaderQueue{
		raft: r, replica: replica, wake: make(chan struct{}, 1), ended: make(chan struct{}),
		members: make(map[string]*member),
	}
	q.queue = waitqueue.New(func(ask *bucket.Ask) *bucket.Bucket { return q.table.Find(ask) })
	return q
}

// submit submits op for a decision. reply is called once, unless the request is
// cancelled, on the goroutine of run, which it must not block. The error of an
// answer is errNotLeader if op was not proposed, and errUnclear if it may have been.
func (q *leaderQueue) submit(op ledger.Op, reply func(waitqueue.Answer)) *request {
	req := &request{op: op}
	if !q.send(message{submit, req, reply}) {
		reply(waitqueue.Answer{Result: ledger.Result{Err: errNotLeader}})
	}
	return req
}

// submitOn is submit for a request that came on s. It returns false, and ignores
// the request, if the member has used a newer stream.
func (q *leaderQueue) submitOn(s stream, req *request, reply func(waitqueue.Answer)) bool {
	q.mu.Lock()
	if s.n < s.member.newest {
		q.mu.Unlock()
		return false
	}
	s.member.newest = s.n
	sent := q.sendLocked(message{submit, req, reply})
	q.mu.Unlock()
	if !sent {
		reply(waitqueue.Answer{Result: ledger.Result{Err: errNotLeader}})
	}
	return true
}

// open opens a stream of the member id. The call comes before the member is told
// that it may send requests on it.
func (q *leaderQueue) open(id string) stream {
	q.mu.Lock()
	defer q.mu.Unlock()
	m := q.members[id]
	if m == nil {
		m = new(member)
		q.members[id] = m
	}
	m.open++
	q.streams++
	return stream{id, m, q.streams}
}

// close closes a stream, on which no more requests come.
func (q *leaderQueue) close(s stream) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if s.member.open--; s.member.open == 0 {
		delete(q.members, s.id)
	}
}

func (q *leaderQueue) cancel(req *request)  { q.send(message{kind: cancel, req: req}) }
func (q *leaderQueue) abandon(req *request) { q.send(message{kind: abandon, req: req}) }

// send puts a message into the inbox. It returns false if run does not read it.
func (q *leaderQueue) send(m message) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sendLocked(m)
}

func (q *leaderQueue) sendLocked(m message) bool {
	if q.closed {
		return false
	}
	q.inbox = append(q.inbox, m)
	select {
	case q.wake <- struct{}{}:
	default:
	}
	return true
}

func (q *leaderQueue) receive() []message {
	q.mu.Lock()
	defer q.mu.Unlock()
	in := q.inbox
	q.inbox = nil
	return in
}

// run decides until done is closed or leadership is lost.
func (q *leaderQueue) run(done <-chan struct{}) {
	defer close(q.ended)
	timer := time.NewTimer(clockEntryEvery)
	defer timer.Stop()
	lastClock := q.replica.now() // the time of the last entry, or when this node began to lead
	var batch []*waitqueue.Entry
	var entry fsm.Entry
	var lost error
	for lost == nil {
		select {
		case <-done:
			lost = errNotLeader
			continue
		case <-q.wake:
		case <-timer.C:
		}
		for lost == nil {
			now := q.accept()
			if now-lastClock >= int64(clockEntryEvery) {
				q.queue.Add(now, clockEntry, func(waitqueue.Answer) {})
			}
			q.view(func() {
				batch = q.queue.Take(now, maxBatch)
				entry = q.entry(now, batch)
			})
			if len(batch) == 0 {
				break
			}
			lastClock = now
			lost = q.decide(&entry, batch)
		}
		next := min(q.queue.Next(), lastClock+int64(clockEntryEvery))
		timer.Reset(time.Duration(next - q.replica.now()))
	}
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	now := q.accept()
	q.view(func() {
		if errors.Is(lost, errUnclear) {
			for _, e := range batch {
				q.queue.Resolve(now, e, ledger.Result{Err: errUnclear})
			}
		}
		q.queue.Fail(now, batch, errNotLeader)
	})
}

// view calls f, which may use the queue, while the buckets are locked.
func (q *leaderQueue) view(f func()) {
	q.replica.View(func(t *ledger.Table) {
		q.table = t
		f()
		q.table = nil
	})
}

// accept moves requests from the inbox to the queue, and returns the time at which
// it did. It reads the clock after the inbox. With a time before the ask was made,
// the ask would seem to have waited for longer, and its lease would expire here
// before it expires at its holder.
func (q *leaderQueue) accept() int64 {
	in := q.receive()
	now := q.replica.now()
	for _, m := range in {
		switch m.kind {
		case submit:
			req, reply := m.req, m.reply
			req.entry = q.queue.Add(now, req.op, func(answer waitqueue.Answer) {
				if req.granted = answer.Grant.OK; answer.Err == nil && !req.granted {
					// The queue may refuse without an entry, at a time that the next
					// leader may not have reached yet.
					answer.Grant.At = q.table.Now()
				}
				reply(answer)
			})
		case cancel:
			q.queue.Cancel(m.req.entry)
			if ask, ok := m.req.op.(*bucket.Ask); ok && m.req.granted {
				q.queue.Add(now, &bucket.Settlement{Key: ask.Key, ID: ask.ID}, func(waitqueue.Answer) {})
			}
		case abandon:
			q.queue.Drop(m.req.entry)
		}
	}
	return now
}

// entry returns the log entry of batch at the time now, while the buckets are locked.
func (q *leaderQueue) entry(now int64, batch []*waitqueue.Entry) fsm.Entry {
	e := fsm.Entry{At: now, Ops: make([]ledger.Op, len(batch))}
	for i := range batch {
		e.Ops[i] = batch[i].Op
	}
	e.Stamps = q.table.StampsFor(time.Now().UnixNano(), e.Ops...)
	return e
}

// decide commits the entry of batch, and resolves its requests.
// An error ends this leadership. It is errNotLeader if the entry was not proposed,
// and errUnclear if it may be committed.
func (q *leaderQueue) decide(entry *fsm.Entry, batch []*waitqueue.Entry) error {
	response, err := q.raft.Apply(entry.Encode())
	switch {
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return errNotLeader
	case err != nil:
		return errUnclear
	}
	results, ok := response.([]ledger.Result)
	if !ok || len(results) != len(batch) { // this node cannot read the entry that it wrote
		return errUnclear
	}
	q.view(func() {
		for i, e := range batch {
			q.queue.Resolve(entry.At, e, results[i])
		}
	})
	return nil
}
