// Package storetest is the law for stores of choked: a store that passes [Test]
// can stand behind a limiter. The law is a list of rules, each a name and a
// sentence, and a store that breaks one is told which.
//
//	func TestStore(t *testing.T) {
//		storetest.Test(t, storetest.Harness{
//			Open: func(t *testing.T) storetest.Store { return mystore.New() },
//			In:   synctest.Test,
//		})
//	}
package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/choked/choked/bucket"
)

// Store is what is tested: what choked.Store says.
type Store interface {
	Lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error)
	Settle(ctx context.Context, done []bucket.Settlement) error
	Adjust(ctx context.Context, a bucket.Adjustment) error
	Close() error
}

// Harness says how to run a store. Only Open is needed.
type Harness struct {
	// Open returns a store for one rule, which closes it. Stores may share what
	// they stand on: each rule keeps to keys of its own.
	Open func(t *testing.T) Store

	// Advance lets time pass for the store. Nil: time.Sleep.
	Advance func(time.Duration)

	// Now is the clock that Advance moves. Nil: time.Now.
	Now func() time.Time

	// In runs each rule. With synctest.Test it has a clock of its own, and takes
	// no time. Nil: the rules run side by side on the clock as it is.
	In func(t *testing.T, rule func(t *testing.T))

	// InLine reports whether an ask stands in line. Nil, for a store that cannot
	// tell: an ask is given half the slack to get there.
	InLine func(key string, id bucket.LeaseID) bool

	// Slack is by how much answers may be late on a real clock: the network, the
	// disk, the scheduler. Zero in a bubble; keep it below 300ms. A rule that was
	// broken while they were late by more than half of it is judged again.
	Slack time.Duration

	// Skip names rules that do not apply, each with the reason.
	Skip map[string]string
}

// Test holds the stores that h opens to every rule.
func Test(t *testing.T, h Harness) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			if why := h.Skip[r.name]; why != "" {
				t.Skip(why)
			}
			in := h.In
			if in == nil {
				t.Parallel()
				in = func(t *testing.T, rule func(t *testing.T)) { rule(t) }
			}
			in(t, func(t *testing.T) {
				if broken := r.judge(t, h); broken != "" {
					t.Errorf("The rule: %s.\n%s", r.law, broken)
				}
			})
		})
	}
}

// rule is one sentence of the law and how to find out.
type rule struct {
	name  string
	law   string
	check func(c *court)
}

// trials is how often a rule is judged at most.
const trials = 5

// step is how finely time is advanced while something is awaited.
const step = 5 * time.Millisecond

// court hears one rule on one store.
type court struct {
	Harness
	Store
	key    string
	holder uint64
	seq    uint64
	limits bucket.Limits
	ctx    context.Context
	wg     sync.WaitGroup
	late   atomic.Int64 // by how many nanoseconds in all the rule came later to its end than it would
}

// broken is what a court stops with when a rule is broken.
type broken string

// judge returns how the rule is broken, or nothing. A rule says what holds at
// some time: of a machine that was busy with something else then, nothing was
// learned.
func (r rule) judge(t *testing.T, h Harness) (verdict string) {
	if h.Advance == nil {
		h.Advance = time.Sleep
	}
	if h.Now == nil {
		h.Now = time.Now
	}
	for range trials {
		var late time.Duration
		if verdict, late = r.try(t, h); verdict == "" || late <= h.Slack/2 {
			return verdict
		}
		verdict += fmt.Sprintf(" (answers were late by %v in all, of a slack of %v)", late, h.Slack)
	}
	return verdict
}

// try judges once, and returns also by how much all answers were late.
func (r rule) try(t *testing.T, h Harness) (verdict string, late time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &court{Harness: h, Store: h.Open(t), ctx: ctx, holder: rand.Uint64()}
	c.key = fmt.Sprintf("storetest-%s-%x", r.name, c.holder)
	defer func() {
		switch b := recover().(type) {
		case nil:
		case broken:
			verdict = string(b)
		default:
			verdict = fmt.Sprintf("panic: %v\n%s", b, debug.Stack())
		}
		cancel()
		if err := c.Close(); err != nil && verdict == "" {
			verdict = fmt.Sprintf("Close: %v", err)
		}
		c.wg.Wait()
		late = time.Duration(c.late.Load())
	}()
	r.check(c)
	return "", 0
}

// Advance lets time pass.
func (c *court) Advance(d time.Duration) {
	defer c.timely(c.Now(), d)
	c.Harness.Advance(d)
}

// timely notes by how much what began then took longer than d. Every clock and
// every scheduler is off by a little.
func (c *court) timely(begun time.Time, d time.Duration) {
	if late := c.Now().Sub(begun) - d; late >= step {
		c.late.Add(int64(late))
	}
}

// failf ends the rule: it is broken.
func (c *court) failf(format string, args ...any) { panic(broken(fmt.Sprintf(format, args...))) }

// limit sets the limits that the asks to come bear.
func (c *court) limit(requests, tokens string) {
	l, err := bucket.ParseLimits(requests, tokens)
	if err != nil {
		panic(err)
	}
	c.limits = l
}

func requests(n int64) bucket.Cost { return bucket.Cost{Requests: n} }

// ask is an ask of a holder that asked for nothing yet.
func (c *court) ask(need bucket.Cost, wait time.Duration) bucket.Ask {
	c.seq++
	return bucket.Ask{
		Key: c.key, ID: bucket.LeaseID{Holder: c.holder + c.seq, Seq: 1}, Limits: c.limits, Defined: 1,
		Need: need, Want: need, MaxWait: wait,
	}
}

// prefetch is an ask without need.
func (c *court) prefetch(want bucket.Cost) bucket.Ask {
	a := c.ask(bucket.Cost{}, 0)
	a.Want = want
	return a
}

// call is a call under way.
type call struct {
	what  string
	done  chan struct{}
	end   context.CancelFunc
	lease bucket.Lease
	err   error
	at    time.Time // when it was done
}

func (c *court) goCall(what string, f func(ctx context.Context, p *call)) *call {
	ctx, cancel := context.WithCancel(c.ctx)
	p := &call{what: what, done: make(chan struct{}), end: cancel}
	c.wg.Go(func() {
		defer close(p.done)
		defer cancel()
		f(ctx, p)
		p.at = c.Now()
	})
	return p
}

// begin begins an ask.
func (c *court) begin(a bucket.Ask) *call {
	return c.goCall(describe(a), func(ctx context.Context, p *call) { p.lease, p.err = c.Lease(ctx, a) })
}

// start begins an ask and lets it stand in line. Whoever is started next comes
// later.
func (c *court) start(a bucket.Ask) *call {
	p := c.begin(a)
	if c.InLine == nil {
		c.Advance(step + c.Slack/2)
		return p
	}
	for end := c.Now().Add(step + 4*c.Slack); !p.over() && !c.InLine(a.Key, a.ID); c.Advance(step) {
		if c.Now().After(end) {
			c.failf("%s does not come to stand in line", p.what)
		}
	}
	return p
}

func describe(a bucket.Ask) string {
	return fmt.Sprintf("Lease(need %v, want %v, at most %v)", a.Need, a.Want, a.MaxWait)
}

func (p *call) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// within waits for p and fails the rule if it takes longer than d.
func (c *court) within(d time.Duration, p *call) *call {
	defer c.timely(c.Now(), d)
	pause := time.Microsecond // a prompt answer should not cost a whole step
	// By how much an answer is late tells little on a busy machine, and no rule
	// rests on it: what matters is that it comes.
	for end := c.Now().Add(d + step + 4*c.Slack); !p.over(); pause = min(2*pause, step) {
		if c.Now().After(end) {
			c.failf("%s has no answer after %v", p.what, d)
		}
		c.Advance(pause)
	}
	return p
}

// waiting fails the rule if p is answered before d has passed.
func (c *court) waiting(d time.Duration, p *call) {
	for end := c.Now().Add(d); c.Now().Before(end); c.Advance(step) {
		if p.over() {
			c.failf("%s is answered too early: %+v, %v", p.what, p.lease, p.err)
		}
	}
}

// now is an ask that is answered at once, without an error.
func (c *court) now(a bucket.Ask) bucket.Lease {
	return c.answer(0, c.begin(a))
}

// answer is p's, within d.
func (c *court) answer(d time.Duration, p *call) bucket.Lease {
	if c.within(d, p); p.err != nil {
		c.failf("%s: %v", p.what, p.err)
	}
	return p.lease
}

// granted is an ask that is granted at once.
func (c *court) granted(a bucket.Ask) bucket.Lease { return c.isGranted(a, c.now(a)) }

func (c *court) isGranted(a bucket.Ask, l bucket.Lease) bucket.Lease {
	switch {
	case !l.OK:
		c.failf("%s is refused: retry after %v, level %v", describe(a), l.RetryAfter, l.Level)
	case l.ID != a.ID:
		c.failf("%s by id %v: the lease has id %v", describe(a), a.ID, l.ID)
	case !l.Granted.Covers(a.Need) || !a.Want.Max(a.Need).Covers(l.Granted):
		c.failf("%s: granted %v", describe(a), l.Granted)
	case l.ValidFor <= 0:
		c.failf("%s: valid for %v", describe(a), l.ValidFor)
	}
	return l
}

// refused is an ask that is refused at once.
func (c *court) refused(a bucket.Ask) bucket.Lease { return c.isRefused(a, c.now(a)) }

func (c *court) isRefused(a bucket.Ask, l bucket.Lease) bucket.Lease {
	switch {
	case l.OK:
		c.failf("%s is granted %v", describe(a), l.Granted)
	case !l.Granted.IsZero():
		c.failf("%s is refused and granted %v", describe(a), l.Granted)
	case l.RetryAfter <= 0:
		c.failf("%s is refused: retry after %v", describe(a), l.RetryAfter)
	}
	return l
}

// holds fails the rule unless the bucket has just n requests to give, and takes
// them. It asks by need, for a store may grant a want in part. It is for limits
// under which nothing refills meanwhile and nothing is promised.
func (c *court) holds(n int64) {
	if l := c.now(c.ask(requests(n), 0)); n > 0 && !l.OK {
		c.failf("the bucket does not hold %d requests: retry after %v, level %v", n, l.RetryAfter, l.Level)
	}
	if l := c.now(c.ask(requests(1), 0)); l.OK {
		c.failf("the bucket holds more than %d requests", n)
	}
}

// settle closes a lease, at once.
func (c *court) settle(a bucket.Ask, spent bucket.Cost) {
	c.do("Settle", func(ctx context.Context) error {
		return c.Settle(ctx, []bucket.Settlement{{Key: a.Key, ID: a.ID, Spent: spent}})
	})
}

// spend takes so much out of the bucket for good.
func (c *court) spend(n bucket.Cost) {
	a := c.ask(n, 0)
	c.granted(a)
	c.settle(a, n)
}

// at is an instant of the store's time, as it tells by its answers.
func (c *court) at() int64 { return c.now(c.prefetch(bucket.Cost{})).At }

// returns gives back what was charged just now.
func (c *court) returns(n bucket.Cost) { c.adjust(bucket.Adjustment{Return: n, Since: c.at()}) }

func (c *court) adjust(a bucket.Adjustment) {
	a.Key, a.Limits, a.Defined = c.key, c.limits, max(a.Defined, 1)
	c.do("Adjust", func(ctx context.Context) error { return c.Adjust(ctx, a) })
}

func (c *court) do(what string, f func(ctx context.Context) error) {
	if p := c.within(0, c.goCall(what, func(ctx context.Context, p *call) { p.err = f(ctx) })); p.err != nil {
		c.failf("%s: %v", what, p.err)
	}
}

// fails is a call that ends with an error at once.
func (c *court) fails(what string, f func(ctx context.Context) error) error {
	p := c.within(0, c.goCall(what, func(ctx context.Context, p *call) { p.err = f(ctx) }))
	if p.err == nil {
		c.failf("%s: no error", what)
	}
	return p.err
}
