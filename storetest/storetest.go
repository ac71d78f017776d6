// Package storetest tests implementations of choked.Store. A store that passes
// [Test] can be used behind a limiter. The tests are a list of rules. Each rule has a
// name and a sentence, which the failure of a store prints.
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

// Store is the interface under test. It has the methods of choked.Store.
type Store interface {
	Lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error)
	Settle(ctx context.Context, done []bucket.Settlement) error
	Adjust(ctx context.Context, a bucket.Adjustment) error
	Close() error
}

// Harness describes how to run a store. Only Open is required.
type Harness struct {
	// Open returns a store for one rule, which closes it. Stores may share a server:
	// each rule has keys of its own.
	Open func(t *testing.T) Store

	// Unavailable returns a store that cannot decide, such as one whose server is
	// away, and a part of the text of the cause. The store should give up within a few
	// seconds. Nil, for a store that can always decide: the rules about it are skipped.
	Unavailable func(t *testing.T) (store Store, cause string)

	// Advance lets time pass for the store. Nil: time.Sleep.
	Advance func(time.Duration)

	// Now is the clock that Advance moves. Nil: time.Now.
	Now func() time.Time

	// In runs each rule. With synctest.Test a rule runs on a virtual clock and takes
	// no real time. Nil: the rules run in parallel on the real clock.
	In func(t *testing.T, rule func(t *testing.T))

	// Queued reports whether an ask is in the queue of its key. Nil, for a store that
	// cannot tell: a rule then allows half of Slack for an ask to get there.
	Queued func(key string, id bucket.LeaseID) bool

	// Slack is how late answers may be on a real clock, because of the network, the
	// disk or the scheduler. It is zero in a bubble and should be below 300 ms. A rule
	// that failed while answers were late by more than half of Slack is run again.
	Slack time.Duration

	// Skip maps the names of rules that do not apply to the reason.
	Skip map[string]string
}

// Test checks every rule on a store that h opens.
func Test(t *testing.T, h Harness) {
	for _, r := range rules {
		t.Run(r.name, func(t *testing.T) {
			if why := r.skip(h); why != "" {
				t.Skip(why)
			}
			in := h.In
			if in == nil {
				t.Parallel()
				in = func(t *testing.T, rule func(t *testing.T)) { rule(t) }
			}
			in(t, func(t *testing.T) {
				if verdict := r.run(t, h); verdict != "" {
					t.Errorf("The rule: %s.\n%s", r.sentence, verdict)
				}
			})
		})
	}
}

// rule is a sentence about stores and its check.
type rule struct {
	name        string
	sentence    string
	check       func(s *suite)
	unavailable bool // the rule is about a store that cannot decide
}

// skip returns why the rule does not apply to the stores of h, or "".
func (r rule) skip(h Harness) string {
	if r.unavailable && h.Unavailable == nil {
		return "the harness has no store that cannot decide"
	}
	return h.Skip[r.name]
}

// maxRuns is how often a rule is run at most, if the machine was busy.
const maxRuns = 5

// step is how far time is advanced at a time while a rule waits for an event.
const step = 5 * time.Millisecond

// suite runs one rule on one store.
type suite struct {
	Harness
	Store
	cause  string // in the errors of a store that cannot decide
	key    string
	holder uint64
	seq    uint64
	limits bucket.Limits
	ctx    context.Context
	wg     sync.WaitGroup
	late   atomic.Int64 // sum of all delays of the machine, in nanoseconds
}

// broken is the value with which a suite panics when a rule is broken.
type broken string

// run returns how the rule is broken, or "". A rule is about points in time, so a run
// on a machine that was busy at such a point is repeated.
func (r rule) run(t *testing.T, h Harness) (verdict string) {
	if h.Advance == nil {
		h.Advance = time.Sleep
	}
	if h.Now == nil {
		h.Now = time.Now
	}
	for range maxRuns {
		var late time.Duration
		if verdict, late = r.try(t, h); verdict == "" || late <= h.Slack/2 {
			return verdict
		}
		verdict += fmt.Sprintf(" (answers were late by %v in all, of a slack of %v)", late, h.Slack)
	}
	return verdict
}

// try runs the rule once, and also returns the sum of all delays.
func (r rule) try(t *testing.T, h Harness) (verdict string, late time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	s := &suite{Harness: h, ctx: ctx, holder: rand.Uint64()}
	if r.unavailable {
		s.Store, s.cause = h.Unavailable(t)
	} else {
		s.Store = h.Open(t)
	}
	s.key = fmt.Sprintf("storetest-%s-%x", r.name, s.holder)
	defer func() {
		switch b := recover().(type) {
		case nil:
		case broken:
			verdict = string(b)
		default:
			verdict = fmt.Sprintf("panic: %v\n%s", b, debug.Stack())
		}
		cancel()
		if err := s.Close(); err != nil && verdict == "" {
			verdict = fmt.Sprintf("Close: %v", err)
		}
		s.wg.Wait()
		late = time.Duration(s.late.Load())
	}()
	r.check(s)
	return "", 0
}

// Advance lets d pass.
func (s *suite) Advance(d time.Duration) {
	defer s.timely(s.Now(), d)
	s.Harness.Advance(d)
}

// timely records the delay of a step that began at begun and should take d. Delays
// below one step are normal.
func (s *suite) timely(begun time.Time, d time.Duration) {
	if late := s.Now().Sub(begun) - d; late >= step {
		s.late.Add(int64(late))
	}
}

// failf ends the rule as broken.
func (s *suite) failf(format string, args ...any) { panic(broken(fmt.Sprintf(format, args...))) }

// limit sets the limits of the asks that follow.
func (s *suite) limit(requests, tokens string) {
	l, err := bucket.ParseShortLimits(requests, tokens)
	if err != nil {
		panic(err)
	}
	s.limits = l
}

func requests(n int64) bucket.Cost { return bucket.Cost{Requests: n} }

// ask returns an ask of a new holder.
func (s *suite) ask(need bucket.Cost, wait time.Duration) bucket.Ask {
	s.seq++
	return bucket.Ask{
		Key: s.key, ID: bucket.LeaseID{Holder: s.holder + s.seq, Seq: 1}, Limits: s.limits, Defined: 1,
		Need: need, Want: need, MaxWait: wait,
	}
}

// prefetch returns an ask without need.
func (s *suite) prefetch(want bucket.Cost) bucket.Ask {
	a := s.ask(bucket.Cost{}, 0)
	a.Want = want
	return a
}

// call is a call of the store that is under way.
type call struct {
	what  string
	done  chan struct{}
	end   context.CancelFunc
	lease bucket.Lease
	err   error
	at    time.Time // when the call ended
}

func (s *suite) goCall(what string, f func(ctx context.Context, p *call)) *call {
	ctx, cancel := context.WithCancel(s.ctx)
	p := &call{what: what, done: make(chan struct{}), end: cancel}
	s.wg.Go(func() {
		defer close(p.done)
		defer cancel()
		f(ctx, p)
		p.at = s.Now()
	})
	return p
}

// begin calls Lease and does not wait.
func (s *suite) begin(a bucket.Ask) *call {
	return s.goCall(describe(a), func(ctx context.Context, p *call) { p.lease, p.err = s.Lease(ctx, a) })
}

// start calls Lease and waits until the ask is in the queue, so that an ask that is
// started next arrives later.
func (s *suite) start(a bucket.Ask) *call {
	p := s.begin(a)
	if s.Queued == nil {
		s.Advance(step + s.Slack/2)
		return p
	}
	for end := s.Now().Add(step + 4*s.Slack); !p.over() && !s.Queued(a.Key, a.ID); s.Advance(step) {
		if s.Now().After(end) {
			s.failf("%s is not queued", p.what)
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

// within waits for p and fails the rule if p takes longer than d.
func (s *suite) within(d time.Duration, p *call) *call {
	defer s.timely(s.Now(), d)
	pause := time.Microsecond // a prompt answer should not cost a whole step
	// The limit is generous: no rule depends on how late an answer is, only on that
	// it arrives.
	for end := s.Now().Add(d + step + 4*s.Slack); !p.over(); pause = min(2*pause, step) {
		if s.Now().After(end) {
			s.failf("%s has no answer after %v", p.what, d)
		}
		s.Advance(pause)
	}
	return p
}

// waiting fails the rule if p is answered within d.
func (s *suite) waiting(d time.Duration, p *call) {
	for end := s.Now().Add(d); s.Now().Before(end); s.Advance(step) {
		if p.over() {
			s.failf("%s is answered too early: %+v, %v", p.what, p.lease, p.err)
		}
	}
}

// now returns the answer to an ask that is decided at once.
func (s *suite) now(a bucket.Ask) bucket.Lease {
	return s.answer(0, s.begin(a))
}

// answer returns the answer of p, which must arrive within d and without an error.
func (s *suite) answer(d time.Duration, p *call) bucket.Lease {
	if s.within(d, p); p.err != nil {
		s.failf("%s: %v", p.what, p.err)
	}
	return p.lease
}

// granted returns the lease of an ask that is granted at once.
func (s *suite) granted(a bucket.Ask) bucket.Lease { return s.isGranted(a, s.now(a)) }

func (s *suite) isGranted(a bucket.Ask, l bucket.Lease) bucket.Lease {
	switch {
	case !l.OK:
		s.failf("%s is refused: retry after %v, level %v", describe(a), l.RetryAfter, l.Level)
	case l.ID != a.ID:
		s.failf("%s by id %v: the lease has id %v", describe(a), a.ID, l.ID)
	case !l.Granted.Covers(a.Need) || !a.Want.Max(a.Need).Covers(l.Granted):
		s.failf("%s: granted %v", describe(a), l.Granted)
	case l.ValidFor <= 0:
		s.failf("%s: valid for %v", describe(a), l.ValidFor)
	}
	return l
}

// refused returns the answer to an ask that is refused at once.
func (s *suite) refused(a bucket.Ask) bucket.Lease { return s.isRefused(a, s.now(a)) }

func (s *suite) isRefused(a bucket.Ask, l bucket.Lease) bucket.Lease {
	switch {
	case l.OK:
		s.failf("%s is granted %v", describe(a), l.Granted)
	case !l.Granted.IsZero():
		s.failf("%s is refused and granted %v", describe(a), l.Granted)
	case l.RetryAfter <= 0:
		s.failf("%s is refused: retry after %v", describe(a), l.RetryAfter)
	}
	return l
}

// holds takes n requests from the bucket and fails the rule unless exactly n were
// available. It asks by need, since a store may grant part of a want. The limit must
// be so slow that no request refills meanwhile and none can be promised.
func (s *suite) holds(n int64) {
	if l := s.now(s.ask(requests(n), 0)); n > 0 && !l.OK {
		s.failf("the bucket does not hold %d requests: retry after %v, level %v", n, l.RetryAfter, l.Level)
	}
	if l := s.now(s.ask(requests(1), 0)); l.OK {
		s.failf("the bucket holds more than %d requests", n)
	}
}

// settle settles the lease of a at once.
func (s *suite) settle(a bucket.Ask, spent bucket.Cost) {
	s.do("Settle", func(ctx context.Context) error {
		return s.Settle(ctx, []bucket.Settlement{{Key: a.Key, ID: a.ID, Spent: spent}})
	})
}

// spend leases n and settles it as spent.
func (s *suite) spend(n bucket.Cost) {
	a := s.ask(n, 0)
	s.granted(a)
	s.settle(a, n)
}

// at returns the current instant of the store's clock, from an answer.
func (s *suite) at() int64 { return s.now(s.prefetch(bucket.Cost{})).At }

// returns refunds units that were charged at the current instant.
func (s *suite) returns(n bucket.Cost) { s.adjust(bucket.Adjustment{Return: n, Since: s.at()}) }

func (s *suite) adjust(a bucket.Adjustment) {
	a.Key, a.Limits, a.Defined = s.key, s.limits, max(a.Defined, 1)
	s.do("Adjust", func(ctx context.Context) error { return s.Adjust(ctx, a) })
}

func (s *suite) do(what string, f func(ctx context.Context) error) {
	if p := s.within(0, s.goCall(what, func(ctx context.Context, p *call) { p.err = f(ctx) })); p.err != nil {
		s.failf("%s: %v", what, p.err)
	}
}

// fails returns the error of a call that fails at once.
func (s *suite) fails(what string, f func(ctx context.Context) error) error {
	return s.failsWithin(0, what, f)
}

// failsWithin returns the error of a call that fails within d.
func (s *suite) failsWithin(d time.Duration, what string, f func(ctx context.Context) error) error {
	p := s.within(d, s.goCall(what, func(ctx context.Context, p *call) { p.err = f(ctx) }))
	if p.err == nil {
		s.failf("%s: no error", what)
	}
	return p.err
}
