package waitqueue

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/choked/choked/bucket"
)

// Each row judges one entry in one state of a pass over a bucket of "10/s burst 20"
// with a level of 10, which two holders share. A promise reaches 250 ms ahead, so
// the room is 12. The last fields are the pass afterwards.
func TestPassDecisions(t *testing.T) {
	const forever = math.MaxInt64
	l := limits(t, "10/s burst 20", "")
	ms := int64(time.Millisecond)
	ask := func(need, want int64, maxWait time.Duration) *Entry {
		return &Entry{ask: &bucket.Ask{Key: "k", ID: id(1, 1), Limits: l, Need: requests(need), Want: requests(want), MaxWait: maxWait},
			deadline: int64(maxWait)}
	}
	for _, tt := range []struct {
		name    string
		before  int64 // taken by the entries before
		blocked bool
		dirty   bool
		entry   *Entry
		verdict verdict
		want    int64 // granted at most, when served

		beforeAfter              int64
		blockedAfter, dirtyAfter bool
		wake                     int64
	}{
		{"an ask that the bucket covers is served", 0, false, false, ask(2, 2, s), serve, 2, 2, false, false, forever},
		{"its want is cut to its share", 0, false, false, ask(2, 99, s), serve, 6, 6, false, false, forever},
		{"its need is not cut", 0, false, false, ask(8, 8, s), serve, 8, 8, false, false, forever},
		{"behind others it takes what they leave", 11, false, false, ask(1, 5, s), serve, 5, 12, false, false, forever},
		{"an ask that must wait blocks and wakes at its promise", 10, false, false, ask(4, 4, s), keep, 0, 14, true, false, 150 * ms},
		{"also if it is available just at its deadline", 10, false, false, ask(4, 4, 400*time.Millisecond), keep, 0, 14, true, false, 150 * ms},
		{"an ask that cannot be served in time is refused and takes nothing", 10, false, false, ask(4, 4, 399*time.Millisecond), refuse, 0, 10, false, false, forever},
		{"behind a blocked entry no ask is served, and it wakes at its deadline", 1, true, false, ask(1, 1, s), keep, 0, 2, true, false, 1000 * ms},
		{"nor one that may not wait", 1, true, false, ask(1, 1, 0), refuse, 0, 1, true, false, forever},
		{"an ask that may not wait is served if the bucket covers it", 0, false, false, ask(3, 3, 0), serve, 3, 3, false, false, forever},
		{"and refused if not", 10, false, false, ask(3, 3, 0), refuse, 0, 10, false, false, forever},
		{"an ask without a need gets what it wants", 0, false, false, ask(0, 3, 0), serve, 3, 3, false, false, forever},
		{"of a dirty bucket one ask is tried, and blocks", 12, false, true, ask(4, 4, s), serve, 4, 16, true, false, forever},
		{"and asks that may not wait, which do not", 12, false, true, ask(4, 4, 0), serve, 4, 12, false, true, forever},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := bucket.New(&l, 0)
			b.Adjust(0, &bucket.Adjustment{Charge: requests(10)})
			other := &Entry{ask: &bucket.Ask{ID: id(2, 1)}}
			p := newPass(0, b, &keyQueue{waiting: []*Entry{tt.entry, other}})
			p.before, p.blocked, p.dirty = requests(tt.before), tt.blocked, tt.dirty
			was := *p
			d := p.judge(tt.entry)
			assert.Equal(t, was, *p, "judge changes nothing")
			p.apply(d)
			assert.Equal(t, tt.verdict, d.verdict)
			if d.verdict == serve {
				assert.Equal(t, requests(tt.want), d.want)
			}
			assert.Equal(t, requests(tt.beforeAfter), p.before, "before")
			assert.Equal(t, tt.blockedAfter, p.blocked, "blocked")
			assert.Equal(t, tt.dirtyAfter, p.dirty, "dirty")
			assert.Equal(t, tt.wake, p.wake, "wake")
		})
	}
}
