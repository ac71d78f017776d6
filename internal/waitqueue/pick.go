package waitqueue

import (
	"cmp"
	"math"
	"slices"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// pick appends to batch, up to most entries in all, those in q whose turn it is
// at now, answers those who would wait in vain, and sets when to look again.
//
// Nobody overtakes: the first who cannot be served keeps all behind it waiting.
func (l *Queue) pick(now int64, q *queue, batch []*Entry, most int) []*Entry {
	if len(q.waiting) == 0 { // all have been cancelled
		l.setWake(q, math.MaxInt64)
		return batch
	}
	latest := q.latest()
	b := l.view(latest)
	if latest.Defined > b.Defined() && !latest.Limits.Equal(b.Limits()) {
		// Whose turn it is goes by the latest definition, so that has to hold first.
		l.setWake(q, math.MaxInt64) // until then
		return append(batch, define(latest))
	}
	r := round{now: now, bucket: b, unsure: q.unsure, wake: math.MaxInt64}
	r.room = r.bucket.Room(now)
	fair := shared(r.bucket, q)
	r.chunk = fair.chunk()
	r.share = fair.share(r.room)
	q.unsure = false
	kept := q.waiting[:0]
	for i, e := range q.waiting {
		if len(batch) >= most {
			kept = append(kept, q.waiting[i:]...)
			r.wake = now
			break
		}
		verdict, want := r.judge(e)
		switch verdict {
		case serve:
			op := *e.ask
			op.Want = want
			e.Op, e.state = &op, taken
			batch = append(batch, e)
		case refuse:
			l.answer(now, e, r.refusal(e.ask))
		case keep:
			kept = append(kept, e)
			r.wake = min(r.wake, e.deadline)
		}
	}
	clear(q.waiting[len(kept):])
	q.waiting = kept
	l.setWake(q, r.wake)
	return batch
}

// latest is the ask in q whose limits were defined last.
func (q *queue) latest() *bucket.Ask {
	return slices.MaxFunc(q.waiting, func(e, f *Entry) int { return cmp.Compare(e.ask.Defined, f.ask.Defined) }).ask
}

// define is an operation that does nothing but to bring a's definition of the
// limits. It is for nobody to hear of.
func define(a *bucket.Ask) *Entry {
	op := &bucket.Adjustment{Key: a.Key, Limits: a.Limits, Defined: a.Defined}
	return &Entry{Op: op, reply: func(Answer) {}, state: taken}
}

type verdict uint8

const (
	keep verdict = iota
	serve
	refuse
)

// round is one look along a queue.
type round struct {
	now     int64
	bucket  *bucket.Bucket
	room    bucket.Cost // at the start
	share   bucket.Cost // a holder's part of room: the same for all, whoever comes first
	chunk   bucket.Cost
	unsure  bool        // the bucket is about to hold something else than it shows
	before  bucket.Cost // for those before: what they are granted in this round, or wait for
	blocked bool        // someone before waits
	wake    int64
}

// judge says what becomes of e, the next in the queue, and when it is served,
// the most that it may be granted.
func (r *round) judge(e *Entry) (verdict, bucket.Cost) {
	a := e.ask
	if r.bucket.Holds(a.ID) || r.bucket.Limits().Fits(a.Need) != nil {
		return serve, a.Want.Max(a.Need) // granted before, or hopeless: the bucket knows
	}
	room := r.room.Sub(r.before)
	want := bucket.Share(a.Need, a.Want.Max(a.Need), r.share).Max(a.Need)
	if a.Need.IsZero() || r.now >= e.deadline { // it may not wait, or not any longer
		if r.blocked || want.IsZero() || !room.Covers(a.Need) && !r.unsure {
			return refuse, want
		}
		r.before = r.before.Add(want.Min(room).Max(bucket.Cost{}))
		return serve, want
	}
	need := r.before.Add(a.Need)
	if !r.unsure && int64(r.bucket.Refill(r.now, need, false)) > e.deadline-r.now {
		return refuse, want
	}
	if !r.blocked && !r.unsure {
		r.await(need, r.before.Add(a.Want.Min(r.chunk).Max(a.Need)), room.Covers(a.Need))
	}
	if r.blocked {
		r.before = need
		return keep, want
	}
	// As long as the bucket is unsure only one is tried, on the chance: of more
	// it might refuse one and serve the next.
	r.blocked, r.unsure = r.unsure, false
	r.before = r.before.Add(want.Min(room).Max(a.Need))
	return serve, want
}

// await blocks the round until need can be promised, and as long as refill
// alone brings it, until worth can: a grant that is worth an exchange. Waiting
// for that costs nobody anything, for at least half the horizon is promised
// ahead meanwhile.
func (r *round) await(need, worth bucket.Cost, now bool) {
	wait := r.bucket.Refill(r.now, worth, true)
	if !now {
		wait = max(wait, r.bucket.Wait(r.now, need), 1)
	}
	if wait > 0 {
		r.blocked = true
		r.wake = min(r.wake, r.now+int64(wait))
	}
}

// refusal is the answer to one who cannot be served in time.
func (r *round) refusal(a *bucket.Ask) ledger.Result {
	need := a.Need
	if need.IsZero() {
		need = a.Want.Min(bucket.Cost{Requests: 1, Tokens: 1})
	}
	need = need.Add(r.before)
	return ledger.Result{Grant: bucket.Grant{
		RetryAfter: max(r.bucket.Refill(r.now, need, false), r.bucket.Wait(r.now, need), 1),
		Level:      r.bucket.Level(r.now),
		At:         r.now,
	}}
}

// fairness is how much one of several holders may take of a bucket at a time.
type fairness struct {
	limits  bucket.Limits
	holders int64
}

// shared counts who shares b: those who hold leases and those in line.
func shared(b *bucket.Bucket, q *queue) fairness {
	seen := make(map[uint64]struct{}, len(q.waiting))
	for _, e := range q.waiting {
		seen[e.ask.ID.Holder] = struct{}{}
	}
	b.Holders(func(holder uint64) { seen[holder] = struct{}{} })
	return fairness{b.Limits(), int64(len(seen))}
}

// chunk is the least grant that is worth an exchange: a holder's part of half
// the horizon.
func (f fairness) chunk() bucket.Cost {
	part := func(rs bucket.Rates) int64 {
		n := int64(bucket.MaxUnits)
		for _, r := range rs {
			n = min(n, r.In(r.Horizon()/2)/f.holders)
		}
		return n
	}
	return bucket.Cost{Requests: part(f.limits.Requests), Tokens: part(f.limits.Tokens)}
}

// share is a holder's part of room, at least a chunk.
func (f fairness) share(room bucket.Cost) bucket.Cost {
	return bucket.Cost{Requests: room.Requests / f.holders, Tokens: room.Tokens / f.holders}.Max(f.chunk())
}
