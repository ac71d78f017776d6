package storetest

import (
	"context"
	"errors"
	"time"

	"github.com/choked/choked/bucket"
)

var queueRules = []rule{
	{"turn", "an ask waits its turn and is served when the quota has come", func(c *court) {
		c.limit(brisk, "")
		empty := c.Now()
		c.spend(requests(10))
		a := c.ask(requests(10), 5*time.Second)
		p := c.start(a)
		c.waiting(500*time.Millisecond, p)
		l := c.isGranted(a, c.answer(time.Second-c.Now().Sub(empty), p))
		var ready time.Duration
		for _, d := range l.Drips {
			ready = max(ready, d.Ready)
		}
		if took := p.at.Add(ready).Sub(empty); took < time.Second || took > time.Second+2*step+2*c.Slack {
			c.failf("10 units at 10/s can be spent after %v, want 1s", took)
		}
	}},
	{"patience", "an ask that waits for leases to be settled is refused when MaxWait is over, not before", func(c *court) {
		c.limit(brisk, "")
		c.granted(c.ask(requests(10), 0))
		a := c.ask(requests(5), 600*time.Millisecond)
		begun := c.Now()
		p := c.start(a)
		c.isRefused(a, c.answer(600*time.Millisecond, p))
		if took := p.at.Sub(begun); took < 590*time.Millisecond {
			c.failf("at most 600ms: refused after %v, and it could have been settled meanwhile", took)
		}
	}},
	{"in order", "asks for one key are served in the order in which they came: small ones do not overtake", func(c *court) {
		c.limit(brisk, "")
		c.spend(requests(10))
		asks := []bucket.Ask{c.ask(requests(10), 9*time.Second), c.ask(requests(1), 9*time.Second), c.ask(requests(3), 9*time.Second)}
		var calls []*call
		for _, a := range asks {
			calls = append(calls, c.start(a))
		}
		for i, p := range calls {
			c.isGranted(asks[i], c.answer(2*time.Second, p))
			c.settle(asks[i], asks[i].Need)
		}
		for i, q := range calls[1:] {
			if p := calls[i]; q.lease.At < p.lease.At {
				c.failf("%s is served before %s, which came earlier", q.what, p.what)
			}
		}
	}},
	{"settled past the line", "a settlement is never held back by a waiting ask, and frees quota for it at once", func(c *court) {
		c.limit(brisk, "")
		a, b := c.ask(requests(10), 0), c.ask(requests(5), 10*time.Second)
		c.granted(a)
		p := c.start(b)
		c.waiting(500*time.Millisecond, p)
		c.settle(a, bucket.Cost{})
		c.isGranted(b, c.answer(0, p))
	}},
	{"done past the line", "what a waiting ask has done is settled at once, also when others stand before it", func(c *court) {
		c.limit(brisk, "")
		a, b, last := c.ask(requests(10), 0), c.ask(requests(5), 10*time.Second), c.ask(requests(9), 10*time.Second)
		c.granted(a)
		p := c.start(b)
		last.Done = []bucket.Settlement{{Key: a.Key, ID: a.ID, Spent: requests(4)}}
		q := c.begin(last)
		c.isGranted(b, c.answer(0, p))
		c.waiting(100*time.Millisecond, q)
		c.settle(b, requests(5))
		c.isGranted(last, c.answer(time.Second, q))
	}},
	{"cancel", "an ask that is cancelled while it waits leaves no trace: the next is served, and nothing is missing", func(c *court) {
		c.limit(slow, "")
		a, b := c.ask(requests(10), 0), c.ask(requests(10), time.Hour)
		c.granted(a)
		c.limit("100/h burst 10", "")
		p := c.start(b)
		next := c.ask(requests(1), time.Hour)
		q := c.start(next)
		c.settle(a, requests(4)) // 6: too little for the one, and it is first
		c.waiting(100*time.Millisecond, p)
		c.waiting(100*time.Millisecond, q)
		p.end()
		if c.within(0, p); !errors.Is(p.err, context.Canceled) {
			c.failf("cancelled while it waits: %+v, %v, want context.Canceled", p.lease, p.err)
		}
		c.isGranted(next, c.answer(0, q))
		c.holds(5)
	}},
	{"cancelled before", "an ask whose context has ended already is answered, or ends with an error and takes nothing", func(c *court) {
		c.limit(slow, "")
		ctx, cancel := context.WithCancel(c.ctx)
		cancel()
		a := c.ask(requests(4), 0)
		p := c.within(0, c.goCall(describe(a), func(_ context.Context, p *call) { p.lease, p.err = c.Lease(ctx, a) }))
		if p.err == nil {
			c.isGranted(a, p.lease)
			c.settle(a, bucket.Cost{})
		}
		c.Advance(step + c.Slack) // what it may have granted is taken back soon
		c.holds(10)
	}},
	{"no head of line", "an ask that waits for one key does not hold up another", func(c *court) {
		c.limit(brisk, "")
		c.granted(c.ask(requests(10), 0))
		c.start(c.ask(requests(10), 10*time.Second))
		c.key += "-2"
		c.granted(c.ask(requests(10), 0))
	}},
	{"close ends waits", "Close ends the asks that wait with ErrClosed", func(c *court) {
		c.limit(brisk, "")
		c.granted(c.ask(requests(10), 0))
		p := c.start(c.ask(requests(5), 10*time.Second))
		c.do("Close", func(context.Context) error { return c.Close() })
		if c.within(0, p); !errors.Is(p.err, bucket.ErrClosed) {
			c.failf("closed while it waits: %+v, %v, want ErrClosed", p.lease, p.err)
		}
	}},
}
