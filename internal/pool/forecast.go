package pool

import (
	"math"
	"time"

	"github.com/choked/choked/bucket"
)

// forecast is a worker's knowledge of a bucket between two exchanges: the level that
// came with the last answer, and the refusal that is cached for callers that do not
// wait. It is used to refuse callers early, never to admit a call.
type forecast struct {
	known   bool // an answer has arrived
	level   bucket.Cost
	levelAt int64 // when the answer with level arrived
	times   storeTimes
	refusal refusal
}

// refusal is the store's last refusal of a caller that does not wait.
type refusal struct {
	cost   bucket.Cost
	until  int64 // when cost may be available
	recent int64 // until then the store is not asked again
}

// observe notes the level and the time that came with an answer.
func (f *forecast) observe(now int64, l bucket.Lease) {
	f.known, f.level, f.levelAt = true, l.Level, now
	f.times = f.times.observe(now, l.At)
}

// observeRefusal notes a refusal of cost to a caller that does not wait.
func (f *forecast) observeRefusal(now int64, cost bucket.Cost, retryAfter time.Duration) {
	until := now + int64(retryAfter)
	f.refusal = refusal{cost: cost, until: until, recent: min(until, now+int64(refusalTTL(retryAfter)))}
}

// forgetRefusal makes the next caller that does not wait ask the store again.
func (f *forecast) forgetRefusal() { f.refusal = refusal{} }

// refusalTTL returns how long a cached refusal is trusted before the store is
// asked again, since other workers may return quota meanwhile: a sixteenth of its
// RetryAfter, from hold to one second. Most keys of many are refused for long, and
// to ask for each of them ten times a second would cost more than to be a little
// late.
func refusalTTL(retryAfter time.Duration) time.Duration {
	return max(hold, min(retryAfter/16, time.Second))
}

// refused returns how long cost is still refused by the cached refusal, or zero.
// ready is when the refill brings it, as far as is known.
func (f *forecast) refused(now int64, cost bucket.Cost, ready int64) time.Duration {
	if now < f.refusal.recent && now < f.refusal.until && cost.Covers(f.refusal.cost) {
		return time.Duration(max(f.refusal.until, ready) - now)
	}
	return 0
}

// observedSince reports whether the level is known as of then, or of shortly before.
func (f *forecast) observedSince(then int64) bool {
	return f.known && f.levelAt >= then-int64(hold)
}

// levelNow returns the last level and the refill since, at most the burst. It is zero
// if no level is known, and in units that are not limited.
func (f *forecast) levelNow(now int64, limits *bucket.Limits) bucket.Cost {
	if !f.known {
		return bucket.Cost{}
	}
	return limits.Limited(f.level.Add(limits.In(time.Duration(now - f.levelAt))).Min(limits.Burst()))
}

// refilledAt returns when the refill alone brings need by the last level, at the
// earliest, and the unit that takes longest. If no level is known, the bucket counts as
// empty now. When a window returns its units, only the store knows: it may be now.
func (f *forecast) refilledAt(now int64, limits *bucket.Limits, need bucket.Cost) (at int64, slowest bucket.Unit) {
	levelAt := f.levelAt
	if !f.known {
		levelAt = now
	}
	at = now
	for len(limits.Of(slowest)) == 0 { // limits have at least one rate
		slowest++
	}
	for u := range bucket.NumUnits {
		wait := int64(math.MaxInt64)
		for _, r := range limits.Of(u) {
			if r.Kind != bucket.TokenBucket {
				wait = 0
				break
			}
			level := min(f.level.Of(u)+r.In(time.Duration(now-levelAt)), r.Burst)
			wait = min(wait, int64(r.Span(need.Of(u)-level)))
		}
		if wait < math.MaxInt64 && now+wait > at {
			at, slowest = now+wait, u
		}
	}
	return at, slowest
}

// tooLate is the outcome for a caller whose wait would last for after. If after is
// zero, it is as long as the refill takes by the last level.
func (p *Pool) tooLate(now int64, cost bucket.Cost, after time.Duration) error {
	at, unit := p.refilledAt(now, cost)
	if after == 0 {
		after = time.Duration(at - now)
	}
	return &Refusal{Unit: unit, Level: p.forecast.levelNow(now, &p.limits).Of(unit), RetryAfter: after, Err: p.asks.failing}
}

// knownRefusal returns the refusal of a caller that does not wait, as far as is
// known here. If its RetryAfter is zero, only the store can decide.
func (p *Pool) knownRefusal(now int64, cost bucket.Cost) Refusal {
	sum := p.queue.sum.Add(cost)
	ready, unit := p.refilledAt(now, sum)
	r := Refusal{Unit: unit}
	if last := p.queue.last; last != nil && !last.atOnce { // it must not overtake
		r.RetryAfter = max(time.Duration(ready-now), time.Millisecond)
	} else if r.RetryAfter = p.untilAvailable(now, sum); r.RetryAfter == 0 {
		r.RetryAfter = p.forecast.refused(now, cost, ready)
	}
	return r
}

// untilAvailable returns how long until the leases cover cost, or zero if they
// never will.
func (p *Pool) untilAvailable(now int64, cost bucket.Cost) time.Duration {
	if !p.leases.left.Covers(cost) {
		return 0
	}
	return time.Duration(max(p.leases.whenAvailable(now, cost)-now, 0))
}

// refuseHopeless refuses the waiters whose deadline passes before the level just
// observed can serve them. The first waiter is for the store to judge.
func (p *Pool) refuseHopeless(now int64) {
	if p.queue.first == nil {
		return
	}
	sum := p.queue.first.cost
	for w := p.queue.first.next; w != nil; {
		next := w.next
		if at, unit := p.refilledAt(now, sum.Add(w.cost)); at > w.deadline {
			p.refuse(w, &Refusal{Unit: unit, Level: p.forecast.levelNow(now, &p.limits).Of(unit), RetryAfter: time.Duration(at - now)})
		} else {
			sum = sum.Add(w.cost)
		}
		w = next
	}
}

// earliest estimates when a new caller could be admitted, given the waiters ahead
// and the last level. A level from before the outstanding ask was sent is
// ignored: quota may have been returned since.
func (p *Pool) earliest(now int64, cost bucket.Cost) int64 {
	sum := p.queue.sum.Add(cost)
	switch {
	case p.leases.left.Covers(sum):
		return p.leases.whenAvailable(now, sum)
	case p.queue.len == 0 || p.asks.out == nil || !p.forecast.observedSince(p.asks.out.sent):
		return now // the store knows
	}
	at, _ := p.refilledAt(now, sum)
	return at
}

// refilledAt returns when the leases and the refill together bring sum, and the
// unit that takes longest.
func (p *Pool) refilledAt(now int64, sum bucket.Cost) (at int64, slowest bucket.Unit) {
	return p.forecast.refilledAt(now, &p.limits, sum.Sub(p.leases.left))
}
