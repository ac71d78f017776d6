package cluster

import "sync"

// tasks are the goroutines of a node. The zero value has none.
type tasks struct {
	mu      sync.Mutex
	closed  bool
	running sync.WaitGroup
}

// spawn runs f on a goroutine that wait waits for. It returns false, and does not
// run f, after close.
func (t *tasks) spawn(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.running.Go(f)
	return true
}

// close makes spawn refuse: no task begins from now on.
func (t *tasks) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

// wait returns when all tasks have ended.
func (t *tasks) wait() { t.running.Wait() }
