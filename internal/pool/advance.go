package pool

import (
	"math"
	"time"

	"github.com/choked/choked/bucket"
)

func (p *Pool) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advance(p.worker.Clock.Now())
}

// advance does everything that is due at now. The order matters: waiters are served
// before leases are closed, so that no lease is returned that a waiter needs. Leases
// are closed before more is asked for, so that their settlements
// travel with the ask. A report that is still due leaves by itself.
func (p *Pool) advance(now int64) {
	p.admitServed(now)
	p.refuseAtOnce(now)
	if p.closed {
		return
	}
	if a := p.asks.out; a != nil && a.waiter != nil && !a.waiter.queued {
		p.reassignAsk() // its waiter was served by quota that came back meanwhile
	}
	p.demand.update(now, p.stats.Admitted, p.stats.Spent)
	p.closeLeases(now)
	p.ask(now)
	p.lowWater = bucket.Cost{}
	if p.asks.out == nil && now >= p.asks.pauseUntil {
		p.lowWater = p.limits.Limited(p.demand.lowWater())
	}
	if p.report.due > 0 && now >= p.report.due {
		p.send()
	}
	if p.ended && p.asks.out == nil && p.report.empty() {
		p.worker.setDraining(p, false)
	}
	if next := p.nextWake(now); next < math.MaxInt64 {
		p.timer.Reset(time.Duration(next - now))
	}
}

// admitServed admits the waiters, in order, that the leases cover.
func (p *Pool) admitServed(now int64) {
	for w := p.queue.first; w != nil; w = p.queue.first {
		lease, ok := p.leases.spend(now, &w.cost)
		if !ok {
			return
		}
		p.countAdmitted(&w.cost)
		p.queue.admit(w, Admission{At: now, Lease: lease})
	}
}

// refuseAtOnce refuses the first waiters, as far as they do not wait for quota and
// the leases cover them only later.
func (p *Pool) refuseAtOnce(now int64) {
	for w := p.queue.first; w != nil && w.atOnce; w = p.queue.first {
		after := p.untilAvailable(now, w.cost)
		if after == 0 {
			return
		}
		p.refuse(w, p.tooLate(now, w.cost, after))
	}
}

// nextWake returns the instant of the next advance: when the first waiter can be
// served, when a lease is due for review, or when a report is due.
func (p *Pool) nextWake(now int64) int64 {
	next := int64(math.MaxInt64)
	soonest := now + int64(minSleep)
	if w := p.queue.first; w != nil {
		next = min(next, max(p.leases.whenAvailable(now, w.cost), soonest))
	}
	for i := range p.leases.held {
		next = min(next, max(p.leases.held[i].closeAt(), soonest), now+int64(reviewEvery))
	}
	if p.report.due > 0 {
		next = min(next, p.report.due)
	}
	return next
}

// closeLeases closes the leases that are used up, about to expire, or not needed,
// and makes their settlements due: at once if quota is scarce or the burst small,
// else soon, or with the next ask.
func (p *Pool) closeLeases(now int64) {
	before := len(p.report.done)
	within := settleSpentAfter
	if p.settleAtOnce || p.ended {
		within = 0
	}
	reserved, starved := p.reserved()
	p.report.done = p.leases.close(p.key, p.report.done, func(l *heldLease) bool {
		if p.ended || l.left.IsZero() || now >= l.closeAt() {
			if !l.left.IsZero() || !p.isSmall(l.spent()) {
				within = min(within, settleWithin)
			}
			return true
		}
		if part := reserved.Min(l.left); !part.IsZero() {
			reserved = reserved.Sub(part)
			return false
		}
		if starved || now-max(l.used, l.availableAt) >= int64(idleAfter) {
			within = 0
			return true
		}
		return false
	})
	if len(p.report.done) > before {
		p.report.dueWithin(now, within)
	}
}

// isSmall reports whether spent refills soon. Leased quota keeps the bucket from
// filling, so only small spends may wait for the next ask.
func (p *Pool) isSmall(spent bucket.Cost) bool {
	for u := range bucket.NumUnits {
		for _, r := range p.limits.Of(u) {
			if n := spent.Of(u); n > 0 && (r.Kind != bucket.TokenBucket || r.Span(n) > smallSpend) { // a window counts from the settlement
				return false
			}
		}
	}
	return true
}

// reserved returns the quota that the waiters will take of the leases held, and
// whether a waiter remains unserved.
func (p *Pool) reserved() (sum bucket.Cost, starved bool) {
	for w := p.queue.first; w != nil; w = w.next {
		if !p.leases.left.Covers(sum.Add(w.cost)) {
			return sum, true
		}
		sum = sum.Add(w.cost)
	}
	return sum, false
}

func (p *Pool) refuse(w *waiter, err error) {
	if p.queue.remove(w) {
		p.stats.Refused++
		w.done <- err
	}
}
