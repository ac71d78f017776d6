// Package pool is one key in one worker: it leases quota from the store ahead of
// demand, spends it from memory, queues callers that have to wait, and settles the
// leases.
//
// A Pool has no goroutine of its own. Work is done on the callers' goroutines, on
// the answer to an exchange with the store, or when its one timer fires, and always
// ends in advance. Its parts, each a type with its own file: the leases held, the
// queue of waiters, the asks under way, the report that is due, and two
// estimates: the demand of the callers and the forecast of the bucket.
package pool

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/choked/choked/bucket"
)

const (
	settleWithin     = 50 * time.Millisecond  // longest that a closed lease with a rest waits to be reported
	settleSpentAfter = 200 * time.Millisecond // longest that a small, fully spent lease waits for the next ask to carry its settlement
	smallSpend       = 100 * time.Millisecond // spend that refills within this counts as small
	minLease         = 10 * time.Millisecond  // smallest lease worth asking for, as refill time
	idleAfter        = 500 * time.Millisecond // a lease not used for this long is returned
	reviewEvery      = 250 * time.Millisecond // how often leases are reviewed, and a failed exchange is retried
	minSleep         = 50 * time.Microsecond  // shortest sleep of the timer
	forever          = math.MaxInt64 / 4      // nanoseconds: longer than any wait
)

// Pool is one key in one worker. Safe for concurrent use.
type Pool struct {
	worker       *Worker
	key          string
	limits       bucket.Limits
	burst        bucket.Cost
	minAsk       bucket.Cost // smallest Want
	limited      bucket.Cost // all bits of the units that are limited, no others
	divided      bool        // input or output is limited: tokens alone are no cost
	settleAtOnce bool        // some rate refills its whole burst within idleAfter
	dated        bool        // some rate is a window or a calendar, whose refunds name their lease
	defined      int64       // when limits were defined, in Unix nanoseconds

	mu       sync.Mutex
	leases   leases
	lowWater bucket.Cost // leases below this make a take ask for more
	queue    waiters
	asks     asks
	report   report
	demand   demand
	forecast forecast
	timer    *time.Timer
	stats    Stats
	ended    bool // takes no more calls: Drain or Close was called
	closed   bool // inactive: Close was called
}

// Stats counts what became of the calls for one key in this worker.
type Stats struct {
	Admitted     int64       // calls
	Spent        bucket.Cost // by them, as reserved
	Refused      int64       // calls refused: by deadline, cost above the burst, or lack of quota
	Failed       int64       // calls that got an error of the store
	FailedOpen   int64       // calls admitted without quota
	InvalidUsage int64       // settlements with a negative or absurd usage
	Waiting      int         // callers in the queue now
	Leased       bucket.Cost // held now and not spent
	Exchanges    int64       // with the store

	Level     bucket.Cost   // of the bucket, by the store's last answer and the refill since
	NextUnit  bucket.Unit   // if calls wait: the unit that the first of them waits for
	NextAfter time.Duration // if calls wait: until the first of them can be admitted, as far as is known
}

// Call is a caller's request for admission.
type Call struct {
	Cost     bucket.Cost  // only units that the key limits
	AtOnce   bool         // do not wait for quota
	FailOpen bool         // admit without quota while the store cannot decide
	Closed   *atomic.Bool // of the limiter that calls; true: refuse with ErrClosed
}

// Admission is a call that may go.
type Admission struct {
	At        int64  // when its cost was spent, by the worker's clock
	Lease     uint64 // sequence number of the lease that covered all of it; 0: several did
	Uncharged bool   // it was admitted without quota, by FailOpen
}

// Refusal is the outcome of a call that cannot be admitted in its time.
type Refusal struct {
	Unit       bucket.Unit   // that takes longest to be available
	Level      int64         // of Unit in the bucket, as far as is known
	RetryAfter time.Duration // until the cost could be admitted if no other call came
	Err        error         // the store's last error while it cannot decide; nil: it can
}

// Error implements error.
func (r *Refusal) Error() string {
	return fmt.Sprintf("refused: %s available in %v", r.Unit, r.RetryAfter)
}

// New returns a pool for key. It has no leases and starts no goroutine.
func New(w *Worker, key string, limits bucket.Limits) *Pool {
	p := &Pool{worker: w, key: key, limits: limits, burst: limits.Burst(), minAsk: limits.In(minLease), defined: w.nextDefined()}
	p.limited = limits.Limited(bucket.Each(-1))
	p.divided = p.limited.Input|p.limited.Output != 0
	for u := range bucket.NumUnits {
		for _, r := range limits.Of(u) {
			p.settleAtOnce = p.settleAtOnce || r.In(idleAfter) >= r.Most()
			p.dated = p.dated || r.Kind != bucket.TokenBucket
		}
	}
	p.timer = time.AfterFunc(math.MaxInt64, p.wake)
	p.timer.Stop()
	return p
}

// Key returns the key.
func (p *Pool) Key() string { return p.key }

// Limits returns the limits with which the pool was made.
func (p *Pool) Limits() *bucket.Limits { return &p.limits }

// Burst returns the largest cost that the limits ever admit.
func (p *Pool) Burst() bucket.Cost { return p.burst }

// Charge sets c to what a call of cost is charged, and reports whether that can ever
// be admitted. If not, [bucket.Limits.Charge], [bucket.Cost.Check] or
// [bucket.Limits.Fits] has the error.
func (p *Pool) Charge(c, cost *bucket.Cost) (ok bool) {
	if cost.Requests|cost.Tokens|cost.Input|cost.Output|cost.Spend < 0 {
		return false
	}
	if cost.Input|cost.Output == 0 && (cost.Tokens == 0 || !p.divided) { // most calls: Limits.Charge has the same result
		c.Requests = cost.Requests & p.limited.Requests
		c.Tokens = cost.Tokens & p.limited.Tokens
		c.Input, c.Output = 0, 0
		c.Spend = cost.Spend & p.limited.Spend
		return p.burst.Has(c)
	}
	charged, err := p.limits.Charge(*cost)
	*c = charged
	return err == nil && p.burst.Has(c)
}

// Stats returns the counts.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	now := p.worker.Clock.Now()
	s.Waiting, s.Leased, s.Level = p.queue.len, p.leases.left, p.forecast.levelNow(now, &p.limits)
	if w := p.queue.first; w != nil {
		at, unit := p.refilledAt(now, w.cost)
		s.NextUnit, s.NextAfter = unit, time.Duration(at-now)
	}
	return s
}

// CountRefused counts a call that was refused before it reached the pool.
func (p *Pool) CountRefused() {
	p.mu.Lock()
	p.stats.Refused++
	p.mu.Unlock()
}

// CountInvalidUsage counts a settlement with a negative or absurd usage.
func (p *Pool) CountInvalidUsage() {
	p.mu.Lock()
	p.stats.InvalidUsage++
	p.mu.Unlock()
}

// Take spends cost from the leases held, if they cover it and no caller waits.
func (p *Pool) Take(cost *bucket.Cost) (a Admission, ok bool) {
	p.mu.Lock()
	a.At = p.worker.Clock.Now()
	a.Lease, ok = p.takeLocked(a.At, cost)
	p.mu.Unlock()
	return a, ok
}

// Try is Take for a caller that does not wait. If decided is false, only the store
// can decide. Else the call is admitted if RetryAfter is zero, or refused.
func (p *Pool) Try(cost *bucket.Cost) (a Admission, r Refusal, decided bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a.At = p.worker.Clock.Now()
	var ok bool
	if a.Lease, ok = p.takeLocked(a.At, cost); ok {
		return a, r, true
	}
	if p.ended {
		return a, r, false
	}
	r = p.knownRefusal(a.At, *cost)
	if r.RetryAfter > 0 {
		p.stats.Refused++
	}
	return a, r, r.RetryAfter > 0
}

func (p *Pool) takeLocked(now int64, cost *bucket.Cost) (lease uint64, ok bool) {
	// A zero cost may overtake the queue: it delays no waiter.
	if p.queue.len > 0 && !cost.IsZero() || p.ended {
		return 0, false
	}
	if lease, ok = p.leases.spend(now, cost); !ok {
		return 0, false
	}
	p.countAdmitted(cost)
	if !p.leases.left.Has(&p.lowWater) || p.leases.usedUp() {
		p.advance(now)
	}
	return lease, true
}

func (p *Pool) countAdmitted(cost *bucket.Cost) {
	p.stats.Admitted++
	p.stats.Spent.Inc(cost)
}

// Wait queues c until it is admitted or refused, or ctx ends. Its errors are a
// *[Refusal], ctx.Err(), [bucket.ErrClosed], or the store's.
func (p *Pool) Wait(ctx context.Context, c Call) (Admission, error) {
	w := &waiter{cost: c.Cost, atOnce: c.AtOnce, failOpen: c.FailOpen, closed: c.Closed, deadline: forever}
	if t, ok := ctx.Deadline(); ok && !c.AtOnce {
		left := min(time.Until(t), forever/2)
		w.deadline = p.worker.Clock.Now() + int64(left) // read after left, or a pause between the two would make it early
	}
	if queued, err := p.enqueue(w); !queued {
		return w.admission, err
	}
	select {
	case err := <-w.done:
		return w.admission, err
	case <-ctx.Done():
		return w.admission, p.abandon(ctx, w)
	}
}

// enqueue decides w on the spot, or puts it in the queue.
func (p *Pool) enqueue(w *waiter) (queued bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.worker.Clock.Now()
	w.admission.At = now
	if p.ended || w.closed.Load() {
		return false, bucket.ErrClosed
	}
	if p.queue.len == 0 {
		if lease, ok := p.leases.spend(now, &w.cost); ok {
			w.admission.Lease = lease
			p.countAdmitted(&w.cost)
			p.advance(now)
			return false, nil
		}
	}
	if w.failOpen && p.asks.failing != nil {
		p.stats.FailedOpen++
		w.admission.Uncharged = true
		p.probe(now)
		return false, nil
	}
	if after := p.hopeless(now, w); after > 0 {
		p.stats.Refused++
		return false, p.tooLate(now, w.cost, after)
	}
	if a := p.asks.out; p.queue.len > 0 && a != nil && w.deadline < forever && !p.forecast.observedSince(a.sent) {
		p.probe(now) // the level may show that w waits in vain
	}
	w.done = make(chan error, 1)
	p.queue.push(w)
	p.advance(now)
	return true, nil
}

// hopeless returns the wait of w if the wait is known to be too long, or zero.
func (p *Pool) hopeless(now int64, w *waiter) time.Duration {
	if w.atOnce {
		return p.knownRefusal(now, w.cost).RetryAfter
	}
	at := p.earliest(now, w.cost)
	if w.deadline <= now {
		return max(time.Duration(at-now), 1)
	}
	if at > w.deadline {
		return time.Duration(at - now)
	}
	return 0
}

// abandon takes w out of the queue because ctx has ended. If w was admitted at the
// same moment, its cost is returned. If its deadline has passed before the store has
// said anything, a probe finds out whether the store can decide: the caller's own ask
// ends with it, and would not tell.
func (p *Pool) abandon(ctx context.Context, w *waiter) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.worker.Clock.Now()
	late := errors.Is(ctx.Err(), context.DeadlineExceeded)
	switch {
	case !p.queue.remove(w):
		if err := <-w.done; err != nil {
			return err
		}
		if w.admission.Uncharged {
			p.stats.FailedOpen--
		} else {
			p.stats.Admitted--
			p.stats.Spent = p.stats.Spent.Sub(w.cost)
			p.refund(now, w.cost, w.admission)
		}
	case p.asks.out != nil:
		if late && !p.forecast.observedSince(p.asks.out.sent) {
			p.probe(now)
		}
		if p.asks.out.waiter != nil {
			p.reassignAsk()
		}
	}
	p.advance(now)
	if !late {
		return ctx.Err()
	}
	p.stats.Refused++
	if w.atOnce {
		return ctx.Err()
	}
	return p.tooLate(now, w.cost, 0)
}

// Settle corrects the charge of the call a: unused is refunded, and overused is
// charged. An uncharged call gets no refund. Settle does not wait for the store.
func (p *Pool) Settle(a Admission, unused, overused bucket.Cost) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return bucket.ErrClosed
	}
	now := p.worker.Clock.Now()
	p.refund(now, unused, a)
	if rest := p.leases.charge(overused); !rest.IsZero() {
		p.report.charge = p.report.charge.Add(rest)
		p.report.dueWithin(now, settleWithin)
	}
	if p.ended {
		p.worker.setDraining(p, true)
	}
	p.advance(now)
	return nil
}

// refund returns cost that was charged to a: to its lease, if the store does not know
// yet that it was spent, and else to the store, which knows how much of it still
// counts.
func (p *Pool) refund(now int64, cost bucket.Cost, a Admission) {
	if a.Uncharged {
		return
	}
	if cost = p.unspend(cost, a.Lease); cost.IsZero() {
		return
	}
	p.report.addUnused(cost, p.forecast.times.at(a.At), p.leaseOf(a.Lease))
	p.report.dueWithin(now, settleWithin)
}

// leaseOf returns the lease that a refund has to name: none where all rates are token
// buckets, so that refunds of many calls are one.
func (p *Pool) leaseOf(seq uint64) bucket.LeaseID {
	if !p.dated || seq == 0 {
		return bucket.LeaseID{}
	}
	return bucket.LeaseID{Holder: p.worker.holder, Seq: seq}
}

// unspend returns cost to the lease that it was spent from, if the lease is held or
// its settlement is not sent yet, and returns the part of cost that is left.
func (p *Pool) unspend(cost bucket.Cost, lease uint64) bucket.Cost {
	if cost.IsZero() || lease == 0 {
		return cost
	}
	id := bucket.LeaseID{Holder: p.worker.holder, Seq: lease}
	if part, ok := p.leases.unspend(id, cost); ok {
		return cost.Sub(part)
	}
	for i := range p.report.done {
		if s := &p.report.done[i]; s.ID == id {
			part := cost.Min(s.Spent)
			s.Spent = s.Spent.Sub(part)
			return cost.Sub(part)
		}
	}
	return cost
}

// Cooldown returns all leases and refunds, and then empties the bucket for d. In the
// other order the returned quota would be available during the cooldown.
func (p *Pool) Cooldown(ctx context.Context, d time.Duration) error {
	a := p.newAdjustment()
	a.Empty = d
	if err := a.Check(); err != nil {
		return err
	}
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return bucket.ErrClosed
	}
	done := p.leases.close(p.key, p.report.done, func(*heldLease) bool { return true })
	p.report.done = nil
	p.asks.pauseUntil = p.worker.Clock.Now() + int64(reviewEvery)
	p.asks.cooling++ // no ask may take the returned quota before the bucket is empty
	p.stats.Exchanges++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asks.cooling--
		p.advance(p.worker.Clock.Now())
	}()
	if len(done) > 0 {
		if err := p.worker.store.Settle(ctx, done); err != nil {
			p.requeue(done, bucket.Cost{})
			return err
		}
	}
	p.mu.Lock()
	p.report.takeCorrection(&a)
	p.mu.Unlock()
	err := p.worker.store.Adjust(ctx, a)
	if err != nil {
		p.requeue(nil, a.Charge)
	}
	return err
}

func (p *Pool) newAdjustment() bucket.Adjustment {
	return bucket.Adjustment{Key: p.key, Limits: p.limits, Defined: p.defined}
}

// Release ends the calls that wait through the limiter whose closed flag is
// given, with [bucket.ErrClosed].
func (p *Pool) Release(closed *atomic.Bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for w := p.queue.first; w != nil; {
		next := w.next
		if w.closed == closed {
			p.queue.release(w, bucket.ErrClosed)
		}
		w = next
	}
	p.advance(p.worker.Clock.Now())
}

// Drain takes no more calls and returns all leases. Calls that were admitted
// before can still be settled. It does not wait for the store.
func (p *Pool) Drain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return
	}
	p.endLocked()
	p.worker.setDraining(p, true)
	p.advance(p.worker.Clock.Now())
}

// Abandon is Drain without starting an exchange: the leases are returned when the
// timer fires, at the latest when they would be reviewed.
func (p *Pool) Abandon() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
	if len(p.leases.held) > 0 || p.asks.out != nil || !p.report.empty() {
		p.worker.setDraining(p, true)
	}
}

// Close ends the calls that wait and the outstanding ask. From then on the pool
// starts no exchange: [Worker.Close] reports the rest.
func (p *Pool) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.timer.Stop()
	p.endLocked()
}

func (p *Pool) endLocked() {
	p.ended = true
	for w := p.queue.first; w != nil; w = p.queue.first {
		p.queue.release(w, bucket.ErrClosed)
	}
	if p.asks.out != nil {
		p.asks.out.cancel()
	}
}

// unreported returns the rest of a closed pool's report: the settlements of its
// leases, and the corrections of their charges.
func (p *Pool) unreported() (done []bucket.Settlement, corrections []bucket.Adjustment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	done = p.leases.close(p.key, p.report.done, func(*heldLease) bool { return true })
	p.report.done = nil
	for a := p.newAdjustment(); p.report.takeCorrection(&a); a = p.newAdjustment() {
		corrections = append(corrections, a)
	}
	return done, corrections
}
