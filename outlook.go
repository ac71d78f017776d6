package choked

import (
	"math"
	"time"

	"github.com/choked/choked/bucket"
)

// What a pool knows of its bucket without asking: the level that came with the
// last answer, and what the refill has brought since. It turns callers away who
// would wait in vain. It admits nobody.

// refused is what the store last refused to a caller who would not wait.
type refused struct {
	cost   Cost
	until  int64 // it may be had
	recent int64 // until then it is not asked again
}

// stale is after how long a refusal that told to stay away for so long is doubted:
// others may have given back what they had. Of many keys most are refused for long,
// and to ask for each ten times a second would cost more than to be a little late.
func stale(retryAfter time.Duration) time.Duration {
	return max(hold, min(retryAfter/16, time.Second))
}

// hear notes the level and the time that came with an answer.
func (p *pool) hear(now int64, l Lease) {
	p.heard, p.level, p.levelAt = true, l.Level, now
	p.instants = p.instants.hear(now, l.At)
}

// heardSince reports whether the level is known as of then, or a little before.
func (p *pool) heardSince(then int64) bool { return p.heard && p.levelAt >= then-int64(hold) }

// later is how long a caller who does not wait has to stay away, as far as is
// known here. Zero: the store has to be asked.
func (p *pool) later(now int64, cost Cost) time.Duration {
	sum := p.line.sum.Add(cost)
	if p.line.last != nil && !p.line.last.atOnce { // it must not overtake
		return max(time.Duration(p.refilled(now, sum)-now), time.Millisecond)
	}
	if after := p.unripe(now, sum); after > 0 {
		return after
	}
	if now < p.refusal.recent && now < p.refusal.until && cost.Covers(p.refusal.cost) {
		return time.Duration(max(p.refusal.until, p.refilled(now, sum)) - now)
	}
	return 0
}

// unripe is how long what is in hand has to ripen before it covers cost. Zero: it
// never will, or it is over and about to go back.
func (p *pool) unripe(now int64, cost Cost) time.Duration {
	if !p.hand.left.Covers(cost) {
		return 0
	}
	return time.Duration(max(p.hand.ripens(now, cost)-now, 0))
}

// hurry turns away those in line who, by the level just heard, wait in vain.
// The first is for the store to judge.
func (p *pool) hurry(now int64) {
	if p.line.first == nil {
		return
	}
	sum := p.line.first.cost
	for w := p.line.first.next; w != nil; {
		next := w.next
		if at := p.refilled(now, sum.Add(w.cost)); at > w.deadline {
			p.refuse(w, &refusal{time.Duration(at - now)})
		} else {
			sum = sum.Add(w.cost)
		}
		w = next
	}
}

// earliest is when the caller now coming could be admitted, as far as is known:
// those before it and what the store said last leave it no sooner. What it said
// before it was asked for the first of them is too old: others, or this worker, may
// have given quota back since.
func (p *pool) earliest(now int64, cost Cost) int64 {
	sum := p.line.sum.Add(cost)
	switch {
	case p.hand.left.Covers(sum):
		return p.hand.ripens(now, sum)
	case p.line.len == 0 || p.ask == nil || !p.heardSince(p.ask.sent):
		return now // the store knows
	}
	return p.refilled(now, sum)
}

// refilled is when sum will be there by the level last heard; if none was, by
// an empty bucket's.
func (p *pool) refilled(now int64, sum Cost) int64 {
	need := sum.Sub(p.hand.left)
	level, then, at := p.level, p.levelAt, now
	if !p.heard {
		then = now
	}
	for u := range bucket.Tokens + 1 {
		least := int64(math.MaxInt64)
		for _, r := range p.limits.Of(u) {
			there := min(level.Of(u)+r.In(time.Duration(now-then)), r.Burst)
			least = min(least, int64(r.Span(need.Of(u)-there)))
		}
		if least < math.MaxInt64 {
			at = max(at, now+least)
		}
	}
	return at
}
