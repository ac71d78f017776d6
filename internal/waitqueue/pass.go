package waitqueue

import (
	"cmp"
	"math"
	"slices"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// examine makes a pass over the entries of k, in order, at now. Entries that can be
// served are appended to batch, up to most in all; entries that cannot be served
// before their deadline are refused; and the next pass is scheduled.
//
// No entry overtakes: the first that has to wait keeps all behind it waiting.
func (q *Queue) examine(now int64, k *keyQueue, batch []*Entry, most int) []*Entry {
	if len(k.waiting) == 0 { // all have been cancelled
		q.setWake(k, math.MaxInt64)
		return batch
	}
	latest := k.latest()
	b := q.view(latest)
	if latest.Defined > b.Defined() && !latest.Limits.Equal(b.Limits()) {
		// The entries are judged by the latest definition, which is applied first.
		q.setWake(k, math.MaxInt64) // until then
		return append(batch, define(latest))
	}
	p := newPass(now, b, k)
	k.dirty = false
	kept := k.waiting[:0]
	for i, e := range k.waiting {
		if len(batch) >= most {
			kept = append(kept, k.waiting[i:]...)
			p.wake = now
			break
		}
		d := p.judge(e)
		switch d.verdict {
		case serve:
			op := *e.ask
			op.Want = d.want
			e.Op, e.state = &op, deciding
			batch = append(batch, e)
		case refuse:
			q.answer(now, e, p.refusal(e.ask))
		case keep:
			kept = append(kept, e)
		}
		p.apply(d)
	}
	clear(k.waiting[len(kept):])
	k.waiting = kept
	q.setWake(k, p.wake)
	return batch
}

// latest returns the ask in k whose limits were defined last.
func (k *keyQueue) latest() *bucket.Ask {
	return slices.MaxFunc(k.waiting, func(e, f *Entry) int { return cmp.Compare(e.ask.Defined, f.ask.Defined) }).ask
}

// define returns an entry that only applies a's definition of the limits, and whose
// answer is ignored.
func define(a *bucket.Ask) *Entry {
	op := &bucket.Adjustment{Key: a.Key, Limits: a.Limits, Defined: a.Defined}
	return &Entry{Op: op, reply: func(Answer) {}, state: deciding}
}

// pass is the state of one pass over the queue of a key. judge reads it and apply
// changes it, after each entry.
type pass struct {
	now    int64
	bucket *bucket.Bucket // as it is when the pass begins
	room   bucket.Cost    // largest grant that bucket could promise
	share  bucket.Cost    // most that one entry is granted beyond its need; the same for all, whatever their order
	chunk  bucket.Cost    // smallest grant that is worth an exchange, as long as refill alone brings it

	// before is the quota that the entries examined so far take from the later ones:
	// the grants of the served, and the needs of the kept. Refused entries take none.
	// It never shrinks. room less before is the room of the next entry.
	before bucket.Cost

	// blocked means that an entry before has to wait, so that no entry behind it is
	// served. Once set, it stays.
	blocked bool

	// dirty means that the bucket may have more or less than room shows, because an
	// operation ahead of the pass is not applied yet. An entry is then served though
	// room may not cover it. Of the entries that may wait only one is, and it sets
	// blocked: of two, the table might refuse the first and grant the second. dirty
	// and blocked are never both set.
	dirty bool

	// wake is the earliest instant at which an entry kept so far can be served, or
	// is refused by its deadline.
	wake int64
}

func newPass(now int64, b *bucket.Bucket, k *keyQueue) *pass {
	p := &pass{now: now, bucket: b, room: b.Room(now), dirty: k.dirty, wake: math.MaxInt64}
	fair := fairnessOf(b, k)
	p.chunk = fair.chunk()
	p.share = fair.part(p.room).Max(p.chunk)
	return p
}

type verdict uint8

const (
	keep verdict = iota
	serve
	refuse
)

// decision is what becomes of one entry, and how that changes the pass.
type decision struct {
	verdict verdict
	want    bucket.Cost // most to grant, when served
	takes   bucket.Cost // quota that later entries cannot have
	blocks  bool        // later entries must wait
	wake    int64       // earliest instant at which a kept entry can be served or is refused
}

// apply changes the pass as d says.
func (p *pass) apply(d decision) {
	p.before = p.before.Add(d.takes)
	if d.blocks {
		p.blocked, p.dirty = true, false
	}
	if d.verdict == keep {
		p.wake = min(p.wake, d.wake)
	}
}

// judge decides e, the next entry. It does not change the pass.
func (p *pass) judge(e *Entry) decision {
	a := e.ask
	switch {
	case p.bucket.Holds(a.ID) || p.bucket.Limits().Fits(a.Need) != nil:
		// Granted before, or more than the burst: the bucket answers either at once.
		return decision{verdict: serve, want: a.Want.Max(a.Need)}
	case a.Need.IsZero() || p.now >= e.deadline:
		return p.judgeAtOnce(a)
	}
	return p.judgeWaiting(e)
}

// judgeAtOnce decides an ask that may not wait, or no longer.
func (p *pass) judgeAtOnce(a *bucket.Ask) decision {
	room, want := p.roomFor(a), p.want(a)
	if p.blocked || want.IsZero() || !room.Covers(a.Need) && !p.dirty {
		return decision{verdict: refuse}
	}
	return decision{verdict: serve, want: want, takes: want.Min(room).Max(bucket.Cost{})}
}

// judgeWaiting decides an ask that may wait until its deadline.
func (p *pass) judgeWaiting(e *Entry) decision {
	a := e.ask
	need := p.before.Add(a.Need)
	if !p.dirty && int64(p.bucket.Refill(p.now, need, false)) > e.deadline-p.now {
		return decision{verdict: refuse}
	}
	kept := decision{verdict: keep, takes: a.Need, blocks: true, wake: e.deadline}
	if p.blocked {
		return kept
	}
	room := p.roomFor(a)
	if !p.dirty {
		worth := p.before.Add(a.Want.Min(p.chunk).Max(a.Need))
		if wait := p.wait(need, worth, room.Covers(a.Need)); wait > 0 {
			kept.wake = min(kept.wake, p.now+int64(wait))
			return kept
		}
	}
	want := p.want(a)
	return decision{verdict: serve, want: want, takes: want.Min(room).Max(a.Need), blocks: p.dirty}
}

// roomFor returns the room for a, which the entries before it leave. A pace lets a cost
// above its burst go when it is full, if it is the first.
func (p *pass) roomFor(a *bucket.Ask) bucket.Cost {
	if p.before.IsZero() && !p.room.Covers(a.Need) {
		return p.bucket.RoomFor(p.now, a.Need)
	}
	return p.room.Sub(p.before)
}

// want returns the most that a is granted: its part of the share, at least its need.
func (p *pass) want(a *bucket.Ask) bucket.Cost {
	return bucket.Share(a.Need, a.Want.Max(a.Need), p.share).Max(a.Need)
}

// wait returns how long the next entry waits. need and worth include the quota that
// the entries before take. The entry waits until need can be promised. As long as
// refill alone brings it, it waits for worth, a grant that is worth an exchange:
// that delays no caller, since at least half the horizon is promised ahead
// meanwhile. fits says that need can be promised now.
func (p *pass) wait(need, worth bucket.Cost, fits bool) time.Duration {
	wait := p.bucket.Refill(p.now, worth, true)
	if !fits {
		wait = max(wait, p.bucket.Wait(p.now, need), 1)
	}
	return wait
}

// refusal returns the answer to an ask that cannot be served in time. RetryAfter
// covers the entries before it.
func (p *pass) refusal(a *bucket.Ask) ledger.Result {
	need := a.Need
	if need.IsZero() {
		need = a.Want.Min(bucket.Each(1))
	}
	need = need.Add(p.before)
	return ledger.Result{Grant: bucket.Grant{
		RetryAfter: max(p.bucket.Refill(p.now, need, false), p.bucket.Wait(p.now, need), 1),
		Level:      p.bucket.Level(p.now),
		At:         p.now,
	}}
}

// fairness says how much one of several holders may take of a bucket at a time.
type fairness struct {
	limits  bucket.Limits
	holders int64
}

// fairnessOf counts the holders that share b: those with a lease and those in k.
func fairnessOf(b *bucket.Bucket, k *keyQueue) fairness {
	seen := make(map[uint64]struct{}, len(k.waiting))
	for _, e := range k.waiting {
		seen[e.ask.ID.Holder] = struct{}{}
	}
	b.Holders(func(holder uint64) { seen[holder] = struct{}{} })
	return fairness{b.Limits(), int64(len(seen))}
}

// chunk returns the smallest grant that is worth an exchange: a holder's part of
// the refill of half the horizon. Of a unit without limits it is the largest cost.
func (f fairness) chunk() bucket.Cost {
	c := bucket.Each(bucket.MaxUnits)
	for u := range bucket.NumUnits {
		for _, r := range f.limits.Of(u) {
			c = c.With(u, min(c.Of(u), r.In(r.Horizon()/2)/f.holders))
		}
	}
	return c
}

// part returns a holder's part of room, in the units that are limited.
func (f fairness) part(room bucket.Cost) (c bucket.Cost) {
	for u := range bucket.NumUnits {
		if len(f.limits.Of(u)) > 0 {
			c = c.With(u, room.Of(u)/f.holders)
		}
	}
	return c
}
