package choked

import (
	"context"
	"time"

	"github.com/choked/choked/bucket"
)

// What a pool tells the store: leases that are closed, and what calls have
// really used.

// settle moves the difference between what a call was estimated to cost, when
// it was admitted at the instant at or later, and what it has really used.
func (p *pool) settle(at int64, estimated, actual Cost) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	now := p.choke.clock.Now()
	if at >= p.opened { // or it may have passed without quota, charged to nobody
		p.returns(now, estimated.Sub(actual).Max(Cost{}), at)
	}
	if owed := p.hand.charge(actual.Sub(estimated).Max(Cost{})); !owed.IsZero() {
		p.owed = p.owed.Add(owed)
		p.reportBy(now, settleWithin)
	}
	p.step(now)
	return nil
}

// returns takes back what was charged at the instant at, or later, and not
// used. It goes by the store, which alone knows what it is still worth: a lease
// in hand is not the one that it was spent from.
func (p *pool) returns(now int64, cost Cost, at int64) {
	if cost.IsZero() {
		return
	}
	since := p.instants.at(at)
	if p.unused.IsZero() || since < p.since {
		p.since = since
	}
	p.unused = p.unused.Add(cost)
	p.reportBy(now, settleWithin)
}

func (p *pool) reportBy(now int64, within time.Duration) {
	due := now + int64(within)
	if p.due == 0 || due < p.due {
		p.due = max(due, 1)
	}
}

// report tells the store what has been settled since the last exchange.
func (p *pool) report() {
	if done := p.done; len(done) > 0 {
		p.done = nil
		p.stats.Exchanges++
		p.choke.work.Go(func() {
			if err := p.choke.store.Settle(p.choke.ctx, done); err != nil {
				p.again(done, Cost{})
			}
		})
	}
	if a, ok := p.correction(); ok {
		p.stats.Exchanges++
		p.choke.work.Go(func() {
			// If it fails it may have been applied. To charge twice keeps the
			// bound, to return twice would not.
			if err := p.choke.store.Adjust(p.choke.ctx, a); err != nil {
				p.again(nil, a.Charge)
			} else if !a.Return.IsZero() {
				p.mu.Lock()
				p.refusal = refused{} // what was refused may be there now
				p.mu.Unlock()
			}
		})
	}
	p.due = 0
}

// correction is the adjustment that is due by what calls have really used.
func (p *pool) correction() (a Adjustment, ok bool) {
	a = p.adjustment()
	a.Return, a.Since, a.Charge = p.unused, p.since, p.owed
	p.unused, p.owed = Cost{}, Cost{}
	return a, !a.Return.IsZero() || !a.Charge.IsZero()
}

func (p *pool) adjustment() Adjustment {
	return Adjustment{Key: p.key, Limits: p.limits, Defined: p.defined}
}

// again keeps for later what could not be reported.
func (p *pool) again(done []Settlement, owed Cost) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Nobody waits for a lease that is over at the store: what cannot be
	// reported for long need not pile up.
	if len(p.done) < 1024 {
		p.done = append(p.done, done...)
	}
	p.owed = p.owed.Add(owed).Min(Cost{Requests: bucket.MaxUnits, Tokens: bucket.MaxUnits})
	if !p.closed {
		now := p.choke.clock.Now()
		p.due = now + int64(tick)
		p.step(now)
	}
}

// backoff gives back all that is in hand or was not used, and then empties the
// bucket for d: in this order, or what comes back would be there again.
func (p *pool) backoff(ctx context.Context, d time.Duration) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return ErrClosed
	}
	done := p.hand.shut(p.key, p.done, func(*open) bool { return true })
	p.done = nil
	p.pauseUntil = p.choke.clock.Now() + int64(tick)
	p.backingOff++ // what comes back is not to be asked for before the bucket is empty
	p.stats.Exchanges++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.backingOff--
		p.step(p.choke.clock.Now())
	}()
	if len(done) > 0 {
		if err := p.choke.store.Settle(ctx, done); err != nil {
			p.again(done, Cost{})
			return err
		}
	}
	p.mu.Lock()
	a, _ := p.correction()
	p.mu.Unlock()
	a.Empty = d
	err := p.choke.store.Adjust(ctx, a)
	if err != nil {
		p.again(nil, a.Charge)
	}
	return err
}
