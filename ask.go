package choked

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/choked/choked/bucket"
)

// asking is an ask under way.
type asking struct {
	bucket.Ask
	sent     int64
	forWho   *waiter // whose need it is; nil: asked ahead of demand
	deadline int64   // of the waiter for whom it was made
	cancel   context.CancelFunc
}

// need is what the store has to grant for the first waiter whom what is in
// hand, ripe or not, does not serve, and who that is.
//
// That is all of its cost. What is left in hand for part of it might be over
// before the rest comes, and meanwhile serves nobody: it goes back.
func (p *pool) need() (Cost, *waiter) {
	var sum Cost
	for w := p.line.first; w != nil; w = w.next {
		if sum = sum.Add(w.cost); !p.hand.left.Covers(sum) {
			return w.cost, w
		}
	}
	return Cost{}, nil
}

// askMore begins an ask if none is under way and there is a reason for one: a
// waiter whom nothing in hand will serve, or little left at the present demand.
func (p *pool) askMore(now int64) {
	if p.ask != nil || p.closed || p.backingOff > 0 {
		return
	}
	need, who := p.need()
	want := p.line.sum.Sub(p.hand.left).Max(Cost{})
	var maxWait time.Duration
	var deadline int64
	switch {
	case who != nil:
		want = want.Max(p.demand.lease())
		if deadline = who.deadline; !who.atOnce {
			maxWait = time.Duration(deadline - now)
		}
	case now < p.pauseUntil, p.hand.left.Covers(p.demand.low()):
		return
	default:
		want = p.demand.lease()
	}
	if want = p.limits.Limited(want).Min(p.burst).Max(need); want.IsZero() {
		return
	}
	want = want.Max(p.least)
	ctx, cancel := context.WithCancel(p.choke.ctx)
	p.ask = &asking{sent: now, forWho: who, deadline: deadline, cancel: cancel, Ask: bucket.Ask{
		Key: p.key, ID: p.choke.leaseID(), Limits: p.limits, Defined: p.defined,
		Need: need, Want: want, MaxWait: maxWait, Done: p.done,
	}}
	p.done = nil
	if p.owed.IsZero() && p.unused.IsZero() {
		p.due = 0
	}
	p.stats.Exchanges++
	ask := p.ask
	p.choke.work.Go(func() {
		defer cancel()
		lease, err := p.choke.store.Lease(ctx, ask.Ask)
		p.answered(ctx, ask, lease, err)
	})
}

// answered takes in the store's answer to ask.
func (p *pool) answered(ctx context.Context, ask *asking, lease Lease, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.choke.clock.Now()
	p.ask = nil
	if err != nil {
		// What it had to settle may not have arrived. Settling twice does no harm.
		p.done = append(p.done, ask.Done...)
		if len(p.done) > 0 {
			p.reportBy(now, settleWithin)
		}
	}
	switch {
	case err != nil && ctx.Err() != nil: // withdrawn
	case errors.Is(err, ErrCostExceedsBurst) && ask.forWho != nil:
		p.failing = false
		p.refuse(ask.forWho, err) // the limits in force are newer than ours, and smaller
	case err != nil:
		p.failed(now, err)
	case !lease.OK:
		p.failing = false
		p.hear(now, lease)
		p.refused(now, ask, lease)
	default:
		p.failing, p.refusal = false, refused{}
		p.hear(now, lease)
		p.hand.add(lease, ask.sent, now)
	}
	if err == nil && ask.Need.IsZero() {
		p.demand.tripped(time.Duration(now - ask.sent))
	}
	p.step(now)
}

// refused handles a refusal: for a waiter it is final; asking ahead of demand
// rests for a while.
func (p *pool) refused(now int64, ask *asking, lease Lease) {
	p.pauseUntil = now + int64(min(max(lease.RetryAfter, hold/10), tick))
	w := ask.forWho
	if w == nil || !w.queued || ask.deadline < w.deadline {
		return // made for another who had less time; it is asked again
	}
	if w.atOnce {
		until := now + int64(lease.RetryAfter)
		p.refusal = refused{cost: w.cost, until: until, recent: min(until, now+int64(stale(lease.RetryAfter)))}
	}
	p.refuse(w, &refusal{lease.RetryAfter})
	for w := p.line.first; w != nil && w.atOnce && w.cost.Covers(ask.Need); w = p.line.first {
		p.refuse(w, &refusal{lease.RetryAfter})
	}
}

// failed handles an error of the store: nothing was decided. Those who wait for
// more than is in hand are told, or pass, as each has chosen.
func (p *pool) failed(now int64, err error) {
	p.failing = true
	p.pauseUntil = now + int64(tick)
	for _, w := p.need(); w != nil; _, w = p.need() {
		if w.failOpen {
			p.stats.Opened++
			w.opened, p.opened = true, now+1
			p.line.admit(w, now)
		} else {
			p.stats.Failed++
			p.line.release(w, fmt.Errorf("lease on %q: %w", p.key, err))
		}
	}
}

// probe asks the store how things stand, without waiting for quota, if it is
// not being asked already.
func (p *pool) probe(now int64) {
	if p.probing || p.failing && now < p.pauseUntil {
		return
	}
	p.probing = true
	p.stats.Exchanges++
	sent := now
	ask := bucket.Ask{
		Key: p.key, ID: p.choke.leaseID(), Limits: p.limits, Defined: p.defined,
		Want: p.limits.Limited(Cost{Requests: 1, Tokens: 1}),
	}
	p.choke.work.Go(func() {
		lease, err := p.choke.store.Lease(p.choke.ctx, ask)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.probing = false
		now := p.choke.clock.Now()
		switch {
		case err != nil && p.failing:
			p.pauseUntil = now + int64(tick)
			return
		case err != nil: // the ask for a waiter will tell
			return
		}
		p.failing = false
		p.hear(now, lease)
		if lease.OK {
			p.hand.add(lease, sent, now)
		}
		p.hurry(now)
		p.step(now)
	})
}
