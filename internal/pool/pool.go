// Package pool is one key in one worker: it leases quota from the store ahead of
// demand, spends it from memory, queues callers that have to wait, and reports
// what was spent.
//
// A Pool has no goroutine of its own. Work is done on the callers' goroutines, on
// the answer to an exchange with the store, or when its one timer fires, and always
// ends in advance. Its parts, each a type with its own file: the leases held, the
// queue of waiters, the asks under way, the report that is due, and two
// estimates: the demand of the callers and the forecast of the bucket.
package pool

import (
	"context"
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
	settleAtOnce bool        // some rate refills its whole burst within idleAfter
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
	closed   bool // does nothing any more: Close was called
}

// Stats counts what became of the calls for one key in this worker.
type Stats struct {
	Admitted     int64       // calls
	Spent        bucket.Cost // by them, as reserved
	Refused      int64       // calls refused: by deadline, cost above the burst, or lack of quota
	Failed       int64       // calls that got an error of the store
	FailedOpen   int64       // calls admitted without quota
	InvalidUsage int64       // settlements with a usage that cannot be
	Waiting      int         // callers in the queue now
	Leased       bucket.Cost // held now and not spent
	Exchanges    int64       // with the store
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
	At        int64 // when its cost was spent, by the worker's clock
	Uncharged bool  // it was admitted without quota, by FailOpen
}

// Refusal is the outcome of a call that cannot be admitted in its time.
type Refusal struct {
	Unit       bucket.Unit   // that takes longest to be available
	RetryAfter time.Duration // until the cost could be admitted if no other call came
}

// Error implements error.
func (r *Refusal) Error() string {
	return fmt.Sprintf("refused: %s available in %v", r.Unit, r.RetryAfter)
}

// New returns a pool for key. It holds nothing and starts no goroutine.
func New(w *Worker, key string, limits bucket.Limits) *Pool {
	p := &Pool{worker: w, key: key, limits: limits, burst: limits.Burst(), minAsk: limits.In(minLease), defined: time.Now().UnixNano()}
	for _, rs := range [...]bucket.Rates{limits.Requests, limits.Tokens} {
		for _, r := range rs {
			p.settleAtOnce = p.settleAtOnce || r.In(idleAfter) >= r.Burst
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

// Stats returns the counts.
func (p *Pool) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	s.Waiting, s.Leased = p.queue.len, p.leases.left
	return s
}

// CountRefused counts a call that was refused before it reached the pool.
func (p *Pool) CountRefused() {
	p.mu.Lock()
	p.stats.Refused++
	p.mu.Unlock()
}

// CountInvalidUsage counts a settlement with a usage that cannot be.
func (p *Pool) CountInvalidUsage() {
	p.mu.Lock()
	p.stats.InvalidUsage++
	p.mu.Unlock()
}

// Take spends cost from the leases held, if they cover it and no caller waits.
func (p *Pool) Take(cost bucket.Cost) (a Admission, ok bool) {
	p.mu.Lock()
	a.At = p.worker.Clock.Now()
	ok = p.takeLocked(a.At, cost)
	p.mu.Unlock()
	return a, ok
}

// Try is Take for a caller that does not wait. If decided is false, the store has
// to be asked. Else the call is admitted if RetryAfter is zero, or refused.
func (p *Pool) Try(cost bucket.Cost) (a Admission, r Refusal, decided bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a.At = p.worker.Clock.Now()
	if p.takeLocked(a.At, cost) {
		return a, r, true
	}
	if p.ended {
		return a, r, false
	}
	r = p.knownRefusal(a.At, cost)
	if r.RetryAfter > 0 {
		p.stats.Refused++
	}
	return a, r, r.RetryAfter > 0
}

func (p *Pool) takeLocked(now int64, cost bucket.Cost) bool {
	// A zero cost may overtake the queue: it takes nothing from those that wait.
	if p.queue.len > 0 && !cost.IsZero() || p.ended {
		return false
	}
	if !p.leases.spend(now, cost) {
		return false
	}
	p.countAdmitted(cost)
	if !p.leases.left.Covers(p.lowWater) || p.leases.usedUp() {
		p.advance(now)
	}
	return true
}

func (p *Pool) countAdmitted(cost bucket.Cost) {
	p.demand.take(cost)
	p.stats.Admitted++
	p.stats.Spent = p.stats.Spent.Add(cost)
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
	switch {
	case p.ended || w.closed.Load():
		return false, bucket.ErrClosed
	case p.queue.len == 0 && p.leases.spend(now, w.cost):
		p.countAdmitted(w.cost)
		p.advance(now)
		return false, nil
	case w.failOpen && p.asks.failing:
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

// hopeless returns how long w would have to wait if that is known to be too long,
// or zero.
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
// same moment, its cost is returned.
func (p *Pool) abandon(ctx context.Context, w *waiter) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.worker.Clock.Now()
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
	case p.asks.out != nil && p.asks.out.waiter != nil:
		p.reassignAsk()
	}
	p.advance(now)
	return ctx.Err()
}

// Settle corrects what the call a was charged: unused is refunded, and overused is
// charged. An uncharged call is refunded nothing. It does not wait for the store.
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

// refund queues a refund of cost that was charged to a. Only the store can tell
// how much of it still counts, for the leases held now are not those that it was
// spent from.
func (p *Pool) refund(now int64, cost bucket.Cost, a Admission) {
	if cost.IsZero() || a.Uncharged {
		return
	}
	p.report.addUnused(cost, p.forecast.times.at(a.At))
	p.report.dueWithin(now, settleWithin)
}

// Cooldown returns all leases and refunds, and then empties the bucket for d: in
// this order, or what is returned would be available during the cooldown.
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
	p.asks.cooling++ // no ask may take what is returned before the bucket is empty
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

// Close ends the calls that wait and the outstanding ask. The pool reports nothing
// any more: see [Worker.Close].
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

// unreported returns what a closed pool has not reported: the settlements of its
// leases, and an adjustment or nil.
func (p *Pool) unreported() ([]bucket.Settlement, *bucket.Adjustment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	done := p.leases.close(p.key, p.report.done, func(*heldLease) bool { return true })
	p.report.done = nil
	a := p.newAdjustment()
	if p.report.takeCorrection(&a) {
		return done, &a
	}
	return done, nil
}

func (p *Pool) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advance(p.worker.Clock.Now())
}

// advance does all that is due at now. The order matters: waiters are served from
// what is held before leases are closed, so that none is returned that a waiter
// needs. Leases are closed before more is asked for, so that their settlements
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
	p.demand.update(now)
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
	for w := p.queue.first; w != nil && p.leases.spend(now, w.cost); w = p.queue.first {
		p.countAdmitted(w.cost)
		p.queue.admit(w, Admission{At: now})
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
			if !l.left.IsZero() || !p.isSmall(l.spent) {
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

// isSmall reports whether spent refills soon. What is leased keeps the bucket from
// filling, so only small spends may wait for the next ask.
func (p *Pool) isSmall(spent bucket.Cost) bool {
	for u := range bucket.Tokens + 1 {
		for _, r := range p.limits.Of(u) {
			if r.Span(spent.Of(u)) > smallSpend {
				return false
			}
		}
	}
	return true
}

// reserved returns what the waiters will take of the leases held, and whether that
// leaves a waiter without.
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

// tooLate is the outcome for a caller that would have to wait for after.
func (p *Pool) tooLate(now int64, cost bucket.Cost, after time.Duration) error {
	_, unit := p.refilledAt(now, cost)
	return &Refusal{Unit: unit, RetryAfter: after}
}

// knownRefusal returns the refusal of a caller that does not wait, as far as is
// known here. If its RetryAfter is zero, the store has to be asked.
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
			p.refuse(w, &Refusal{Unit: unit, RetryAfter: time.Duration(at - now)})
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

// send reports what has been settled since the last exchange.
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
