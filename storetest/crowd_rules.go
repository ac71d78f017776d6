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
	return append(all, crowdRules...)
}()

var crowdRules = []rule{
	{"bound", "over every window, all holders together spend at most the burst and the refill of the window", func(c *court) {
		c.limit("100/s burst 40,220/3s", "2000/s burst 1500")
		w := newCrowd(c)
		for i := range 12 {
			w.join([]habit{prompt, late, crash, prompt}[i%4], bucket.Cost{Requests: 1 + int64(i%3), Tokens: int64(10 * i)})
		}
		w.run(8 * time.Second)
		w.within()
		if len(w.spent) < 100 {
			c.failf("12 holders spend %d times in 8s: that shows nothing", len(w.spent))
		}
	}},
	{"use", "with enough demand at least 99% of the limit is used", func(c *court) {
		c.limit("100/s", "")
		w := newCrowd(c)
		for range 8 {
			w.join(prompt, requests(1))
		}
		took := w.run(8 * time.Second)
		w.within()
		could := 100 + took.Seconds()*100
		share := 0.99
		if c.Slack > 0 {
			share = 0.95 // a busy machine, a store far away
		}
		if got := float64(w.total().Requests + w.held.Requests); got < share*could {
			c.failf("8 holders spend, or have in hand, %.0f in %v, where %.0f could be spent: %.1f%%", got, took, could, 100*got/could)
		}
	}},
}

// habit is how a holder spends.
type habit int

const (
	prompt habit = iota // as soon as it may
	late                // all at once, just before the lease ends
	crash               // mostly promptly; now and then it is never heard of again
)

// crowd is many holders on one key. They wait for the clock together, so that
// one driver can move it.
type crowd struct {
	*court
	end time.Time

	mu    sync.Mutex
	tick  *sync.Cond
	over  bool
	spent []expense   // in the order of time
	hands []*purse    // by holder: what it has, or had, in hand
	held  bucket.Cost // of that, when it ended
	errs  []error
	start []func()
}

type expense struct {
	at   time.Duration
	cost bucket.Cost
}

func newCrowd(c *court) *crowd {
	w := &crowd{court: c}
	w.tick = sync.NewCond(&w.mu)
	return w
}

// join adds a holder. Each of its asks needs so much, and wants up to five
// times that.
func (w *crowd) join(h habit, need bucket.Cost) {
	i := len(w.hands)
	w.hands = append(w.hands, new(purse))
	w.start = append(w.start, func() { w.hold(i, h, need) })
}

// run lets the crowd spend for d and returns how long it really was.
func (w *crowd) run(d time.Duration) time.Duration {
	begun := w.Now()
	w.end = begun.Add(d)
	for _, f := range w.start {
		w.wg.Go(f)
	}
	for w.Now().Before(w.end) {
		w.Advance(step)
		w.tick.Broadcast()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	w.tick.Broadcast()
	for _, p := range w.hands {
		if w.Now().Before(p.end) {
			w.held = w.held.Add(p.left)
		}
	}
	if len(w.errs) > 0 {
		w.failf("of %d holders, %d failed: %v", len(w.hands), len(w.errs), w.errs[0])
	}
	return w.Now().Sub(begun)
}

// until waits for the clock, and reports whether there is time left.
func (w *crowd) until(t time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.Now().Before(t) && !w.over {
		w.tick.Wait()
	}
	return !w.over
}

func (w *crowd) hold(i int, h habit, need bucket.Cost) {
	dice := rand.New(rand.NewPCG(uint64(i), 3))
	id := bucket.LeaseID{Holder: w.holder + uint64(i)}
	var done []bucket.Settlement
	for w.until(w.Now().Add(time.Millisecond)) { // or a store that grants for nothing would stop the clock
		id.Seq++
		a := bucket.Ask{
			Key: w.key, ID: id, Limits: w.limits, Defined: 1, MaxWait: time.Second, Done: done,
			Need: need, Want: bucket.Cost{Requests: 5 * need.Requests, Tokens: 5 * need.Tokens},
		}
		sent := w.Now()
		l, err := w.Lease(w.ctx, a)
		if done = nil; err != nil {
			if w.until(w.Now()) { // else it was cancelled as the rule ended
				w.mu.Lock()
				w.errs = append(w.errs, fmt.Errorf("lease: %w", err))
				w.mu.Unlock()
			}
			return
		}
		if !l.OK {
			w.until(w.Now().Add(l.RetryAfter))
			continue
		}
		p := purse{left: l.Granted, lease: l, came: w.Now(), end: sent.Add(l.ValidFor)}
		w.mu.Lock()
		w.hands[i] = &p
		w.mu.Unlock()
		if h == late && !w.until(p.end.Add(-2*step)) {
			return
		}
		gone := h == crash && dice.IntN(6) == 0
		for w.spend(&p) && !p.left.IsZero() && !(gone && dice.IntN(2) == 0) {
			w.until(p.next())
		}
		if !gone {
			done = []bucket.Settlement{{Key: a.Key, ID: id, Spent: l.Granted.Sub(p.left)}}
		}
	}
}

// purse is a lease in hand.
type purse struct {
	left  bucket.Cost
	lease bucket.Lease
	came  time.Time
	end   time.Time
}

// unripe is how many of unit u may not be spent at now. Drips are stretched by
// what two clocks may differ, as every holder has to.
func (p *purse) unripe(now time.Time, u bucket.Unit) (n int64) {
	for _, d := range p.lease.Drips {
		if d.Unit == u {
			n = max(n, d.Unavailable(stretched(d)-now.Sub(p.came)))
		}
	}
	return n
}

func stretched(d bucket.Drip) time.Duration { return bucket.Late(d.Ready) }

// next is when another unit is ripe under all its drips, or the lease ends.
func (p *purse) next() time.Time {
	at := p.end
	for _, u := range []bucket.Unit{bucket.Requests, bucket.Tokens} {
		n, ripe := p.left.Of(u), p.came
		for _, d := range p.lease.Drips {
			if t := p.came.Add(stretched(d) - d.Until(n-1)); d.Unit == u && t.After(ripe) {
				ripe = t
			}
		}
		if n > 0 && ripe.Before(at) {
			at = ripe
		}
	}
	return at
}

// spend takes what is ripe of p, and reports whether p is still valid.
func (w *crowd) spend(p *purse) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.Now() // under the lock, so that expenses are in the order of time
	if !now.Before(p.end) || w.over {
		return false
	}
	n := bucket.Cost{
		Requests: max(0, p.left.Requests-p.unripe(now, bucket.Requests)),
		Tokens:   max(0, p.left.Tokens-p.unripe(now, bucket.Tokens)),
	}
	p.left = p.left.Sub(n)
	if !n.IsZero() {
		w.spent = append(w.spent, expense{now.Sub(w.end), n})
	}
	return true
}

func (w *crowd) total() (sum bucket.Cost) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, e := range w.spent {
		sum = sum.Add(e.cost)
	}
	return sum
}

// within fails the rule if some window saw more than its bound. One pass finds
// it: a bucket that is filled by what is spent, and drains at the rate, stands
// above the burst just when a window that ends there saw too much. It is exact,
// in units times Per.
func (w *crowd) within() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, u := range []bucket.Unit{bucket.Requests, bucket.Tokens} {
		for _, r := range w.limits.Of(u) {
			var filled, at, from int64
			for i, e := range w.spent {
				now := int64(e.at)
				if filled -= (now - at) * r.N; filled < 0 || i == 0 {
					filled, from = 0, now
				}
				filled, at = filled+e.cost.Of(u)*int64(r.Per), now
				if over := filled - r.Burst*int64(r.Per); over > 0 {
					w.failf("in a window of %v, %.3f %v more are spent than %v allows",
						time.Duration(now-from), float64(over)/float64(r.Per), u, r)
				}
			}
		}
	}
}
