package storetest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
)

var rules = func() (all []rule) {
	all = append(all, leaseRules...)
	all = append(all, settleRules...)
	all = append(all, queueRules...)
	all = append(all, loadRules...)
	return append(all, unavailableRules...)
}()

var loadRules = []rule{
	{name: "bound", sentence: "over every window, all holders together spend at most the burst and the refill of the window", check: func(s *suite) {
		s.limit("100/s burst 40,220/3s", "2000/s burst 1500")
		l := newLoad(s)
		for i := range 12 {
			l.join([]habit{prompt, late, crash, prompt}[i%4], bucket.Cost{Requests: 1 + int64(i%3), Tokens: int64(10 * i)})
		}
		l.run(8 * time.Second)
		l.within()
		if len(l.spent) < 100 {
			s.failf("12 holders spend only %d times in 8s: too few for a verdict", len(l.spent))
		}
	}},
	{name: "use", sentence: "under enough demand, at least 99% of the limit is used", check: func(s *suite) {
		s.limit("100/s", "")
		l := newLoad(s)
		for range 8 {
			l.join(prompt, requests(1))
		}
		took := l.run(8 * time.Second)
		l.within()
		could := 100 + took.Seconds()*100
		share := 0.99
		if s.Slack > 0 {
			share = 0.95 // for a busy machine and a network
		}
		if got := float64(l.total().Requests + l.held.Requests); got < share*could {
			s.failf("8 holders spend or hold %.0f units in %v, where the limit allows %.0f: %.1f%%", got, took, could, 100*got/could)
		}
	}},
}

// habit is how a holder spends.
type habit int

const (
	prompt habit = iota // each unit as soon as it is available
	late                // all at once, just before the lease expires
	crash               // like prompt, but now and then the holder ends without a settlement
)

// load is many holders of one key. They wait for the clock together, so that one
// goroutine can advance it.
type load struct {
	*suite
	end time.Time

	mu     sync.Mutex
	tick   *sync.Cond
	over   bool
	spent  []expense    // in order of time
	leases []*heldLease // the last one of each holder
	held   bucket.Cost  // unspent units of valid leases at the end
	errs   []error
	start  []func()
}

type expense struct {
	at   time.Duration
	cost bucket.Cost
}

func newLoad(s *suite) *load {
	l := &load{suite: s}
	l.tick = sync.NewCond(&l.mu)
	return l
}

// join adds a holder. Each of its asks needs need and wants five times as much.
func (l *load) join(h habit, need bucket.Cost) {
	i := len(l.leases)
	l.leases = append(l.leases, new(heldLease))
	l.start = append(l.start, func() { l.hold(i, h, need) })
}

// run has the holders spend for d and returns how long that really took.
func (l *load) run(d time.Duration) time.Duration {
	begun := l.Now()
	l.end = begun.Add(d)
	for _, f := range l.start {
		l.wg.Go(f)
	}
	for l.Now().Before(l.end) {
		l.Advance(step)
		l.tick.Broadcast()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.over = true
	l.tick.Broadcast()
	for _, p := range l.leases {
		if l.Now().Before(p.end) {
			l.held = l.held.Add(p.left)
		}
	}
	if len(l.errs) > 0 {
		l.failf("of %d holders, %d failed: %v", len(l.leases), len(l.errs), l.errs[0])
	}
	return l.Now().Sub(begun)
}

// until waits until t, and reports whether the run goes on.
func (l *load) until(t time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.Now().Before(t) && !l.over {
		l.tick.Wait()
	}
	return !l.over
}

// hold leases, spends and settles as holder i until the run ends.
func (l *load) hold(i int, h habit, need bucket.Cost) {
	dice := rand.New(rand.NewPCG(uint64(i), 3))
	id := bucket.LeaseID{Holder: l.holder + uint64(i)}
	var done []bucket.Settlement
	for l.until(l.Now().Add(time.Millisecond)) { // otherwise a store that grants without limit would stop the clock
		id.Seq++
		a := bucket.Ask{
			Key: l.key, ID: id, Limits: l.limits, Defined: 1, MaxWait: time.Second, Done: done,
			Need: need, Want: bucket.Cost{Requests: 5 * need.Requests, Tokens: 5 * need.Tokens},
		}
		sent := l.Now()
		lease, err := l.Lease(l.ctx, a)
		if done = nil; err != nil {
			if l.until(l.Now()) { // otherwise the end of the rule canceled it
				l.mu.Lock()
				l.errs = append(l.errs, fmt.Errorf("lease: %w", err))
				l.mu.Unlock()
			}
			return
		}
		if !lease.OK {
			l.until(l.Now().Add(lease.RetryAfter))
			continue
		}
		p := heldLease{left: lease.Granted, lease: lease, received: l.Now(), end: sent.Add(lease.ValidFor)}
		l.mu.Lock()
		l.leases[i] = &p
		l.mu.Unlock()
		if h == late && !l.until(p.end.Add(-2*step)) {
			return
		}
		crashes := h == crash && dice.IntN(6) == 0
		for l.spend(&p) && !p.left.IsZero() && !(crashes && dice.IntN(2) == 0) {
			l.until(p.next())
		}
		if !crashes {
			done = []bucket.Settlement{{Key: a.Key, ID: id, Spent: lease.Granted.Sub(p.left)}}
		}
	}
}

// heldLease is a lease and its unspent units.
type heldLease struct {
	left     bucket.Cost
	lease    bucket.Lease
	received time.Time
	end      time.Time
}

// unavailable returns how many units of u may not be spent yet at now. Drips are
// stretched by the drift of two clocks, as every holder must do.
func (p *heldLease) unavailable(now time.Time, u bucket.Unit) (n int64) {
	for _, d := range p.lease.Drips {
		if d.Unit == u {
			n = max(n, d.Unavailable(stretched(d)-now.Sub(p.received)))
		}
	}
	return n
}

func stretched(d bucket.Drip) time.Duration { return bucket.Late(d.Ready) }

// next returns when another unit becomes available under all drips, or the lease
// expires.
func (p *heldLease) next() time.Time {
	at := p.end
	for _, u := range []bucket.Unit{bucket.Requests, bucket.Tokens} {
		n, available := p.left.Of(u), p.received
		for _, d := range p.lease.Drips {
			if t := p.received.Add(stretched(d) - d.Until(n-1)); d.Unit == u && t.After(available) {
				available = t
			}
		}
		if n > 0 && available.Before(at) {
			at = available
		}
	}
	return at
}

// spend spends the available units of p, and reports whether p is still valid.
func (l *load) spend(p *heldLease) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.Now() // under the lock, so that expenses are in order of time
	if !now.Before(p.end) || l.over {
		return false
	}
	n := bucket.Cost{
		Requests: max(0, p.left.Requests-p.unavailable(now, bucket.Requests)),
		Tokens:   max(0, p.left.Tokens-p.unavailable(now, bucket.Tokens)),
	}
	p.left = p.left.Sub(n)
	if !n.IsZero() {
		l.spent = append(l.spent, expense{now.Sub(l.end), n})
	}
	return true
}

func (l *load) total() (sum bucket.Cost) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.spent {
		sum = sum.Add(e.cost)
	}
	return sum
}

// wallClockError is one part in how many a store's clock may be fast against the
// rule's on a real clock: NTP corrects a wall clock by up to 500 ppm, the clocks of
// hosts correct those of virtual machines, and the rate is as fast as the store's clock.
// In virtual time there is no error.
const wallClockError = 1000

// within fails the rule if more was spent in some window than its bound. One pass
// suffices: a level that rises with each expense and drains at the rate exceeds the
// burst exactly when a window that ends there had too many. It counts in units times
// Per, so that it is exact.
func (l *load) within() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, u := range []bucket.Unit{bucket.Requests, bucket.Tokens} {
		for _, r := range l.limits.Of(u) {
			var filled, at, from int64
			for i, e := range l.spent {
				now := int64(e.at)
				elapsed := now - at
				if l.In == nil {
					elapsed += elapsed / wallClockError
				}
				if filled -= elapsed * r.N; filled < 0 || i == 0 {
					filled, from = 0, now
				}
				filled, at = filled+e.cost.Of(u)*int64(r.Per), now
				if over := filled - r.Burst*int64(r.Per); over > 0 {
					l.failf("in a window of %v, %.3f %v more are spent than %v allows",
						time.Duration(now-from), float64(over)/float64(r.Per), u, r)
				}
			}
		}
	}
}
