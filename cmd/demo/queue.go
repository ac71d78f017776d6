package main

import (
	"context"
	"sort"
	"sync"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/internal/history"
)

// look is how often a worker looks at its line of waiting callers.
const look = 5 * time.Millisecond

// queue tells since when a caller may have been admitted. The caller itself sees
// only that its wait has ended, at some time after it was decided; and that it
// asked, possibly seconds before. But the limiter serves a worker's callers in
// turn, so while too few have left the line it was not yet this caller's turn.
type queue struct {
	stats func() choked.Stats

	mu   sync.Mutex
	seen []sight // by time
}

// sight is what one look at the line has shown: at that instant, or later, no
// more than left callers had left it.
type sight struct {
	at   int64 // of history.Now
	left int64
}

// kept bounds the sights kept. Older ones are of turns that are long over, or of
// which it is only said that they came after the ask.
const kept = 1 << 14

// watch looks at the line until ctx ends.
func (q *queue) watch(ctx context.Context) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			q.join()
		}
	}
}

// join looks at the line for a caller that is about to ask. Its turn is when as
// many as turn have left the line, and no earlier than the instant at.
func (q *queue) join() (at, turn int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at = history.Now() // before the look: what it shows was so then, or later
	s := q.stats()
	left := s.Admitted + s.Failed + s.Refused + s.Opened
	if n := len(q.seen); n > 0 && q.seen[n-1].left >= left {
		q.seen[n-1].at = at
	} else {
		if n == kept {
			q.seen = append(q.seen[:0], q.seen[n/2:]...)
		}
		q.seen = append(q.seen, sight{at, left})
	}
	return at, left + int64(s.Waiting)
}

// since returns the last instant at which it was not yet the turn of a caller
// that joined at asked for that turn.
func (q *queue) since(turn, asked int64) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := sort.Search(len(q.seen), func(i int) bool { return q.seen[i].left > turn })
	if i == 0 {
		return asked
	}
	return max(asked, q.seen[i-1].at)
}
