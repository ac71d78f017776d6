// Package waitqueue queues the asks that a store cannot grant yet, first come,
// first served for each key. A store that decides by itself and a leader that
// decides through a log use the same Queue: they take from it the operations that
// are worth deciding, decide them, and resolve them.
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

// Answer is the result of an operation.
type Answer struct {
	ledger.Result
	Waited time.Duration // from [Queue.Add] to the answer
}

// Entry is an operation in a [Queue].
type Entry struct {
	Op ledger.Op // to be applied, once [Queue.Take] has returned the entry

	ask      *bucket.Ask // as it was added; nil for a settlement or an adjustment
	key      *keyQueue
	reply    func(Answer)
	done     *settlements // that came with the ask; nil: none
	position uint64       // entries of a key are served in this order
	added    int64        // instant of Add
	deadline int64        // instant at which the ask is refused if it is still waiting
	state    state
}

type state uint8

const (
	waiting   state = iota // in the queue of its key
	deciding               // to be decided, or taken and not resolved yet
	withdrawn              // cancelled while deciding: its lease is settled unspent
	answered               // or cancelled
)

// Queue holds operations until they are decided. Instants are the store's time,
// the clock of the buckets, in nanoseconds.
//
// A Queue is not safe for concurrent use. It calls reply functions from within
// its methods, once for each entry that is not cancelled.
type Queue struct {
	view  func(*bucket.Ask) *bucket.Bucket
	ready []*Entry // need no quota: returned by the next Take, in the order of Add
	keys  map[string]*keyQueue
	wakes wakes
	last  uint64 // latest position assigned
}

// keyQueue is the waiting asks of one key.
type keyQueue struct {
	key     string
	waiting []*Entry // by position
	dirty   bool     // an operation that is decided first may free or take quota; view does not show it yet
	wake    int64    // instant of the next pass
	heap    int      // index in wakes; -1: not in it
}

// New returns an empty queue. view returns the bucket that an ask will be decided
// by, as [ledger.Table.Find] does; the queue only reads it.
func New(view func(*bucket.Ask) *bucket.Bucket) *Queue {
	return &Queue{view: view, keys: make(map[string]*keyQueue)}
}

// settlements tracks the settlements that came with an ask. A caller that receives the answer
// to the ask takes them for applied. A refusal is decided without the store, so it
// is held back until they are decided, and if one fails, the ask fails with it.
type settlements struct {
	undecided int
	err       error  // of the first that failed
	answer    func() // gives the ask its answer; nil: the answer is not known yet
}

func (s *settlements) decided(a Answer) {
	s.undecided--
	if s.err == nil {
		s.err = a.Err
	}
	if s.undecided == 0 && s.answer != nil {
		s.answer()
	}
}

// ErrAskedAgain is the answer to an ask that was replaced by a later ask with the
// same id.
var ErrAskedAgain = errors.New("replaced by a later ask with the same id")

// Add queues op. The queue calls reply when op is decided. The settlements that
// come with an ask are decided before it. If an ask with the same id is waiting,
// the new one takes its position and the earlier one ends with [ErrAskedAgain].
func (q *Queue) Add(now int64, op ledger.Op, reply func(Answer)) *Entry {
	e := &Entry{Op: op, reply: reply, added: now, state: deciding}
	a, ok := op.(*bucket.Ask)
	if !ok || a.Check() != nil { // the table refuses a malformed ask
		q.ready = append(q.ready, e)
		return e
	}
	ask := *a
	ask.Done = nil
	e.ask, e.state = &ask, waiting
	e.deadline = now + int64(min(max(a.MaxWait, 0), math.MaxInt64/4))
	q.enqueue(now, e)
	if len(a.Done) > 0 {
		e.done = &settlements{undecided: len(a.Done)}
	}
	for i := range a.Done {
		e.key.dirty = e.key.dirty || a.Done[i].Key == a.Key
		q.Add(now, &a.Done[i], e.done.decided)
	}
	q.setWake(e.key, now)
	return e
}

// enqueue inserts e into the queue of its key, at its position if it has one.
func (q *Queue) enqueue(now int64, e *Entry) {
	k := q.keys[e.ask.Key]
	if k == nil {
		k = &keyQueue{key: e.ask.Key, wake: math.MaxInt64, heap: -1}
		q.keys[k.key] = k
	}
	e.key = k
	if e.position == 0 {
		if i := slices.IndexFunc(k.waiting, func(f *Entry) bool { return f.ask.ID == e.ask.ID }); i >= 0 {
			earlier := k.waiting[i]
			e.position, k.waiting[i] = earlier.position, e
			q.answer(now, earlier, ledger.Result{Err: ErrAskedAgain})
			return
		}
		q.last++
		e.position = q.last
	}
	at, _ := slices.BinarySearchFunc(k.waiting, e.position, func(f *Entry, position uint64) int {
		return cmp.Compare(f.position, position)
	})
	k.waiting = slices.Insert(k.waiting, at, e)
}

// applied schedules a pass over the queue of op's key: op is applied and may have
// freed quota for the first entry.
func (q *Queue) applied(op ledger.Op) {
	var key string
	switch op := op.(type) {
	case *bucket.Settlement:
		key = op.Key
	case *bucket.Adjustment:
		key = op.Key
	}
	if k := q.keys[key]; k != nil {
		k.dirty = false
		q.setWake(k, 0)
	}
}

// Cancel removes e without an answer. If e is being decided and is granted, its
// lease is settled unspent.
func (q *Queue) Cancel(e *Entry) {
	switch e.state {
	case waiting:
		e.state = answered
		k := e.key
		if i := slices.Index(k.waiting, e); i >= 0 {
			k.waiting = slices.Delete(k.waiting, i, i+1)
		}
		q.setWake(k, 0) // the next entry may need less
	case deciding:
		e.state = withdrawn
	case answered:
		if e.done != nil {
			e.done.answer = nil // a refusal may still be held back
		}
	}
}

// Drop removes e without an answer, unless it is being decided.
func (q *Queue) Drop(e *Entry) {
	if e.state == waiting {
		q.Cancel(e)
	}
}

// Take returns the entries that are worth deciding at now, in order, at most most
// of them. Resolve or fail each before the next Take.
func (q *Queue) Take(now int64, most int) []*Entry {
	batch := q.ready
	if len(batch) > most {
		batch = slices.Clone(batch[:most])
		q.ready = slices.Delete(q.ready, 0, most)
	} else {
		q.ready = nil
	}
	for _, e := range batch {
		if a, ok := e.Op.(*bucket.Adjustment); ok && q.keys[a.Key] != nil {
			q.keys[a.Key].dirty = true
		}
	}
	for len(batch) < most && len(q.wakes) > 0 && q.wakes[0].wake <= now {
		k := q.wakes[0]
		batch = q.examine(now, k, batch, most)
		if len(k.waiting) == 0 {
			q.setWake(k, math.MaxInt64)
			delete(q.keys, k.key)
		}
	}
	return batch
}

// Next returns the earliest instant at which Take may return something, or
// [math.MaxInt64] if the queue is empty.
func (q *Queue) Next() int64 {
	if len(q.ready) > 0 {
		return 0
	}
	if len(q.wakes) > 0 {
		return q.wakes[0].wake
	}
	return math.MaxInt64
}

// Resolve answers e, which Take returned, with its result r at now. An ask that was
// refused and may still wait is queued again, at its position.
func (q *Queue) Resolve(now int64, e *Entry, r ledger.Result) {
	if e.ask == nil {
		q.applied(e.Op)
		q.answer(now, e, r)
		return
	}
	if r.Err == nil && !r.Grant.OK && e.state == deciding && !e.ask.Need.IsZero() && now < e.deadline {
		// An operation decided before it took the quota, or the pass served it while
		// the bucket was dirty. The next pass judges it by the bucket as it is now.
		e.state = waiting
		q.enqueue(now, e)
		q.setWake(e.key, now)
		return
	}
	if r.Err == nil && !r.Grant.OK {
		// The bucket's RetryAfter is the instant of a promise. A caller that does not
		// wait cannot use a promise: it needs the instant of the refill.
		r.Grant.RetryAfter = max(r.Grant.RetryAfter, q.view(e.ask).Refill(now, e.ask.Need, false))
	}
	if r.Grant.OK && e.state == withdrawn {
		q.Add(now, &bucket.Settlement{Key: e.ask.Key, ID: e.ask.ID}, func(Answer) {})
	}
	q.answer(now, e, r)
}

// Fail answers every entry of the queue, and those of batch, which Take returned,
// with err.
func (q *Queue) Fail(now int64, batch []*Entry, err error) {
	for _, e := range append(batch, q.ready...) {
		q.answer(now, e, ledger.Result{Err: err})
	}
	for _, k := range q.keys {
		for _, e := range k.waiting {
			q.answer(now, e, ledger.Result{Err: err})
		}
	}
	q.ready, q.wakes = nil, nil
	clear(q.keys)
}

// answer ends e with r, once its settlements are decided. A cancelled entry gets no
// answer.
func (q *Queue) answer(now int64, e *Entry, r ledger.Result) {
	cancelled := e.state == withdrawn || e.state == answered
	e.state = answered
	if cancelled {
		return
	}
	reply := func() {
		if e.done != nil && e.done.err != nil {
			r = ledger.Result{Err: e.done.err}
		}
		e.reply(Answer{Result: r, Waited: time.Duration(now - e.added)})
	}
	if e.done != nil && e.done.undecided > 0 {
		e.done.answer = reply
	} else {
		reply()
	}
}

// setWake schedules the next pass over k; [math.MaxInt64] means none.
func (q *Queue) setWake(k *keyQueue, at int64) {
	k.wake = at
	switch {
	case at == math.MaxInt64 && k.heap >= 0:
		heap.Remove(&q.wakes, k.heap)
	case at == math.MaxInt64:
	case k.heap < 0:
		heap.Push(&q.wakes, k)
	default:
		heap.Fix(&q.wakes, k.heap)
	}
}

// wakes is a heap of the keys' queues by the instant of their next pass.
type wakes []*keyQueue

func (w wakes) Len() int           { return len(w) }
func (w wakes) Less(i, j int) bool { return w[i].wake < w[j].wake }
func (w wakes) Swap(i, j int) {
	w[i], w[j] = w[j], w[i]
	w[i].heap, w[j].heap = i, j
}

func (w *wakes) Push(x any) {
	k := x.(*keyQueue)
	k.heap = len(*w)
	*w = append(*w, k)
}

func (w *wakes) Pop() any {
	old := *w
	k := old[len(old)-1]
	old[len(old)-1] = nil
	*w = old[:len(old)-1]
	k.heap = -1
	return k
}
