package storetest

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/choked/choked/bucket"
)

// slow is a limit under which nothing refills while a rule is tried, so that
// what a bucket holds can be counted. Its unit takes 36s, so that nothing can
// be promised.
const slow = "100/h burst 10"

// brisk is a limit whose unit takes 100ms.
const brisk = "10/s"

var leaseRules = []rule{
	{"full", "a new bucket is full", func(c *court) {
		c.limit(slow, "")
		c.holds(10)
		c.refused(c.prefetch(requests(1)))
	}},
	{"between need and want", "a lease grants at least what is needed and at most what is wanted", func(c *court) {
		c.limit(slow, "")
		a := c.ask(requests(3), 0)
		a.Want = requests(5)
		l := c.granted(a)
		b := c.ask(requests(1), 0)
		b.Want = requests(100)
		left := c.granted(b).Granted.Requests + l.Granted.Requests
		if left > 10 {
			c.failf("two leases on a burst of 10 grant %d", left)
		}
		c.holds(10 - left)
	}},
	{"whole", "what is needed is granted whole or not at all", func(c *court) {
		c.limit(slow, "")
		c.spend(requests(6))
		c.refused(c.ask(requests(5), 0))
		c.holds(4)
	}},
	{"together", "requests and tokens are leased together or not at all", func(c *court) {
		c.limit(slow, "1000/h burst 100")
		c.spend(bucket.Cost{Requests: 1, Tokens: 90})
		c.refused(c.ask(bucket.Cost{Requests: 5, Tokens: 20}, 0))
		c.granted(c.ask(bucket.Cost{Requests: 9, Tokens: 10}, 0)) // all that there was
	}},
	{"several rates", "all rates on a unit hold at once", func(c *court) {
		c.limit("1000/h burst 8,100/d burst 5", "")
		c.holds(5)
	}},
	{"no need, no promise", "an ask without need is never kept waiting, and gets what is there", func(c *court) {
		c.limit(brisk, "")
		c.spend(requests(10))
		a := c.prefetch(requests(10))
		a.MaxWait = time.Minute
		if l := c.now(a); l.Granted.Requests > 2+int64(c.Slack/(100*time.Millisecond)) {
			c.failf("of an empty bucket, %v", l.Granted)
		}
	}},
	{"refused at once", "with MaxWait 0 an ask is decided at once", func(c *court) {
		c.limit(slow, "")
		c.spend(requests(10))
		l := c.refused(c.ask(requests(2), 0))
		if l.RetryAfter > 72*time.Second || l.RetryAfter < 60*time.Second {
			c.failf("two units at one every 36s: retry after %v", l.RetryAfter)
		}
	}},
	{"hopeless", "a wait that cannot end within MaxWait is refused at once, says when to come again, and spends nothing", func(c *court) {
		c.limit(brisk, "")
		c.spend(requests(10))
		a := c.ask(requests(10), 400*time.Millisecond) // it takes 1s, of which a part may be promised
		l := c.refused(a)
		if l.RetryAfter <= 400*time.Millisecond || l.RetryAfter > time.Second {
			c.failf("10 units at 10/s, of which none is there: retry after %v", l.RetryAfter)
		}
		c.Advance(l.RetryAfter + step + c.Slack)
		c.granted(c.ask(requests(10), 0))
	}},
	{"cost exceeds burst", "a cost above the burst is ErrCostExceedsBurst at once, naming both numbers", func(c *court) {
		c.limit("321/h burst 123", "")
		err := c.fails("Lease(need 777 of a burst of 123)", func(ctx context.Context) error {
			_, err := c.Lease(ctx, c.ask(requests(777), time.Hour))
			return err
		})
		if !errors.Is(err, bucket.ErrCostExceedsBurst) || !strings.Contains(err.Error(), "777") || !strings.Contains(err.Error(), "123") {
			c.failf("777 of a burst of 123: %v, want ErrCostExceedsBurst with both numbers", err)
		}
		a := c.ask(requests(100), 0)
		a.Want = requests(777) // wanting more than the burst is no mistake
		c.granted(a)
	}},
	{"bad input", "a bad key, limit or cost is an error at once", func(c *court) {
		c.limit(slow, "")
		for name, spoil := range map[string]func(*bucket.Ask){
			"an empty key":       func(a *bucket.Ask) { a.Key = "" },
			"a huge key":         func(a *bucket.Ask) { a.Key = strings.Repeat("k", bucket.MaxKey+1) },
			"no limits":          func(a *bucket.Ask) { a.Limits = bucket.Limits{} },
			"a rate of zero":     func(a *bucket.Ask) { a.Limits = bucket.Limits{Tokens: bucket.Rates{{}}} },
			"a negative need":    func(a *bucket.Ask) { a.Need.Requests = -1 },
			"a negative want":    func(a *bucket.Ask) { a.Want.Tokens = -1 },
			"an absurd want":     func(a *bucket.Ask) { a.Want.Tokens = bucket.MaxUnits + 1 },
			"a bad settlement":   func(a *bucket.Ask) { a.Done = []bucket.Settlement{{Key: c.key, Spent: requests(-1)}} },
			"a settled bad key ": func(a *bucket.Ask) { a.Done = []bucket.Settlement{{Key: ""}} },
		} {
			a := c.ask(requests(1), time.Minute)
			spoil(&a)
			c.fails("Lease with "+name, func(ctx context.Context) error { _, err := c.Lease(ctx, a); return err })
		}
		c.fails("Settle with a negative cost", func(ctx context.Context) error {
			return c.Settle(ctx, []bucket.Settlement{{Key: c.key, Spent: requests(-1)}})
		})
		for name, a := range map[string]bucket.Adjustment{
			"an empty key":      {Limits: c.limits},
			"no limits":         {Key: c.key},
			"a negative return": {Key: c.key, Limits: c.limits, Return: requests(-1)},
			"a negative time":   {Key: c.key, Limits: c.limits, Empty: -time.Second},
		} {
			c.fails("Adjust with "+name, func(ctx context.Context) error { return c.Adjust(ctx, a) })
		}
		c.holds(10)
	}},
	{"any key", "a key may hold any bytes, and is told from its neighbours by each of them", func(c *court) {
		c.limit(slow, "")
		plain := c.key
		for _, suffix := range []string{"", "\x00", "\xff\xfe", "\n", ":{}*?", " ", "é", "e\u0301", strings.Repeat("x", bucket.MaxKey-len(plain))} {
			c.key = plain + suffix
			c.holds(10)
		}
	}},
	{"same id", "asked again by the same id, the same lease comes back, and it is one lease", func(c *court) {
		c.limit(slow, "")
		a := c.ask(requests(4), 0)
		first := c.granted(a)
		again := a
		again.Need, again.Want = requests(2), requests(9)
		if l := c.now(again); !l.OK || l.Granted != first.Granted || l.ID != a.ID {
			c.failf("asked again, a lease of %v is %+v", first.Granted, l)
		}
		c.settle(a, requests(1))
		c.holds(9)
	}},
	{"independent keys", "keys know nothing of each other", func(c *court) {
		c.limit(slow, "")
		one, two := c.key, c.key+"-2"
		a := c.ask(requests(10), 0)
		c.granted(a)
		c.key = two
		c.holds(10)
		// A settlement under the wrong key is one of an unknown lease.
		wrong := a
		wrong.Key = two
		c.settle(wrong, bucket.Cost{})
		c.refused(c.prefetch(requests(1)))
		c.key = one
		c.refused(c.prefetch(requests(1)))
	}},
}
