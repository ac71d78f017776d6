package storetest

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/choked/choked/bucket"
)

// slow is a limit under which no unit refills during a rule, so that the units of a
// bucket can be counted. A unit takes 36 s, so that none can be promised.
const slow = "100/h burst 10"

// brisk is a limit whose unit takes 100 ms.
const brisk = "10/s"

var leaseRules = []rule{
	{name: "full", sentence: "a new bucket is full", check: func(s *suite) {
		s.limit(slow, "")
		s.holds(10)
		s.refused(s.prefetch(requests(1)))
	}},
	{name: "between need and want", sentence: "a lease grants at least what is needed and at most what is wanted", check: func(s *suite) {
		s.limit(slow, "")
		a := s.ask(requests(3), 0)
		a.Want = requests(5)
		l := s.granted(a)
		b := s.ask(requests(1), 0)
		b.Want = requests(100)
		left := s.granted(b).Granted.Requests + l.Granted.Requests
		if left > 10 {
			s.failf("two leases on a burst of 10 grant %d", left)
		}
		s.holds(10 - left)
	}},
	{name: "whole", sentence: "the need is granted whole or not at all", check: func(s *suite) {
		s.limit(slow, "")
		s.spend(requests(6))
		s.refused(s.ask(requests(5), 0))
		s.holds(4)
	}},
	{name: "together", sentence: "requests and tokens are leased together or not at all", check: func(s *suite) {
		s.limit(slow, "1000/h burst 100")
		s.spend(bucket.Cost{Requests: 1, Tokens: 90})
		s.refused(s.ask(bucket.Cost{Requests: 5, Tokens: 20}, 0))
		s.granted(s.ask(bucket.Cost{Requests: 9, Tokens: 10}, 0)) // all units
	}},
	{name: "several rates", sentence: "all rates on a unit hold at once", check: func(s *suite) {
		s.limit("1000/h burst 8,100/d burst 5", "")
		s.holds(5)
	}},
	{name: "no need, no promise", sentence: "an ask without need is answered at once, and gets the units that are available", check: func(s *suite) {
		s.limit(brisk, "")
		s.spend(requests(10))
		a := s.prefetch(requests(10))
		a.MaxWait = time.Minute
		if l := s.now(a); l.Granted.Requests > 2+int64(s.Slack/(100*time.Millisecond)) {
			s.failf("an empty bucket grants %v", l.Granted)
		}
	}},
	{name: "refused at once", sentence: "with MaxWait 0 an ask is decided at once", check: func(s *suite) {
		s.limit(slow, "")
		s.spend(requests(10))
		l := s.refused(s.ask(requests(2), 0))
		if l.RetryAfter > 72*time.Second || l.RetryAfter < 60*time.Second {
			s.failf("two units at one every 36s: retry after %v, want 60s to 72s", l.RetryAfter)
		}
	}},
	{name: "hopeless", sentence: "an ask that cannot be granted within MaxWait is refused at once with the time to retry after, and spends nothing", check: func(s *suite) {
		s.limit(brisk, "")
		s.spend(requests(10))
		a := s.ask(requests(10), 400*time.Millisecond) // they take 1s, a part of which may be promised
		l := s.refused(a)
		if l.RetryAfter <= 400*time.Millisecond || l.RetryAfter > time.Second {
			s.failf("10 units at 10/s from an empty bucket: retry after %v, want more than 400ms and at most 1s", l.RetryAfter)
		}
		s.Advance(l.RetryAfter + step + s.Slack)
		s.granted(s.ask(requests(10), 0))
	}},
	{name: "cost exceeds burst", sentence: "a cost above the burst is ErrCostExceedsBurst at once, naming both numbers", check: func(s *suite) {
		s.limit("321/h burst 123", "")
		err := s.fails("Lease(need 777 of a burst of 123)", func(ctx context.Context) error {
			_, err := s.Lease(ctx, s.ask(requests(777), time.Hour))
			return err
		})
		if !errors.Is(err, bucket.ErrCostExceedsBurst) || !strings.Contains(err.Error(), "777") || !strings.Contains(err.Error(), "123") {
			s.failf("777 of a burst of 123: %v, want ErrCostExceedsBurst with both numbers", err)
		}
		a := s.ask(requests(100), 0)
		a.Want = requests(777) // a want above the burst is valid
		s.granted(a)
	}},
	{name: "bad input", sentence: "a bad key, limit or cost is an error at once", check: func(s *suite) {
		s.limit(slow, "")
		for name, spoil := range map[string]func(*bucket.Ask){
			"an empty key":       func(a *bucket.Ask) { a.Key = "" },
			"a huge key":         func(a *bucket.Ask) { a.Key = strings.Repeat("k", bucket.MaxKey+1) },
			"no limits":          func(a *bucket.Ask) { a.Limits = bucket.Limits{} },
			"a rate of zero":     func(a *bucket.Ask) { a.Limits = bucket.Limits{Tokens: bucket.Rates{{}}} },
			"a negative need":    func(a *bucket.Ask) { a.Need.Requests = -1 },
			"a negative want":    func(a *bucket.Ask) { a.Want.Tokens = -1 },
			"an absurd want":     func(a *bucket.Ask) { a.Want.Tokens = bucket.MaxUnits + 1 },
			"a bad settlement":   func(a *bucket.Ask) { a.Done = []bucket.Settlement{{Key: s.key, Spent: requests(-1)}} },
			"a settled bad key ": func(a *bucket.Ask) { a.Done = []bucket.Settlement{{Key: ""}} },
		} {
			a := s.ask(requests(1), time.Minute)
			spoil(&a)
			s.fails("Lease with "+name, func(ctx context.Context) error { _, err := s.Lease(ctx, a); return err })
		}
		s.fails("Settle with a negative cost", func(ctx context.Context) error {
			return s.Settle(ctx, []bucket.Settlement{{Key: s.key, Spent: requests(-1)}})
		})
		for name, a := range map[string]bucket.Adjustment{
			"an empty key":      {Limits: s.limits},
			"no limits":         {Key: s.key},
			"a negative return": {Key: s.key, Limits: s.limits, Return: requests(-1)},
			"a negative time":   {Key: s.key, Limits: s.limits, Empty: -time.Second},
		} {
			s.fails("Adjust with "+name, func(ctx context.Context) error { return s.Adjust(ctx, a) })
		}
		s.holds(10)
	}},
	{name: "any key", sentence: "a key may hold any bytes, and each of them distinguishes it from other keys", check: func(s *suite) {
		s.limit(slow, "")
		plain := s.key
		for _, suffix := range []string{"", "\x00", "\xff\xfe", "\n", ":{}*?", " ", "é", "e\u0301", strings.Repeat("x", bucket.MaxKey-len(plain))} {
			s.key = plain + suffix
			s.holds(10)
		}
	}},
	{name: "same id", sentence: "an ask that repeats an id gets the same lease again, and it counts once", check: func(s *suite) {
		s.limit(slow, "")
		a := s.ask(requests(4), 0)
		first := s.granted(a)
		again := a
		again.Need, again.Want = requests(2), requests(9)
		if l := s.now(again); !l.OK || l.Granted != first.Granted || l.ID != a.ID {
			s.failf("asked again, a lease of %v is %+v", first.Granted, l)
		}
		s.settle(a, requests(1))
		s.holds(9)
	}},
	{name: "independent keys", sentence: "keys are independent of each other", check: func(s *suite) {
		s.limit(slow, "")
		one, two := s.key, s.key+"-2"
		a := s.ask(requests(10), 0)
		s.granted(a)
		s.key = two
		s.holds(10)
		// A settlement under the wrong key is one of an unknown lease.
		wrong := a
		wrong.Key = two
		s.settle(wrong, bucket.Cost{})
		s.refused(s.prefetch(requests(1)))
		s.key = one
		s.refused(s.prefetch(requests(1)))
	}},
}
