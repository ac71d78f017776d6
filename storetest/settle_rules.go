package storetest

import (
	"context"
	"errors"
	"time"

	"github.com/choked/choked/bucket"
)

var settleRules = []rule{
	{name: "settle", sentence: "a settlement spends part of a lease, and the rest returns to the bucket", check: func(s *suite) {
		s.limit(slow, "")
		a := s.ask(requests(8), 0)
		s.granted(a)
		s.settle(a, requests(3))
		s.holds(7)
	}},
	{name: "settle in an ask", sentence: "the settlements of an ask are applied first, and the ask can get the units that they return", check: func(s *suite) {
		s.limit(slow, "")
		a := s.ask(requests(8), 0)
		s.granted(a)
		b := s.ask(requests(7), 0)
		b.Done = []bucket.Settlement{{Key: a.Key, ID: a.ID, Spent: requests(3)}}
		s.granted(b)
		s.holds(0)
	}},
	{name: "settle twice", sentence: "a second settlement, or that of an unknown lease, has no effect", check: func(s *suite) {
		s.limit(slow, "")
		a := s.ask(requests(8), 0)
		s.granted(a)
		s.settle(a, requests(3))
		s.settle(a, bucket.Cost{})
		s.settle(s.ask(requests(1), 0), bucket.Cost{})
		s.holds(7)
		unknown := s.ask(requests(1), 0)
		unknown.Key += "-never-used"
		s.settle(unknown, requests(5))
	}},
	{name: "several at once", sentence: "one call settles any number of leases, of any keys", check: func(s *suite) {
		s.limit(slow, "")
		a, b := s.ask(requests(8), 0), s.ask(requests(2), 0)
		other := s.ask(requests(9), 0)
		other.Key += "-2"
		var done []bucket.Settlement
		for _, ask := range []bucket.Ask{a, b, other} {
			s.granted(ask)
			done = append(done, bucket.Settlement{Key: ask.Key, ID: ask.ID, Spent: requests(1)})
		}
		s.do("Settle", func(ctx context.Context) error { return s.Settle(ctx, done) })
		s.holds(8)
		s.key = other.Key
		s.holds(9)
	}},
	{name: "debt", sentence: "a lease that was overspent leaves a debt", check: func(s *suite) {
		s.limit(slow, "")
		a := s.ask(requests(5), 0)
		s.granted(a)
		s.settle(a, requests(15)) // 5 below zero
		l := s.refused(s.ask(requests(1), 0))
		if l.RetryAfter < 5*36*time.Second || l.RetryAfter > 6*36*time.Second || l.Level.Requests >= 0 {
			s.failf("6 units below one, at one every 36s: retry after %v, level %v", l.RetryAfter, l.Level)
		}
		s.returns(requests(6))
		s.holds(1)
	}},
	{name: "expiry", sentence: "an expired lease is not returned, but the bucket can refill the room that it took", check: func(s *suite) {
		s.limit(brisk, "")
		a := s.ask(requests(10), 0)
		l := s.granted(a)
		if l.ValidFor > bucket.TTL {
			s.failf("a lease is valid for %v, and its store's TTL is %v", l.ValidFor, bucket.TTL)
		}
		s.Advance(l.ValidFor - 300*time.Millisecond)
		s.refused(s.prefetch(requests(1))) // the whole burst is leased
		s.Advance(bucket.Late(bucket.TTL) - l.ValidFor + 300*time.Millisecond + step)
		s.refused(s.ask(requests(10), 0)) // the lease may have been spent
		s.settle(a, bucket.Cost{})        // too late to return it
		s.refused(s.ask(requests(10), 0))
		s.Advance(time.Second + s.Slack)
		s.granted(s.ask(requests(10), 0))
	}},
	{name: "room", sentence: "leased and available units never exceed the burst, however long a lease is idle", check: func(s *suite) {
		s.limit(brisk, "")
		s.granted(s.ask(requests(7), 0))
		s.Advance(time.Second)
		s.refused(s.ask(requests(4), 0)) // 3 are available, and a promise cannot exceed the burst
		s.granted(s.ask(requests(3), 0))
		s.refused(s.prefetch(requests(1)))
	}},
	{name: "adjust", sentence: "a refund makes units available again, and a charge takes them, below zero if need be", check: func(s *suite) {
		s.limit(slow, "")
		s.spend(requests(10))
		s.returns(requests(4))
		s.adjust(bucket.Adjustment{Charge: requests(9)})
		s.refused(s.prefetch(requests(1)))
		s.returns(requests(5))
		s.refused(s.prefetch(requests(1)))
		s.returns(requests(3))
		s.holds(3)
	}},
	{name: "overflow", sentence: "a refund of units that the bucket has refilled since is lost", check: func(s *suite) {
		s.limit(brisk, "")
		since := s.at()
		s.spend(requests(9))
		s.Advance(time.Second + s.Slack)
		s.spend(requests(10))
		s.adjust(bucket.Adjustment{Return: requests(9), Since: since})
		s.refused(s.ask(requests(9), 0))
	}},
	{name: "never above full", sentence: "a refund does not raise available and leased units above the burst", check: func(s *suite) {
		s.limit(slow, "")
		s.granted(s.ask(requests(4), 0))
		s.returns(requests(50))
		s.holds(6)
	}},
	{name: "empty", sentence: "a bucket that is emptied for a time grants no unit before its end, and afterwards only refilled ones", check: func(s *suite) {
		s.limit(brisk, "")
		a := s.ask(requests(2), 0)
		s.granted(a)
		s.adjust(bucket.Adjustment{Empty: 2 * time.Second})
		s.settle(a, requests(2))
		s.refused(s.ask(requests(1), 0))
		s.Advance(1500 * time.Millisecond)
		s.refused(s.prefetch(requests(1)))
		s.Advance(700*time.Millisecond + s.Slack)
		s.granted(s.ask(requests(1), 0))
		s.refused(s.ask(requests(9), 0)) // it is not full at once
	}},
	{name: "redefine", sentence: "the latest definition of the limits holds, and the bucket lacks as many units as before", check: func(s *suite) {
		s.limit(slow, "")
		s.spend(requests(7))
		old := s.limits
		s.limit("100/h burst 20", "")
		// A bucket of 10 that lacks 7 becomes one of 20 that lacks 7.
		newer, one := s.ask(requests(13), 0), s.ask(requests(1), 0)
		newer.Defined, one.Defined = 2, 2
		s.granted(newer)
		s.refused(one)
		s.settle(newer, bucket.Cost{})
		s.limits = old
		older := s.ask(requests(13), 0) // more than its own definition allows
		s.granted(older)
		s.refused(s.ask(requests(1), 0))
		s.settle(older, bucket.Cost{})
		s.limit("100/h burst 5", "")
		s.adjust(bucket.Adjustment{Defined: 3}) // an adjustment defines limits, too
		tight := s.ask(requests(1), 0)
		tight.Defined = 3
		s.refused(tight)
	}},
	{name: "redefine at once", sentence: "a later definition holds for the ask that brings it, even if the bucket was empty under the old one", check: func(s *suite) {
		s.limit(slow, "")
		s.spend(requests(10))
		s.limit("100/h burst 30", "")
		newer := s.ask(requests(20), 0)
		newer.Defined = 2
		s.granted(newer)
		s.holds(0)
	}},
	{name: "wait under another's limits", sentence: "an ask with an older definition waits under the one in force, and does not delay other keys", check: func(s *suite) {
		s.limit("10/s burst 20", "")
		newer := s.ask(requests(20), 0)
		newer.Defined = 2
		s.granted(newer)
		s.settle(newer, requests(20))
		s.limit("10/s burst 5", "")
		older := s.start(s.ask(requests(10), time.Minute)) // more than its own definition allows
		s.waiting(step, older)
		other := s.ask(requests(1), 0)
		other.Key += "-other"
		s.granted(other)
		if l := s.answer(time.Second+s.Slack, older); !l.OK {
			s.failf("%s is refused: retry after %v, level %v", older.what, l.RetryAfter, l.Level)
		}
	}},
	{name: "close", sentence: "Close may be called twice, and every later call returns ErrClosed", check: func(s *suite) {
		s.limit(slow, "")
		s.holds(10)
		s.do("Close", func(context.Context) error { return errors.Join(s.Close(), s.Close()) })
		for what, err := range map[string]error{
			"Lease":  s.fails("Lease", func(ctx context.Context) error { _, err := s.Lease(ctx, s.ask(requests(1), 0)); return err }),
			"Settle": s.fails("Settle", func(ctx context.Context) error { return s.Settle(ctx, []bucket.Settlement{{Key: s.key}}) }),
			"Adjust": s.fails("Adjust", func(ctx context.Context) error {
				return s.Adjust(ctx, bucket.Adjustment{Key: s.key, Limits: s.limits})
			}),
		} {
			if !errors.Is(err, bucket.ErrClosed) {
				s.failf("%s after Close: %v, want ErrClosed", what, err)
			}
		}
	}},
}
