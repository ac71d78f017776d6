package pool

import (
	"time"

	"github.com/choked/choked/bucket"
)

// report is the unreported part of a worker's books: settlements of closed leases,
// and the differences between the charges of calls and their usage.
type report struct {
	done    []bucket.Settlement // leave with the next ask, or at due
	charge  bucket.Cost         // usage that was not charged
	unused  bucket.Cost         // charged and not used
	since   int64               // the store's time before any of unused was charged
	due     int64               // when to report; 0: never
	sending int                 // exchanges under way
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
	return len(r.done) == 0 && r.charge.IsZero() && r.unused.IsZero() && r.sending == 0
}

// takeSettlements returns the settlements that are due, which the caller sends.
func (r *report) takeSettlements() []bucket.Settlement {
	done := r.done
	r.done = nil
	if r.charge.IsZero() && r.unused.IsZero() {
		r.due = 0
	}
	return done
}

// addUnused adds a refund of cost that was charged at the store's time since or
// later.
func (r *report) addUnused(cost bucket.Cost, since int64) {
	if r.unused.IsZero() || since < r.since {
		r.since = since
	}
	r.unused = r.unused.Add(cost)
}

// takeCorrection moves the charge and the refund into a, and reports whether a has
// an effect.
func (r *report) takeCorrection(a *bucket.Adjustment) bool {
	a.Return, a.Since, a.Charge = r.unused, r.since, r.charge
	r.unused, r.charge = bucket.Cost{}, bucket.Cost{}
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
		p.worker.work.Go(func() {
			p.sent(done, bucket.Adjustment{}, p.worker.store.Settle(p.worker.ctx, done))
		})
	}
	if a := p.newAdjustment(); p.report.takeCorrection(&a) {
		p.stats.Exchanges++
		p.report.sending++
		p.worker.work.Go(func() { p.sent(nil, a, p.worker.store.Adjust(p.worker.ctx, a)) })
	}
	p.report.due = 0
}

// sent handles the end of an exchange of send.
func (p *Pool) sent(done []bucket.Settlement, a bucket.Adjustment, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.report.sending--
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
