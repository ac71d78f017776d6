package pool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/choked/choked/bucket"
)

// asks is the state of asking the store for one key. At most one ask waits for
// quota at a time; beside it one probe may ask for the level.
type asks struct {
	out        *ask  // under way; nil: none
	probing    bool  // a probe is under way
	pauseUntil int64 // until then no ask is sent ahead of demand
	cooling    int   // cooldowns being sent; no ask is sent meanwhile
	failing    error // the store's last error, if it wraps ErrUnavailable; nil: the store decides
}

// ask is an ask under way.
type ask struct {
	bucket.Ask
	sent     int64
	waiter   *waiter // whose need it is; nil: asked ahead of demand
	deadline int64   // of the waiter for whom it was made
	cancel   context.CancelFunc
}

// newAsk returns an ask on the pool's bucket, without need or want.
func (p *Pool) newAsk() bucket.Ask {
	return bucket.Ask{Key: p.key, ID: p.worker.nextID(), Limits: p.limits, Defined: p.defined}
}

// need returns the first waiter that the leases, available yet or not, do not
// serve, and its full cost. A lease for a part of the cost might expire before the
// other part arrives, and would lie idle meanwhile.
func (p *Pool) need() (bucket.Cost, *waiter) {
	var sum bucket.Cost
	for w := p.queue.first; w != nil; w = w.next {
		if sum = sum.Add(w.cost); !p.leases.left.Covers(sum) {
			return w.cost, w
		}
	}
	return bucket.Cost{}, nil
}

// ask starts an ask if none is under way and there is a reason for one: a waiter
// that the leases do not serve, or leases below the low-water mark.
func (p *Pool) ask(now int64) {
	if p.asks.out != nil || p.ended || p.asks.cooling > 0 {
		return
	}
	need, who := p.need()
	want := p.queue.sum.Sub(p.leases.left).Max(bucket.Cost{})
	var maxWait time.Duration
	var deadline int64
	switch {
	case who != nil:
		want = want.Max(p.demand.lease())
		if deadline = who.deadline; !who.atOnce {
			maxWait = time.Duration(deadline - now)
		}
	case now < p.asks.pauseUntil, p.leases.left.Covers(p.demand.lowWater()):
		return
	default:
		want = p.demand.lease()
	}
	if want = p.limits.Limited(want).Min(p.burst).Max(need); want.IsZero() {
		return
	}
	ctx, cancel := context.WithCancel(p.worker.ctx)
	a := &ask{Ask: p.newAsk(), sent: now, waiter: who, deadline: deadline, cancel: cancel}
	a.Need, a.Want, a.MaxWait, a.Done = need, want.Max(p.minAsk), maxWait, p.report.takeSettlements()
	p.asks.out = a
	p.stats.Exchanges++
	p.worker.work.Go(func() {
		defer cancel()
		lease, err := p.worker.store.Lease(ctx, a.Ask)
		p.answered(ctx, a, lease, err)
	})
}

// answered handles the store's answer to a.
func (p *Pool) answered(ctx context.Context, a *ask, lease bucket.Lease, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.worker.Clock.Now()
	p.asks.out = nil
	if err != nil && len(a.Done) > 0 {
		// Its settlements may not have arrived. A second settlement has no effect.
		p.report.keep(a.Done, bucket.Cost{})
		p.report.dueWithin(now, settleWithin)
	}
	switch {
	case err != nil && ctx.Err() != nil: // cancelled
	case errors.Is(err, bucket.ErrCostExceedsBurst) && a.waiter != nil:
		p.asks.failing = nil
		p.refuse(a.waiter, leaseError(err)) // the limits in force are newer and smaller than ours
	case err != nil:
		p.failed(now, err)
	case !lease.OK:
		p.asks.failing = nil
		p.forecast.observe(now, lease)
		p.refused(now, a, lease)
	default:
		p.asks.failing = nil
		p.forecast.forgetRefusal()
		p.forecast.observe(now, lease)
		p.leases.add(lease, a.sent, now)
	}
	if err == nil && a.Need.IsZero() {
		p.demand.observeRoundTrip(time.Duration(now - a.sent))
	}
	p.advance(now)
}

// refused handles a refusal of a. For a waiter it is final; asking ahead of demand
// pauses for a while.
func (p *Pool) refused(now int64, a *ask, lease bucket.Lease) {
	p.asks.pauseUntil = now + int64(min(max(lease.RetryAfter, hold/10), reviewEvery))
	w := a.waiter
	if w == nil || !w.queued || a.deadline < w.deadline {
		return // it was made for a waiter that had less time; the next ask is for w
	}
	if w.atOnce {
		p.forecast.observeRefusal(now, w.cost, lease.RetryAfter)
	}
	p.refuse(w, p.tooLate(now, w.cost, lease.RetryAfter))
	for w := p.queue.first; w != nil && w.atOnce && w.cost.Covers(a.Need); w = p.queue.first {
		p.refuse(w, p.tooLate(now, w.cost, lease.RetryAfter))
	}
}

// failed handles an error of the store. Waiters that the leases do not serve get the
// error. If the store cannot decide for now, those that chose so are admitted without
// quota instead.
func (p *Pool) failed(now int64, err error) {
	p.unavailable(now, err)
	for _, w := p.need(); w != nil; _, w = p.need() {
		p.stats.Failed++
		p.queue.release(w, leaseError(err))
	}
}

// unavailable notes an error of the store. If the store cannot decide for now, it
// admits the waiters that fail open and that the leases do not serve.
func (p *Pool) unavailable(now int64, err error) {
	p.asks.pauseUntil = now + int64(reviewEvery)
	p.asks.failing = nil
	if !errors.Is(err, bucket.ErrUnavailable) {
		return
	}
	p.asks.failing = err
	var served bucket.Cost
	for w := p.queue.first; w != nil; {
		next := w.next
		if sum := served.Add(w.cost); p.leases.left.Covers(sum) {
			served = sum
		} else if w.failOpen {
			p.stats.FailedOpen++
			p.queue.admit(w, Admission{At: now, Uncharged: true})
		}
		w = next
	}
}

// leaseError is err as waiters get it.
func leaseError(err error) error { return fmt.Errorf("lease: %w", err) }

// reassignAsk gives the outstanding ask, and its place in the store's queue, to
// the first waiter that the leases cannot serve. A waiter that needs more asks for
// all of its cost afterwards. If that waiter needs less, it may be admitted now. If
// only one of the two waits for quota, the answer does not fit. In both cases the ask
// is cancelled instead.
func (p *Pool) reassignAsk() {
	a := p.asks.out
	need, next := p.need()
	if next == nil || !need.Covers(a.Need) || next.atOnce != (a.MaxWait <= 0) {
		a.cancel()
		next = nil
	}
	a.waiter = next
}

// probe asks the store for the level, without waiting for quota, unless it is
// being asked already.
func (p *Pool) probe(now int64) {
	if p.asks.probing || p.asks.failing != nil && now < p.asks.pauseUntil {
		return
	}
	p.asks.probing = true
	p.stats.Exchanges++
	sent := now
	a := p.newAsk()
	a.Want = p.limits.Limited(bucket.Each(1))
	p.worker.work.Go(func() {
		lease, err := p.worker.store.Lease(p.worker.ctx, a)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asks.probing = false
		now := p.worker.Clock.Now()
		if err != nil {
			if p.worker.ctx.Err() == nil { // the outstanding ask gives the other waiters its own error
				p.unavailable(now, err)
				p.advance(now)
			}
			return
		}
		p.asks.failing = nil
		p.forecast.observe(now, lease)
		if lease.OK {
			p.leases.add(lease, sent, now)
		}
		p.refuseHopeless(now)
		p.advance(now)
	})
}
