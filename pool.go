package choked

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
)

const (
	settleWithin = 50 * time.Millisecond  // when something comes back
	spentWithin  = 200 * time.Millisecond // a little that nothing comes back of: the next ask takes it along
	little       = 100 * time.Millisecond // of refill
	trifle       = 10 * time.Millisecond  // of refill
	idleAfter    = 500 * time.Millisecond // a lease goes back, if nobody needs it
	tick         = 250 * time.Millisecond // how often leases in hand are looked over
	spare        = 100 * time.Millisecond // before its end, a lease that is not used up goes back
	forever      = math.MaxInt64 / 4      // longer than anyone waits
)

// pool is one key in this worker: the leases in hand, and the callers who wait
// for more, first come, first served. At most one ask is under way at a time.
//
// No goroutine belongs to it for good. What is to be done happens on the
// callers' goroutines, on the answer to an ask, or when the one timer fires,
// and always ends in step.
type pool struct {
	choke   *Choke
	key     string
	limits  Limits
	burst   Cost
	eager   bool // settle at once: the burst is small against the rate
	least   Cost // to ask for: others hardly notice that it is gone
	defined int64

	mu     sync.Mutex
	hand   hand
	low    Cost // in hand: time to ask for more
	line   waiters
	ask    *asking      // under way; nil: none
	done   []Settlement // to be reported with the next ask, or by due
	owed   Cost         // to be charged, used beyond what was estimated
	unused Cost         // to be returned, less used than estimated
	since  int64        // the store's time before any of it was charged
	due    int64        // when done, owed and unused have to be reported; 0: nothing to report
	demand demand
	timer  *time.Timer

	pauseUntil int64 // no asking ahead of demand before
	backingOff int   // the store is being told to empty the bucket: no asking at all
	failing    bool  // the store's last answer was an error: fail-open callers pass
	opened     int64 // after the last of them passed
	refusal    refused
	heard      bool // level is known
	level      Cost // of the bucket, as of levelAt
	levelAt    int64
	instants   instants
	probing    bool // an ask for the level is under way
	closed     bool
	stats      Stats
}

func newPool(c *Choke, key string, limits Limits) *pool {
	p := &pool{choke: c, key: key, limits: limits, burst: limits.Burst(), least: limits.In(trifle), defined: time.Now().UnixNano()}
	for _, rs := range [...]bucket.Rates{limits.Requests, limits.Tokens} {
		for _, r := range rs {
			p.eager = p.eager || r.In(idleAfter) >= r.Burst
		}
	}
	p.timer = time.AfterFunc(math.MaxInt64, p.tick)
	p.timer.Stop() // while it runs, it keeps the pool from being forgotten
	return p
}

// take spends cost from what is in hand, if that covers it and nobody waits.
func (p *pool) take(cost Cost) (now int64, ok bool) {
	p.mu.Lock()
	now = p.choke.clock.Now()
	ok = p.takeLocked(now, cost)
	p.mu.Unlock()
	return now, ok
}

// try is take for callers who do not wait. When no more is to be had for now it
// says for how long; neither means that the store has to be asked.
func (p *pool) try(cost Cost) (now int64, ok bool, retryAfter time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now = p.choke.clock.Now()
	if p.takeLocked(now, cost) {
		return now, true, 0
	}
	if p.closed {
		return now, false, 0
	}
	retryAfter = p.later(now, cost)
	if retryAfter > 0 {
		p.stats.Refused++
	}
	return now, false, retryAfter
}

func (p *pool) takeLocked(now int64, cost Cost) bool {
	if p.line.len > 0 && !cost.IsZero() || p.closed { // nothing may overtake, for it delays nobody
		return false
	}
	if !p.hand.spend(now, cost) {
		return false
	}
	p.admitted(cost)
	if !p.hand.left.Covers(p.low) || p.hand.usedUp() {
		p.step(now)
	}
	return true
}

func (p *pool) admitted(cost Cost) {
	p.demand.take(cost)
	p.stats.Admitted++
	p.stats.Spent = p.stats.Spent.Add(cost)
}

// wait stands in line until w is admitted or refused, or ctx ends.
func (p *pool) wait(ctx context.Context, w *waiter) error {
	p.mu.Lock()
	now := p.choke.clock.Now()
	w.spent = now // if it is admitted at once
	switch {
	case p.closed:
		p.mu.Unlock()
		return ErrClosed
	case p.line.len == 0 && p.hand.spend(now, w.cost):
		p.admitted(w.cost)
		p.step(now)
		p.mu.Unlock()
		return nil
	case w.failOpen && p.failing:
		p.stats.Opened++
		p.opened = now + 1
		p.probe(now)
		p.mu.Unlock()
		return nil
	case w.deadline <= now:
		p.stats.Refused++
		p.mu.Unlock()
		return fmt.Errorf("%w: %w", ErrDeadline, context.DeadlineExceeded)
	}
	after := time.Duration(0)
	if w.atOnce {
		after = p.later(now, w.cost)
	} else if at := p.earliest(now, w.cost); at > w.deadline {
		after = time.Duration(at - now)
	}
	if after > 0 {
		p.stats.Refused++
		p.mu.Unlock()
		return &refusal{after}
	}
	if p.line.len > 0 && p.ask != nil && w.deadline < forever && !p.heardSince(p.ask.sent) {
		p.probe(now)
	}
	p.line.push(w)
	p.step(now)
	p.mu.Unlock()

	select {
	case err := <-w.admitted:
		return err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now = p.choke.clock.Now()
	if !p.line.remove(w) {
		if err := <-w.admitted; err != nil { // the two met
			return err
		}
		if w.opened {
			p.stats.Opened--
		} else {
			p.stats.Admitted--
			p.stats.Spent = p.stats.Spent.Sub(w.cost)
			p.returns(now, w.cost, w.spent)
		}
	} else if p.ask != nil && p.ask.forWho != nil {
		p.handOver()
	}
	p.step(now)
	return ended(ctx)
}

// handOver gives the ask under way, and its place in the store's line, to the
// first whom nothing in hand will serve. One that needs more asks for all of that
// afterwards. For others the ask is withdrawn: one that needs less may have its
// turn now, and who waits for quota is not to be judged by an ask that does not,
// nor the other way round.
func (p *pool) handOver() {
	need, next := p.need()
	if next == nil || !need.Covers(p.ask.Need) || next.atOnce != (p.ask.MaxWait <= 0) {
		p.ask.cancel()
		next = nil
	}
	p.ask.forWho = next
}

func (p *pool) tick() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.step(p.choke.clock.Now())
}

// step does all that is to be done at now: admits whose turn has come, closes
// leases, asks for more, reports, and sets the timer for the next.
func (p *pool) step(now int64) {
	for w := p.line.first; w != nil && p.hand.spend(now, w.cost); w = p.line.first {
		p.admitted(w.cost)
		p.line.admit(w, now)
	}
	for w := p.line.first; w != nil && w.atOnce; w = p.line.first {
		after := p.unripe(now, w.cost)
		if after == 0 {
			break
		}
		p.refuse(w, &refusal{after})
	}
	if p.closed {
		return
	}
	if p.ask != nil && p.ask.forWho != nil && !p.ask.forWho.queued {
		p.handOver() // it was served by what came back meanwhile
	}
	p.demand.observe(now)
	p.look(now)
	p.askMore(now)
	p.low = Cost{}
	if p.ask == nil && now >= p.pauseUntil {
		p.low = p.limits.Limited(p.demand.low())
	}
	if p.due > 0 && now >= p.due {
		p.report()
	}

	next := int64(math.MaxInt64)
	if w := p.line.first; w != nil {
		next = min(next, max(p.hand.ripens(now, w.cost), now+int64(50*time.Microsecond)))
	}
	for i := range p.hand.leases {
		next = min(next, max(p.hand.leases[i].closes(), now+int64(50*time.Microsecond)), now+int64(tick))
	}
	if p.due > 0 {
		next = min(next, p.due)
	}
	if next < math.MaxInt64 {
		p.timer.Reset(time.Duration(next - now))
	}
}

// look closes the leases that are used up, over, or needed no more.
func (p *pool) look(now int64) {
	before := len(p.done)
	within := spentWithin
	if p.eager {
		within = 0
	}
	served, starved := p.served()
	p.done = p.hand.shut(p.key, p.done, func(o *open) bool {
		if o.left.IsZero() || now >= o.closes() {
			if !o.left.IsZero() || !p.isLittle(o.spent) {
				within = min(within, settleWithin)
			}
			return true
		}
		if part := served.Min(o.left); !part.IsZero() { // someone in line will be served by it
			served = served.Sub(part)
			return false
		}
		if starved || now-max(o.used, o.ripe) >= int64(idleAfter) {
			within = 0
			return true
		}
		return false
	})
	if len(p.done) > before {
		p.reportBy(now, within)
	}
}

// isLittle reports whether so much is refilled soon. What is out on leases keeps
// the bucket from filling, so only a little may be left out for long.
func (p *pool) isLittle(spent Cost) bool {
	for u := range bucket.Tokens + 1 {
		for _, r := range p.limits.Of(u) {
			if r.Span(spent.Of(u)) > little {
				return false
			}
		}
	}
	return true
}

// served is what those in line will take of what is in hand, and whether it
// leaves someone without.
func (p *pool) served() (sum Cost, starved bool) {
	for w := p.line.first; w != nil; w = w.next {
		if !p.hand.left.Covers(sum.Add(w.cost)) {
			return sum, true
		}
		sum = sum.Add(w.cost)
	}
	return sum, false
}

func (p *pool) refuse(w *waiter, err error) {
	if p.line.remove(w) {
		p.stats.Refused++
		w.admitted <- err
	}
}

// close turns the callers in line away and withdraws the ask under way.
func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.timer.Stop()
	for w := p.line.first; w != nil; w = p.line.first {
		p.line.release(w, ErrClosed)
	}
	if p.ask != nil {
		p.ask.cancel()
	}
}

// rest is what a closed pool still has to report.
func (p *pool) rest() ([]Settlement, *Adjustment) {
	p.mu.Lock()
	defer p.mu.Unlock()
	done := p.hand.shut(p.key, p.done, func(*open) bool { return true })
	if a, ok := p.correction(); ok {
		return done, &a
	}
	return done, nil
}
