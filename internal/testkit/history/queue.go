package history

import (
	"context"
	"sort"
	"sync"
	"time"

	"github.com/choked/choked"
)

// look is how often a worker looks at its line of waiting callers. More often
// would say more exactly when an admission may have been, but all of a machine's
// workers look, while they are being measured.
const look = 10 * time.Millisecond

// Queue tells since when a caller may have been admitted. The caller itself sees
// only that its wait has ended, at some time after it was decided; and that it
// asked, possibly seconds before. But the limiter serves a worker's callers in
// turn, so while too few have left the line it was not yet this caller's turn.
//
// It holds only while nobody leaves the line unserved and uncounted, as those
// do whose context ends. Safe for concurrent use.
type Queue struct {
	Stats func() choked.Stats // of the limiter

	mu   sync.Mutex
	seen []sight // by time
}

// sight is what one look at the line has shown: at that instant, or later, no
// more than left callers had left it.
type sight struct {
	at   int64 // of Now
	left int64
}

// kept bounds the sights kept. Older ones are of turns that are long over, or of
// which it is only said that they came after the ask.
const kept = 1 << 14

// Watch looks at the line until ctx ends.
func (q *Queue) Watch(ctx context.Context) {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			q.Join()
		}
	}
}

// Join looks at the line for a caller that is about to ask. Its turn is when as
// many as turn have left the line, and no earlier than the instant at.
func (q *Queue) Join() (at, turn int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at = Now() // before the look: what it shows was so then, or later
	s := q.Stats()
	left := s.Admitted + s.Failed + s.Refused + s.FailedOpen
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

// Since returns the last instant at which it was not yet the turn of a caller
// that joined at asked for that turn.
func (q *Queue) Since(turn, asked int64) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := sort.Search(len(q.seen), func(i int) bool { return q.seen[i].left > turn })
	if i == 0 {
		return asked
	}
	return max(asked, q.seen[i-1].at)
}
