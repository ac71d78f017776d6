package pool

import (
	"sync/atomic"

	"github.com/choked/choked/bucket"
)

// waiter is a caller in the queue.
type waiter struct {
	cost     bucket.Cost
	deadline int64        // by the worker's clock
	atOnce   bool         // takes the store's first answer and does not wait for quota
	failOpen bool         // is admitted without quota while the store cannot decide
	closed   *atomic.Bool // of the limiter through which it came

	admission Admission
	done      chan error // receives the outcome once; nil error: admitted

	prev, next *waiter
	queued     bool
}

// waiters is a first-in, first-out queue that any waiter can leave.
type waiters struct {
	first, last *waiter
	len         int
	sum         bucket.Cost // of all their costs
}

func (q *waiters) push(w *waiter) {
	if w.prev = q.last; w.prev != nil {
		w.prev.next = w
	} else {
		q.first = w
	}
	q.last, w.queued = w, true
	q.len++
	q.sum = q.sum.Add(w.cost)
}

// remove takes w out of the queue and reports whether it was in it.
func (q *waiters) remove(w *waiter) bool {
	if !w.queued {
		return false
	}
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		q.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		q.last = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	q.len--
	q.sum = q.sum.Sub(w.cost)
	return true
}

// admit takes w out of the queue and tells its caller that it is admitted.
func (q *waiters) admit(w *waiter, a Admission) {
	w.admission = a
	q.release(w, nil)
}

// release takes w out of the queue and gives its caller the outcome err.
func (q *waiters) release(w *waiter, err error) {
	if q.remove(w) {
		w.done <- err
	}
}
