package storetest

import (
	"context"
	"errors"
	"time"

	"github.com/choked/choked/bucket"
)

var queueRules = []rule{
	{name: "queued ask is served", sentence: "an ask that waits is granted as soon as the refill suffices", check: func(s *suite) {
		s.limit(brisk, "")
		empty := s.Now()
		s.spend(requests(10))
		a := s.ask(requests(10), 5*time.Second)
		p := s.start(a)
		s.waiting(500*time.Millisecond, p)
		l := s.isGranted(a, s.answer(time.Second-s.Now().Sub(empty), p))
		var ready time.Duration
		for _, d := range l.Drips {
			ready = max(ready, d.Ready)
		}
		if took := p.at.Add(ready).Sub(empty); took < time.Second || took > time.Second+2*step+2*s.Slack {
			s.failf("10 units at 10/s can be spent after %v, want 1s", took)
		}
	}},
	{name: "max wait", sentence: "an ask that waits for settlements is refused at the end of MaxWait, not before", check: func(s *suite) {
		s.limit(brisk, "")
		s.granted(s.ask(requests(10), 0))
		a := s.ask(requests(5), 600*time.Millisecond)
		begun := s.Now()
		p := s.start(a)
		s.isRefused(a, s.answer(600*time.Millisecond, p))
		if took := p.at.Sub(begun); took < 590*time.Millisecond {
			s.failf("MaxWait 600ms: refused after %v, although a settlement could have come later", took)
		}
	}},
	{name: "in order", sentence: "asks for one key are served in order of arrival: small ones do not overtake", check: func(s *suite) {
		s.limit(brisk, "")
		s.spend(requests(10))
		asks := []bucket.Ask{s.ask(requests(10), 9*time.Second), s.ask(requests(1), 9*time.Second), s.ask(requests(3), 9*time.Second)}
		var calls []*call
		for _, a := range asks {
			calls = append(calls, s.start(a))
		}
		for i, p := range calls {
			s.isGranted(asks[i], s.answer(2*time.Second, p))
			s.settle(asks[i], asks[i].Need)
		}
		for i, q := range calls[1:] {
			if p := calls[i]; q.lease.At < p.lease.At {
				s.failf("%s is served before %s, which arrived earlier", q.what, p.what)
			}
		}
	}},
	{name: "settle past the queue", sentence: "a settlement is applied while asks wait, and the first of them can get the returned units at once", check: func(s *suite) {
		s.limit(brisk, "")
		a, b := s.ask(requests(10), 0), s.ask(requests(5), 10*time.Second)
		s.granted(a)
		p := s.start(b)
		s.waiting(500*time.Millisecond, p)
		s.settle(a, bucket.Cost{})
		s.isGranted(b, s.answer(0, p))
	}},
	{name: "done past the queue", sentence: "the settlements of a waiting ask are applied at once, even if others are before it in the queue", check: func(s *suite) {
		s.limit(brisk, "")
		a, b, last := s.ask(requests(10), 0), s.ask(requests(5), 10*time.Second), s.ask(requests(9), 10*time.Second)
		s.granted(a)
		p := s.start(b)
		last.Done = []bucket.Settlement{{Key: a.Key, ID: a.ID, Spent: requests(4)}}
		q := s.begin(last)
		s.isGranted(b, s.answer(0, p))
		s.waiting(100*time.Millisecond, q)
		s.settle(b, requests(5))
		s.isGranted(last, s.answer(time.Second, q))
	}},
	{name: "cancel", sentence: "an ask that is canceled while it waits has no effect: the next one is served, and no unit is missing", check: func(s *suite) {
		s.limit(slow, "")
		a, b := s.ask(requests(10), 0), s.ask(requests(10), time.Hour)
		s.granted(a)
		s.limit("100/h burst 10", "")
		p := s.start(b)
		next := s.ask(requests(1), time.Hour)
		q := s.start(next)
		s.settle(a, requests(4)) // 6 are available: too few for the first ask
		s.waiting(100*time.Millisecond, p)
		s.waiting(100*time.Millisecond, q)
		p.end()
		if s.within(0, p); !errors.Is(p.err, context.Canceled) {
			s.failf("canceled while it waits: %+v, %v, want context.Canceled", p.lease, p.err)
		}
		s.isGranted(next, s.answer(0, q))
		s.holds(5)
	}},
	{name: "canceled before", sentence: "an ask whose context has ended already is answered, or fails and takes no unit", check: func(s *suite) {
		s.limit(slow, "")
		ctx, cancel := context.WithCancel(s.ctx)
		cancel()
		a := s.ask(requests(4), 0)
		p := s.within(0, s.goCall(describe(a), func(_ context.Context, p *call) { p.lease, p.err = s.Lease(ctx, a) }))
		if p.err == nil {
			s.isGranted(a, p.lease)
			s.settle(a, bucket.Cost{})
		}
		s.Advance(step + s.Slack) // the store may need a moment to take the lease back
		s.holds(10)
	}},
	{name: "no head-of-line blocking", sentence: "an ask that waits for one key does not delay other keys", check: func(s *suite) {
		s.limit(brisk, "")
		s.granted(s.ask(requests(10), 0))
		s.start(s.ask(requests(10), 10*time.Second))
		s.key += "-2"
		s.granted(s.ask(requests(10), 0))
	}},
	{name: "close ends waits", sentence: "Close ends the asks that wait with ErrClosed", check: func(s *suite) {
		s.limit(brisk, "")
		s.granted(s.ask(requests(10), 0))
		p := s.start(s.ask(requests(5), 10*time.Second))
		s.do("Close", func(context.Context) error { return s.Close() })
		if s.within(0, p); !errors.Is(p.err, bucket.ErrClosed) {
			s.failf("closed while it waits: %+v, %v, want ErrClosed", p.lease, p.err)
		}
	}},
}
