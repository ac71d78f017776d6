package choked

// waiter is a caller in line.
type waiter struct {
	cost     Cost
	deadline int64 // by the worker's clock
	atOnce   bool  // takes the first answer, does not wait for quota
	failOpen bool
	opened   bool       // admitted without quota, by failOpen
	spent    int64      // when it was admitted
	admitted chan error // nil: it may go

	prev, next *waiter
	queued     bool
}

// waiters is a first-in, first-out line that any member can leave.
type waiters struct {
	first, last *waiter
	len         int
	sum         Cost
}

func (l *waiters) push(w *waiter) {
	if w.prev = l.last; w.prev != nil {
		w.prev.next = w
	} else {
		l.first = w
	}
	l.last, w.queued = w, true
	l.len++
	l.sum = l.sum.Add(w.cost)
}

// remove takes w out of the line and reports whether it was in it.
func (l *waiters) remove(w *waiter) bool {
	if !w.queued {
		return false
	}
	if w.prev != nil {
		w.prev.next = w.next
	} else {
		l.first = w.next
	}
	if w.next != nil {
		w.next.prev = w.prev
	} else {
		l.last = w.prev
	}
	w.prev, w.next, w.queued = nil, nil, false
	l.len--
	l.sum = l.sum.Sub(w.cost)
	return true
}

// admit takes w out of the line: its cost is spent at now, or it passes without.
func (l *waiters) admit(w *waiter, now int64) {
	w.spent = now
	l.release(w, nil)
}

// release takes w out of the line and tells it err.
func (l *waiters) release(w *waiter, err error) {
	if l.remove(w) {
		w.admitted <- err
	}
}
