package redisstore

import (
	"slices"
	"sync"
)

// lines knows who waits in this process, key by key. They stand in line at the
// server; here they are told when something has happened to their key.
type lines struct {
	mu   sync.Mutex
	keys map[string][]*waiter
}

type waiter struct {
	woken chan struct{} // has room for one
}

func (l *lines) enter(key string) *waiter {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.keys == nil {
		l.keys = make(map[string][]*waiter)
	}
	w := &waiter{make(chan struct{}, 1)}
	l.keys[key] = append(l.keys[key], w)
	return w
}

// leave is for one who has been served, or has given up. It may be the next
// one's turn then.
func (l *lines) leave(key string, w *waiter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	line := l.keys[key]
	if i := slices.Index(line, w); i >= 0 {
		line = slices.Delete(line, i, i+1)
	}
	if len(line) == 0 {
		delete(l.keys, key)
		return
	}
	l.keys[key] = line
	line[0].wake()
}

// freed wakes the first who waits for key.
func (l *lines) freed(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if line := l.keys[key]; len(line) > 0 {
		line[0].wake()
	}
}

func (w *waiter) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}
