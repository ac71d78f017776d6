package pool

import (
	"time"

	"github.com/choked/choked/bucket"
)

// report is the unreported part of a worker's books: settlements of closed leases,
// and the differences between the charges of calls and their usage.
type report struct {
	done     []bucket.Settlement // leave with the next ask, or at due
	charge   bucket.Cost         // usage that was not charged
	unused   []refund            // charged and not used; one for each lease that has to be named
	due      int64               // when to report; 0: never
	sending  int                 // exchanges under way
	settling int                 // of these, exchanges that settle
}

// refund is usage that was charged and not used.
type refund struct {
	cost  bucket.Cost
	since int64          // the store's time before any of cost was charged
	lease bucket.LeaseID // that it was charged on, if the store has to know
}

// maxKeptSettlements bounds the settlements that are kept while the store does not
// answer. Beyond it they are dropped: the leases expire at the store.
const maxKeptSettlements = bucket.MaxDone

// dueWithin makes the report leave no later than within after now.
func (r *report) dueWithin(now int64, within time.Duration) {
	due := now + int64(within)
	if r.due == 0 || due < r.due {
		r.due = max(due, 1)
	}
}

// empty reports whether the report is complete: sent and acknowledged.
func (r *report) empty() bool {
	return len(r.done) == 0 && r.charge.IsZero() && len(r.unused) == 0 && r.sending == 0
}

// takeSettlements returns the settlements that are due, which the caller sends.
func (r *report) takeSettlements() []bucket.Settlement {
	done := r.done
	r.done = nil
	if r.charge.IsZero() && len(r.unused) == 0 {
		r.due = 0
	}
	return done
}

// addUnused adds a refund of cost that was charged at the store's time since or
// later, on the lease. Refunds beyond [maxRefunds] leases are dropped: they stay charged.
func (r *report) addUnused(cost bucket.Cost, since int64, lease bucket.LeaseID) {
	for i := range r.unused {
		if u := &r.unused[i]; u.lease == lease {
			u.cost, u.since = u.cost.Add(cost), min(u.since, since)
			return
		}
	}
	if len(r.unused) < maxRefunds {
		r.unused = append(r.unused, refund{cost, since, lease})
	}
}

// maxRefunds bounds the refunds that wait to be sent.
const maxRefunds = 1 << 10

// takeCorrection moves the charge and the first refund into a, and reports whether a has
// an effect.
func (r *report) takeCorrection(a *bucket.Adjustment) bool {
	a.Charge, r.charge = r.charge, bucket.Cost{}
	if len(r.unused) > 0 {
		u := r.unused[0]
		a.Return, a.Since, a.Lease = u.cost, u.since, u.lease
		r.unused = r.unused[1:]
	}
	if len(r.unused) == 0 {
		r.unused = nil
	}
	return !a.Return.IsZero() || !a.Charge.IsZero()
}

// keep adds settlements and a charge that the store did not acknowledge.
func (r *report) keep(done []bucket.Settlement, charge bucket.Cost) {
	if len(r.done) < maxKeptSettlements {
		r.done = append(r.done, done...)
	}
	r.charge = r.charge.Add(charge).Min(bucket.Each(bucket.MaxUnits))
}

// send sends the report.
func (p *Pool) send() {
	if done := p.report.takeSettlements(); len(done) > 0 {
		p.stats.Exchanges++
		p.report.sending++
		p.report.settling++
		p.worker.work.Go(func() {
			p.sent(done, bucket.Adjustment{}, p.worker.store.Settle(p.worker.ctx, done))
		})
	}
	if p.dated && p.settling() {
		// A refund that overtook the settlement of its lease would be void.
		p.report.due = p.worker.Clock.Now() + int64(settleWithin)
		return
	}
	for a := p.newAdjustment(); p.report.takeCorrection(&a); a = p.newAdjustment() {
		p.stats.Exchanges++
		p.report.sending++
		p.worker.work.Go(func() { p.sent(nil, a, p.worker.store.Adjust(p.worker.ctx, a)) })
	}
	p.report.due = 0
}

// settling reports whether settlements are under way or wait to be sent.
func (p *Pool) settling() bool {
	return p.report.settling > 0 || len(p.report.done) > 0 || p.asks.out != nil && len(p.asks.out.Done) > 0
}

// sent handles the end of an exchange of send.
func (p *Pool) sent(done []bucket.Settlement, a bucket.Adjustment, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report.sending--
	if done != nil {
		p.report.settling--
	}
	switch {
	case err != nil:
		// After an error the adjustment may have been applied. To charge twice keeps
		// the bound, to return twice would not.
		p.requeueLocked(done, a.Charge)
	case !a.Return.IsZero():
		p.forecast.forgetRefusal() // the refused cost may be available now
	}
	if p.ended && !p.closed {
		p.advance(p.worker.Clock.Now())
	}
}

// requeue keeps what could not be reported, and retries later.
func (p *Pool) requeue(done []bucket.Settlement, charge bucket.Cost) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.requeueLocked(done, charge)
}

func (p *Pool) requeueLocked(done []bucket.Settlement, charge bucket.Cost) {
	p.report.keep(done, charge)
	if !p.closed {
		now := p.worker.Clock.Now()
		p.report.due = now + int64(reviewEvery)
		p.advance(now)
	}
}
