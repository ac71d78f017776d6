// Package waitqueue keeps the asks that a store cannot meet yet in line, and says
// whose turn it is. A store that decides by itself and a leader that decides
// through a log stand on the same line: they take from it what is worth
// deciding, decide, and resolve.
package waitqueue

import (
	"cmp"
	"container/heap"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// Answer is what became of an operation.
type Answer struct {
	ledger.Result
	Waited time.Duration // for how long the line had it in hand
}

// Entry is an operation in the line's hands.
type Entry struct {
	Op ledger.Op // to be applied, once [Queue.Take] has returned the entry

	ask      *bucket.Ask // as it came; nil for a settlement or an adjustment
	key      *queue
	reply    func(Answer)
	done     *settling // what the ask has to settle; nil: nothing
	place    uint64    // in line: entries of a key are served in this order
	arrived  int64
	deadline int64 // for an answer
	state    state
}

type state uint8

const (
	waiting   state = iota // in its key's queue
	taken                  // being decided
	withdrawn              // being decided, and nobody wants it any more
	over                   // answered
)

// Queue is the asks in line, first come, first served for each key. Instants
// are the store's time, the clock of the buckets.
//
// A Queue is not safe for concurrent use. It calls reply functions from within
// its methods, once for each entry that is not cancelled.
type Queue struct {
	view  func(*bucket.Ask) *bucket.Bucket
	ready []*Entry // to be taken at the next occasion, in the order they came
	keys  map[string]*queue
	wakes wakes
	last  uint64 // place given out
}

// queue is the asks in line for one key.
type queue struct {
	key     string
	waiting []*Entry // by place
	unsure  bool     // what is to be decided first may free or take quota, and view does not show it yet
	wake    int64    // when to look at it again
	heap    int      // its place among wakes; -1: none
}

// New returns an empty line for the buckets that view shows: those that an ask
// would find, as [ledger.Table.Find] does. The line only reads them.
func New(view func(*bucket.Ask) *bucket.Bucket) *Queue {
	return &Queue{view: view, keys: make(map[string]*queue)}
}

// settling is the settlements that came with an ask. Whoever hears an answer to
// the ask takes them for applied, so a refusal, which needs no deciding, waits
// for them, and fails if they do.
type settling struct {
	left int // to be decided
	err  error
	then func() // not nil: the answer is known
}

func (s *settling) decided(a Answer) {
	s.left--
	if s.err == nil {
		s.err = a.Err
	}
	if s.left == 0 && s.then != nil {
		s.then()
	}
}

// ErrAskedAgain is the answer to an ask whose place in line was taken by a later
// one with the same id.
var ErrAskedAgain = errors.New("choked: the same lease was asked for again")

// Add hands op to the line, which calls reply when it is decided. What an ask
// has to settle goes ahead of it. An ask whose id is in line already takes that
// place, and the earlier one ends with [ErrAskedAgain].
func (l *Queue) Add(now int64, op ledger.Op, reply func(Answer)) *Entry {
	e := &Entry{Op: op, reply: reply, arrived: now, state: taken}
	a, ok := op.(*bucket.Ask)
	if !ok || a.Check() != nil { // a malformed one is for the table to refuse
		l.ready = append(l.ready, e)
		return e
	}
	ask := *a
	ask.Done = nil
	e.ask, e.state = &ask, waiting
	e.deadline = now + int64(min(max(a.MaxWait, 0), math.MaxInt64/4))
	l.enqueue(now, e)
	if len(a.Done) > 0 {
		e.done = &settling{left: len(a.Done)}
	}
	for i := range a.Done {
		e.key.unsure = e.key.unsure || a.Done[i].Key == a.Key
		l.Add(now, &a.Done[i], e.done.decided)
	}
	l.setWake(e.key, now)
	return e
}

// enqueue puts e in the queue of its key, at its place if it has one.
func (l *Queue) enqueue(now int64, e *Entry) {
	q := l.keys[e.ask.Key]
	if q == nil {
		q = &queue{key: e.ask.Key, wake: math.MaxInt64, heap: -1}
		l.keys[q.key] = q
	}
	e.key = q
	if e.place == 0 {
		if i := slices.IndexFunc(q.waiting, func(f *Entry) bool { return f.ask.ID == e.ask.ID }); i >= 0 {
			earlier := q.waiting[i]
			e.place, q.waiting[i] = earlier.place, e
			l.answer(now, earlier, ledger.Result{Err: ErrAskedAgain})
			return
		}
		l.last++
		e.place = l.last
	}
	at, _ := slices.BinarySearchFunc(q.waiting, e.place, func(f *Entry, place uint64) int {
		return cmp.Compare(f.place, place)
	})
	q.waiting = slices.Insert(q.waiting, at, e)
}

// freed has the queue of op's key looked at again: op may let someone through.
func (l *Queue) freed(op ledger.Op) {
	var key string
	switch op := op.(type) {
	case *bucket.Settlement:
		key = op.Key
	case *bucket.Adjustment:
		key = op.Key
	}
	if q := l.keys[key]; q != nil {
		q.unsure = false
		l.setWake(q, 0)
	}
}

// Cancel takes e out of the line without an answer. If it is being decided,
// what it is granted goes back.
func (l *Queue) Cancel(e *Entry) {
	switch e.state {
	case waiting:
		e.state = over
		q := e.key
		if i := slices.Index(q.waiting, e); i >= 0 {
			q.waiting = slices.Delete(q.waiting, i, i+1)
		}
		l.setWake(q, 0) // the next in line may need less
	case taken:
		e.state = withdrawn
	case over:
		if e.done != nil {
			e.done.then = nil // it may be about to be answered
		}
	}
}

// Drop takes e out of the line without an answer, unless it is being decided.
func (l *Queue) Drop(e *Entry) {
	if e.state == waiting {
		l.Cancel(e)
	}
}

// Take returns what is worth deciding at now, in order, at the most so many
// entries. Each is to be resolved, or failed, before the next Take.
func (l *Queue) Take(now int64, most int) []*Entry {
	batch := l.ready
	if len(batch) > most {
		batch = slices.Clone(batch[:most])
		l.ready = slices.Delete(l.ready, 0, most)
	} else {
		l.ready = nil
	}
	for _, e := range batch {
		if a, ok := e.Op.(*bucket.Adjustment); ok && l.keys[a.Key] != nil {
			l.keys[a.Key].unsure = true
		}
	}
	for len(batch) < most && len(l.wakes) > 0 && l.wakes[0].wake <= now {
		q := l.wakes[0]
		batch = l.pick(now, q, batch, most)
		if len(q.waiting) == 0 {
			l.setWake(q, math.MaxInt64)
			delete(l.keys, q.key)
		}
	}
	return batch
}

// Next is the instant of the next Take that could return something.
func (l *Queue) Next() int64 {
	if len(l.ready) > 0 {
		return 0
	}
	if len(l.wakes) > 0 {
		return l.wakes[0].wake
	}
	return math.MaxInt64
}

// Resolve gives e, which Take returned, its result at now.
func (l *Queue) Resolve(now int64, e *Entry, r ledger.Result) {
	if e.ask == nil {
		l.freed(e.Op)
		l.answer(now, e, r)
		return
	}
	if r.Err == nil && !r.Grant.OK && e.state == taken && !e.ask.Need.IsZero() && now < e.deadline {
		// Someone was faster, or it was tried on the chance. It goes back to
		// its place, and is judged by what the bucket shows now.
		e.state = waiting
		l.enqueue(now, e)
		l.setWake(e.key, now)
		return
	}
	if r.Err == nil && !r.Grant.OK {
		// The bucket says when it could promise. Who does not wait has no use
		// for a promise.
		r.Grant.RetryAfter = max(r.Grant.RetryAfter, l.view(e.ask).Refill(now, e.ask.Need, false))
	}
	if r.Grant.OK && e.state == withdrawn {
		l.Add(now, &bucket.Settlement{Key: e.ask.Key, ID: e.ask.ID}, func(Answer) {})
	}
	l.answer(now, e, r)
}

// Fail answers all that is in the line, and the batch that was taken, with err.
func (l *Queue) Fail(now int64, batch []*Entry, err error) {
	for _, e := range append(batch, l.ready...) {
		l.answer(now, e, ledger.Result{Err: err})
	}
	for _, q := range l.keys {
		for _, e := range q.waiting {
			l.answer(now, e, ledger.Result{Err: err})
		}
	}
	l.ready, l.wakes = nil, nil
	clear(l.keys)
}

func (l *Queue) answer(now int64, e *Entry, r ledger.Result) {
	wanted := e.state != withdrawn && e.state != over
	e.state = over
	if !wanted {
		return
	}
	reply := func() {
		if e.done != nil && e.done.err != nil {
			r = ledger.Result{Err: e.done.err}
		}
		e.reply(Answer{Result: r, Waited: time.Duration(now - e.arrived)})
	}
	if e.done != nil && e.done.left > 0 {
		e.done.then = reply
	} else {
		reply()
	}
}

func (l *Queue) setWake(q *queue, at int64) {
	q.wake = at
	switch {
	case at == math.MaxInt64 && q.heap >= 0:
		heap.Remove(&l.wakes, q.heap)
	case at == math.MaxInt64:
	case q.heap < 0:
		heap.Push(&l.wakes, q)
	default:
		heap.Fix(&l.wakes, q.heap)
	}
}

// wakes is a heap of the queues by the instant to look at them.
type wakes []*queue

func (w wakes) Len() int           { return len(w) }
func (w wakes) Less(i, j int) bool { return w[i].wake < w[j].wake }
func (w wakes) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].heap, w[j].heap = i, j
}

func (w *wakes) Push(x any) {
	q := x.(*queue)
	q.heap = len(*w)
	*w = append(*w, q)
}

func (w *wakes) Pop() any {
	old := *w
	q := old[len(old)-1]
	old[len(old)-1] = nil
	*w = old[:len(old)-1]
	q.heap = -1
	return q
}
