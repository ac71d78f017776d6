package redisstore

import (
	"slices"
	"sync"
)

// localQueues holds the asks of this process that wait in Redis, in order of
// arrival for each key. The queue itself is in Redis; localQueues wakes an ask
// early when an operation of this process may have freed quota.
type localQueues struct {
	mu   sync.Mutex
	keys map[string][]*waiter
}

type waiter struct {
	woken chan struct{} // buffered, capacity 1
}

// add appends a waiter to the queue of key.
func (l *localQueues) add(key string) *waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys == nil {
		l.keys = make(map[string][]*waiter)
	}
	w := &waiter{make(chan struct{}, 1)}
	l.keys[key] = append(l.keys[key], w)
	return w
}

// remove takes w out of the queue of key and wakes the waiter that is first now.
func (l *localQueues) remove(key string, w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	queue := l.keys[key]
	if i := slices.Index(queue, w); i >= 0 {
		queue = slices.Delete(queue, i, i+1)
	}
	if len(queue) == 0 {
		delete(l.keys, key)
		return
	}
	l.keys[key] = queue
	queue[0].wake()
}

// wakeFirst wakes the first waiter of key.
func (l *localQueues) wakeFirst(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if queue := l.keys[key]; len(queue) > 0 {
		queue[0].wake()
	}
}

func (w *waiter) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}
