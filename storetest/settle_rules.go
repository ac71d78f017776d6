package storetest

import (
	"context"
	"errors"
	"time"

	"github.com/choked/choked/bucket"
)

var settleRules = []rule{
	{"settle", "what was spent of a lease is gone, and the rest comes back", func(c *court) {
		c.limit(slow, "")
		a := c.ask(requests(8), 0)
		c.granted(a)
		c.settle(a, requests(3))
		c.holds(7)
	}},
	{"settle in an ask", "what an ask has done is settled first, and is there for the ask", func(c *court) {
		c.limit(slow, "")
		a := c.ask(requests(8), 0)
		c.granted(a)
		b := c.ask(requests(7), 0)
		b.Done = []bucket.Settlement{{Key: a.Key, ID: a.ID, Spent: requests(3)}}
		c.granted(b)
		c.holds(0)
	}},
	{"settle twice", "settling twice, or an unknown lease, changes nothing", func(c *court) {
		c.limit(slow, "")
		a := c.ask(requests(8), 0)
		c.granted(a)
		c.settle(a, requests(3))
		c.settle(a, bucket.Cost{})
		c.settle(c.ask(requests(1), 0), bucket.Cost{})
		c.holds(7)
		unknown := c.ask(requests(1), 0)
		unknown.Key += "-never-used"
		c.settle(unknown, requests(5))
	}},
	{"several at once", "one call settles any number of leases, of any keys", func(c *court) {
		c.limit(slow, "")
		a, b := c.ask(requests(8), 0), c.ask(requests(2), 0)
		other := c.ask(requests(9), 0)
		other.Key += "-2"
		var done []bucket.Settlement
		for _, ask := range []bucket.Ask{a, b, other} {
			c.granted(ask)
			done = append(done, bucket.Settlement{Key: ask.Key, ID: ask.ID, Spent: requests(1)})
		}
		c.do("Settle", func(ctx context.Context) error { return c.Settle(ctx, done) })
		c.holds(8)
		c.key = other.Key
		c.holds(9)
	}},
	{"debt", "a lease of which more was spent than granted leaves a debt", func(c *court) {
		c.limit(slow, "")
		a := c.ask(requests(5), 0)
		c.granted(a)
		c.settle(a, requests(15)) // 5 below zero
		l := c.refused(c.ask(requests(1), 0))
		if l.RetryAfter < 5*36*time.Second || l.RetryAfter > 6*36*time.Second || l.Level.Requests >= 0 {
			c.failf("6 units below one, at one every 36s: retry after %v, level %v", l.RetryAfter, l.Level)
		}
		c.returns(requests(6))
		c.holds(1)
	}},
	{"expiry", "an expired lease does not come back, but the room that it took is there for the refill", func(c *court) {
		c.limit(brisk, "")
		a := c.ask(requests(10), 0)
		l := c.granted(a)
		if l.ValidFor > bucket.TTL {
			c.failf("a lease is valid for %v, and its store's TTL is %v", l.ValidFor, bucket.TTL)
		}
		c.Advance(l.ValidFor - 300*time.Millisecond)
		c.refused(c.prefetch(requests(1))) // all that the bucket can hold is out
		c.Advance(bucket.Late(bucket.TTL) - l.ValidFor + 300*time.Millisecond + step)
		c.refused(c.ask(requests(10), 0)) // it may have been spent
		c.settle(a, bucket.Cost{})        // and it is too late to say that it was not
		c.refused(c.ask(requests(10), 0))
		c.Advance(time.Second + c.Slack)
		c.granted(c.ask(requests(10), 0))
	}},
	{"room", "leased and held never exceed the burst, however long a lease lies idle", func(c *court) {
		c.limit(brisk, "")
		c.granted(c.ask(requests(7), 0))
		c.Advance(time.Second)
		c.refused(c.ask(requests(4), 0)) // three are there, and no promise can be above the burst
		c.granted(c.ask(requests(3), 0))
		c.refused(c.prefetch(requests(1)))
	}},
	{"adjust", "what is returned is there again, and what is charged is not, below zero if need be", func(c *court) {
		c.limit(slow, "")
		c.spend(requests(10))
		c.returns(requests(4))
		c.adjust(bucket.Adjustment{Charge: requests(9)})
		c.refused(c.prefetch(requests(1)))
		c.returns(requests(5))
		c.refused(c.prefetch(requests(1)))
		c.returns(requests(3))
		c.holds(3)
	}},
	{"run over", "what is returned after the bucket has been full again is lost", func(c *court) {
		c.limit(brisk, "")
		since := c.at()
		c.spend(requests(9))
		c.Advance(time.Second + c.Slack)
		c.spend(requests(10))
		c.adjust(bucket.Adjustment{Return: requests(9), Since: since})
		c.refused(c.ask(requests(9), 0))
	}},
	{"never above full", "what is returned does not fill a bucket above its burst, nor what is leased of it", func(c *court) {
		c.limit(slow, "")
		c.granted(c.ask(requests(4), 0))
		c.returns(requests(50))
		c.holds(6)
	}},
	{"empty", "emptied until a time, a bucket gives nothing before, and then what the refill brings", func(c *court) {
		c.limit(brisk, "")
		a := c.ask(requests(2), 0)
		c.granted(a)
		c.adjust(bucket.Adjustment{Empty: 2 * time.Second})
		c.settle(a, requests(2))
		c.refused(c.ask(requests(1), 0))
		c.Advance(1500 * time.Millisecond)
		c.refused(c.prefetch(requests(1)))
		c.Advance(700*time.Millisecond + c.Slack)
		c.granted(c.ask(requests(1), 0))
		c.refused(c.ask(requests(9), 0)) // not full at once
	}},
	{"redefine", "the latest definition of the limits holds, and keeps what the bucket lacks", func(c *court) {
		c.limit(slow, "")
		c.spend(requests(7))
		old := c.limits
		c.limit("100/h burst 20", "")
		// A bucket of 10 that lacks 7 becomes one of 20 that lacks 7.
		newer, one := c.ask(requests(13), 0), c.ask(requests(1), 0)
		newer.Defined, one.Defined = 2, 2
		c.granted(newer)
		c.refused(one)
		c.settle(newer, bucket.Cost{})
		c.limits = old
		older := c.ask(requests(13), 0) // more than its own definition allows
		c.granted(older)
		c.refused(c.ask(requests(1), 0))
		c.settle(older, bucket.Cost{})
		c.limit("100/h burst 5", "")
		c.adjust(bucket.Adjustment{Defined: 3}) // an adjustment brings a definition, too
		tight := c.ask(requests(1), 0)
		tight.Defined = 3
		c.refused(tight)
	}},
	{"redefine at once", "a later definition holds as soon as an ask brings it, even if the old one had nothing to give", func(c *court) {
		c.limit(slow, "")
		c.spend(requests(10))
		c.limit("100/h burst 30", "")
		newer := c.ask(requests(20), 0)
		newer.Defined = 2
		c.granted(newer)
		c.holds(0)
	}},
	{"wait under another's limits", "whose definition is older waits by the one in force, and holds nobody up", func(c *court) {
		c.limit("10/s burst 20", "")
		newer := c.ask(requests(20), 0)
		newer.Defined = 2
		c.granted(newer)
		c.settle(newer, requests(20))
		c.limit("10/s burst 5", "")
		older := c.start(c.ask(requests(10), time.Minute)) // more than its own definition allows
		c.waiting(step, older)
		other := c.ask(requests(1), 0)
		other.Key += "-other"
		c.granted(other)
		if l := c.answer(time.Second+c.Slack, older); !l.OK {
			c.failf("%s is refused: retry after %v, level %v", older.what, l.RetryAfter, l.Level)
		}
	}},
	{"close", "Close may be called twice, and what comes after it is ErrClosed", func(c *court) {
		c.limit(slow, "")
		c.holds(10)
		c.do("Close", func(context.Context) error { return errors.Join(c.Close(), c.Close()) })
		for what, err := range map[string]error{
			"Lease":  c.fails("Lease", func(ctx context.Context) error { _, err := c.Lease(ctx, c.ask(requests(1), 0)); return err }),
			"Settle": c.fails("Settle", func(ctx context.Context) error { return c.Settle(ctx, []bucket.Settlement{{Key: c.key}}) }),
			"Adjust": c.fails("Adjust", func(ctx context.Context) error {
				return c.Adjust(ctx, bucket.Adjustment{Key: c.key, Limits: c.limits})
			}),
		} {
			if !errors.Is(err, bucket.ErrClosed) {
				c.failf("%s after Close: %v, want ErrClosed", what, err)
			}
		}
	}},
}
