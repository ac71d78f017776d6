package pool

import (
	"time"

	"github.com/choked/choked/bucket"
)

// report is what a worker has still to report to the store: settlements of closed
// leases, and the differences between what calls were charged and what they used.
type report struct {
	done    []bucket.Settlement // leave with the next ask, or at due
	charge  bucket.Cost         // used beyond what was charged
	unused  bucket.Cost         // charged and not used
	since   int64               // the store's time before any of unused was charged
	due     int64               // when to report; 0: there is nothing to report
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

// empty reports whether nothing is left to report and nothing is under way.
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

// takeCorrection moves what calls have really used into a, and reports whether
// there is anything to adjust.
func (r *report) takeCorrection(a *bucket.Adjustment) bool {
	a.Return, a.Since, a.Charge = r.unused, r.since, r.charge
	r.unused, r.charge = bucket.Cost{}, bucket.Cost{}
	return !a.Return.IsZero() || !a.Charge.IsZero()
}

// keep takes back what could not be reported, for later.
func (r *report) keep(done []bucket.Settlement, charge bucket.Cost) {
	if len(r.done) < maxKeptSettlements {
		r.done = append(r.done, done...)
	}
	r.charge = r.charge.Add(charge).Min(bucket.Cost{Requests: bucket.MaxUnits, Tokens: bucket.MaxUnits})
}
