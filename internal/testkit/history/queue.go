package history

import (
	"context"
	"sort"
	"sync"
	"time"

	"github.com/choked/choked"
)

// pollEvery is how often a worker observes its queue of waiting callers. A shorter
// interval would narrow the time of an admission further, but all workers of a machine
// poll while they are being measured.
const pollEvery = 10 * time.Millisecond

// Queue estimates since when a caller may have been admitted. A caller sees only when
// it asked, possibly seconds before its admission, and when its wait ended, some time
// after. But the limiter serves a worker's callers in order: a caller is not admitted
// before all callers ahead of it have left the queue.
//
// The estimate requires that every caller that leaves the queue is counted by the
// limiter's Stats. Callers whose context ends are not. Safe for concurrent use.
type Queue struct {
	Stats func() choked.Stats // of the limiter

	mu   sync.Mutex
	seen []observation // by time
}

// observation says that at the instant at, no more than left callers had left the
// queue.
type observation struct {
	at   int64 // of Now
	left int64
}

// kept bounds the observations kept. Older ones only matter to callers that were
// admitted long ago.
const kept = 1 << 14

// Watch observes the queue until ctx ends.
func (q *Queue) Watch(ctx context.Context) {
	tick := time.NewTicker(pollEvery)
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

// Join observes the queue for a caller that is about to ask, and returns the instant
// and the caller's position: it is admitted no earlier than at, and after more than
// position callers have left the queue.
func (q *Queue) Join() (at, position int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at = Now() // before Stats, so that no more callers had left at this instant
	s := q.Stats()
	left := s.Admitted + s.Failed + s.Refused + s.FailedOpen
	if n := len(q.seen); n > 0 && q.seen[n-1].left >= left {
		q.seen[n-1].at = at
	} else {
		if n == kept {
			q.seen = append(q.seen[:0], q.seen[n/2:]...)
		}
		q.seen = append(q.seen, observation{at, left})
	}
	return at, left + int64(s.Waiting)
}

// Since returns the last instant at which a caller that joined at asked, and got
// position, was certainly still waiting.
func (q *Queue) Since(position, asked int64) int64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	i := sort.Search(len(q.seen), func(i int) bool { return q.seen[i].left > position })
	if i == 0 {
		return asked
	}
	return max(asked, q.seen[i-1].at)
}
