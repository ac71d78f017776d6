package choked

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
)

const (
	settleWithin = 50 * time.Millisecond  // after a lease is used up
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
	failing    bool  // the store's last answer was an error: fail-open callers pass
	refusal    refused
	heard      bool // level is known
	level      Cost // of the bucket, as of levelAt
	levelAt    int64
	instants   instants
	probing    bool // an ask for the level is under way
	closed     bool
	stats      Stats
}

// refused is what the store last refused to a caller who would not wait.
type refused struct {
	cost   Cost
	until  int64 // it may be had
	recent int64 // until then it is not asked again
}

// asking is an ask under way.
type asking struct {
	bucket.Ask
	sent     int64
	forWho   *waiter // whose need it is; nil: asked ahead of demand
	deadline int64   // of the waiter for whom it was made
	cancel   context.CancelFunc
}

func newPool(c *Choke, key string, limits Limits) *pool {
	p := &pool{choke: c, key: key, limits: limits, burst: limits.Burst(), defined: time.Now().UnixNano()}
	for _, rs := range [...]bucket.Rates{limits.Requests, limits.Tokens} {
		for _, r := range rs {
			p.eager = p.eager || r.In(idleAfter) >= r.Burst
		}
	}
	p.timer = time.AfterFunc(math.MaxInt64, p.tick)
	return p
}

// take spends cost from what is in hand, if that covers it and nobody waits.
func (p *pool) take(cost Cost) bool {
	p.mu.Lock()
	ok := p.takeLocked(p.choke.clock.Now(), cost)
	p.mu.Unlock()
	return ok
}

// try is take for callers who do not wait. When no more is to be had for now it
// says for how long; neither means that the store has to be asked.
func (p *pool) try(cost Cost) (ok bool, retryAfter time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.choke.clock.Now()
	if p.takeLocked(now, cost) {
		return true, 0
	}
	if p.closed {
		return false, 0
	}
	retryAfter = p.later(now, cost)
	if retryAfter > 0 {
		p.stats.Refused++
	}
	return false, retryAfter
}

// later is how long a caller who does not wait has to stay away, as far as is
// known here. Zero: the store has to be asked.
func (p *pool) later(now int64, cost Cost) time.Duration {
	sum := p.line.sum.Add(cost)
	switch {
	case p.line.last != nil && !p.line.last.atOnce: // it must not overtake
		return max(time.Duration(p.refilled(now, sum)-now), time.Millisecond)
	case p.hand.left.Covers(sum): // but it is not ripe
		return max(time.Duration(p.hand.ripens(now, sum)-now), 1)
	case now < p.refusal.recent && now < p.refusal.until && cost.Covers(p.refusal.cost):
		return time.Duration(max(p.refusal.until, p.refilled(now, sum)) - now)
	}
	return 0
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
			p.returns(now, w.cost, now)
		}
	} else if p.ask != nil && p.ask.forWho != nil {
		// The next keeps the place in the store's line, unless it needs less:
		// then its turn may be now.
		if need, next := p.need(); next != nil && need.Covers(p.ask.Need) {
			p.ask.forWho = next
		} else if next == nil || p.ask.forWho == w {
			p.ask.cancel()
		}
	}
	p.step(now)
	return ended(ctx)
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

// hear notes the level and the time that came with an answer.
func (p *pool) hear(now int64, l Lease) {
	p.heard, p.level, p.levelAt = true, l.Level, now
	p.instants = p.instants.hear(now, l.At)
}

// heardSince reports whether the level is known as of then, or a little before.
func (p *pool) heardSince(then int64) bool { return p.heard && p.levelAt >= then-int64(hold) }

// hurry turns away those in line who, by the level just heard, wait in vain.
// The first is for the store to judge.
func (p *pool) hurry(now int64) {
	if p.line.first == nil {
		return
	}
	sum := p.line.first.cost
	for w := p.line.first.next; w != nil; {
		next := w.next
		if at := p.refilled(now, sum.Add(w.cost)); at > w.deadline {
			p.refuse(w, &refusal{time.Duration(at - now)})
		} else {
			sum = sum.Add(w.cost)
		}
		w = next
	}
}

// earliest is when the caller now coming could be admitted, as far as is known:
// those before it and what the store said last leave it no sooner.
func (p *pool) earliest(now int64, cost Cost) int64 {
	if p.line.len == 0 || !p.heard {
		return now // the store knows
	}
	return p.refilled(now, p.line.sum.Add(cost))
}

// refilled is when sum will be there by the level last heard; if none was, by
// an empty bucket's.
func (p *pool) refilled(now int64, sum Cost) int64 {
	need := sum.Sub(p.hand.left)
	level, then, at := p.level, p.levelAt, now
	if !p.heard {
		then = now
	}
	for u := range bucket.Tokens + 1 {
		least := int64(math.MaxInt64)
		for _, r := range p.limits.Of(u) {
			there := min(level.Of(u)+r.In(time.Duration(now-then)), r.Burst)
			least = min(least, int64(r.Span(need.Of(u)-there)))
		}
		if least < math.MaxInt64 {
			at = max(at, now+least)
		}
	}
	return at
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
		p.line.release(w, nil)
	}
	for w := p.line.first; w != nil && w.atOnce && p.hand.left.Covers(w.cost); w = p.line.first {
		p.refuse(w, &refusal{time.Duration(p.hand.ripens(now, w.cost) - now)})
	}
	if p.closed {
		return
	}
	if p.ask != nil && p.ask.forWho != nil && !p.ask.forWho.queued {
		// It was served by what came back meanwhile. The next takes its place.
		if _, p.ask.forWho = p.need(); p.ask.forWho == nil {
			p.ask.cancel()
		}
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
	urgent := p.eager
	served, starved := p.served()
	p.done = p.hand.shut(p.key, p.done, func(o *open) bool {
		if o.left.IsZero() || now >= o.closes() {
			return true
		}
		if part := served.Min(o.left); !part.IsZero() { // someone in line will be served by it
			served = served.Sub(part)
			return false
		}
		if starved || now-max(o.since, o.ripe) >= int64(idleAfter) {
			urgent = true
			return true
		}
		return false
	})
	if len(p.done) > before {
		p.reportBy(now, urgent)
	}
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

func (p *pool) reportBy(now int64, urgent bool) {
	due := now + int64(settleWithin)
	if urgent {
		due = now
	}
	if p.due == 0 || due < p.due {
		p.due = max(due, 1)
	}
}

// askMore begins an ask if none is under way and there is a reason for one: a
// waiter whom nothing in hand will serve, or little left at the present demand.
func (p *pool) askMore(now int64) {
	if p.ask != nil || p.closed {
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
	want = p.limits.Limited(want).Min(p.burst).Max(need)
	if want.IsZero() {
		return
	}
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
			p.reportBy(now, false)
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
		p.refusal = refused{cost: w.cost, until: until, recent: min(until, now+int64(hold))}
	}
	p.refuse(w, &refusal{lease.RetryAfter})
	for w := p.line.first; w != nil && w.atOnce && w.cost.Covers(ask.Need); w = p.line.first {
		p.refuse(w, &refusal{lease.RetryAfter})
	}
}

func (p *pool) refuse(w *waiter, err error) {
	if p.line.remove(w) {
		p.stats.Refused++
		w.admitted <- err
	}
}

// failed handles an error of the store: nothing was decided. Those who wait are
// told, or pass, as each has chosen.
func (p *pool) failed(now int64, err error) {
	p.failing = true
	p.pauseUntil = now + int64(tick)
	for w := p.line.first; w != nil; w = p.line.first {
		if w.failOpen {
			p.stats.Opened++
			w.opened = true
			p.line.release(w, nil)
		} else {
			p.stats.Failed++
			p.line.release(w, fmt.Errorf("lease on %q: %w", p.key, err))
		}
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

func (p *pool) adjustment() Adjustment {
	return Adjustment{Key: p.key, Limits: p.limits, Defined: p.defined}
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
	p.reportBy(now, false)
}

// settle moves the difference between what a call was estimated to cost, when
// it was admitted at the instant at or later, and what it has really used.
func (p *pool) settle(at int64, estimated, actual Cost) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	now := p.choke.clock.Now()
	p.returns(now, estimated.Sub(actual).Max(Cost{}), at)
	if owed := p.hand.charge(actual.Sub(estimated).Max(Cost{})); !owed.IsZero() {
		p.owed = p.owed.Add(owed)
		p.reportBy(now, false)
	}
	p.step(now)
}

// backoff gives back all that is in hand and then makes adjustment a, which
// empties the bucket: in this order, or what comes back would be there again.
func (p *pool) backoff(ctx context.Context, a Adjustment) error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return ErrClosed
	}
	done := p.hand.shut(p.key, p.done, func(*open) bool { return true })
	p.done = nil
	now := p.choke.clock.Now()
	p.pauseUntil = now + int64(tick)
	p.stats.Exchanges++
	p.mu.Unlock()
	if len(done) > 0 {
		if err := p.choke.store.Settle(ctx, done); err != nil {
			p.again(done, Cost{})
			return err
		}
	}
	return p.choke.store.Adjust(ctx, a)
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
