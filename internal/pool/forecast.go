package pool

import (
	"math"
	"time"

	"github.com/choked/choked/bucket"
)

// forecast is what a worker knows of a bucket without asking the store: the level
// that came with the last answer, and the refusal that callers who do not wait
// still get. It refuses callers who would wait in vain. It admits nobody.
type forecast struct {
	known   bool // an answer has arrived
	level   bucket.Cost
	levelAt int64 // when the answer with level arrived
	times   storeTimes
	refusal refusal
}

// refusal is the last one that the store gave to a caller who does not wait.
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

// observeRefusal notes a refusal of cost to a caller who does not wait.
func (f *forecast) observeRefusal(now int64, cost bucket.Cost, retryAfter time.Duration) {
	until := now + int64(retryAfter)
	f.refusal = refusal{cost: cost, until: until, recent: min(until, now+int64(refusalTTL(retryAfter)))}
}

// forgetRefusal makes the next caller who does not wait ask the store again.
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

// refilledAt returns when the refill alone brings need by the last level, and the
// unit that takes longest. If no level is known, the bucket counts as empty now.
func (f *forecast) refilledAt(now int64, limits *bucket.Limits, need bucket.Cost) (at int64, slowest bucket.Unit) {
	levelAt := f.levelAt
	if !f.known {
		levelAt = now
	}
	at = now
	if len(limits.Requests) == 0 {
		slowest = bucket.Tokens
	}
	for u := range bucket.Tokens + 1 {
		wait := int64(math.MaxInt64)
		for _, r := range limits.Of(u) {
			level := min(f.level.Of(u)+r.In(time.Duration(now-levelAt)), r.Burst)
			wait = min(wait, int64(r.Span(need.Of(u)-level)))
		}
		if wait < math.MaxInt64 && now+wait > at {
			at, slowest = now+wait, u
		}
	}
	return at, slowest
}
