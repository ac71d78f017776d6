package storetest

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/choked/choked/bucket"
)

// timeout is how long a store that cannot decide may retry.
const timeout = 10 * time.Second

var unavailableRules = []rule{
	{name: "unavailable", sentence: "a store that cannot decide returns ErrUnavailable with its cause, and without the key", unavailable: true, check: func(s *suite) {
		s.limit(slow, "")
		for what, do := range map[string]func(ctx context.Context) error{
			"Lease with MaxWait 0":     func(ctx context.Context) error { _, err := s.Lease(ctx, s.ask(requests(1), 0)); return err },
			"Lease with MaxWait of 1h": func(ctx context.Context) error { _, err := s.Lease(ctx, s.ask(requests(1), time.Hour)); return err },
			"Lease without need":       func(ctx context.Context) error { _, err := s.Lease(ctx, s.prefetch(requests(1))); return err },
			"Settle":                   func(ctx context.Context) error { return s.Settle(ctx, []bucket.Settlement{{Key: s.key}}) },
			"Adjust":                   func(ctx context.Context) error { return s.Adjust(ctx, bucket.Adjustment{Key: s.key, Limits: s.limits}) },
		} {
			err := s.failsWithin(timeout, what, do)
			switch {
			case !errors.Is(err, bucket.ErrUnavailable):
				s.failf("%s: %v, want ErrUnavailable", what, err)
			case !strings.Contains(err.Error(), s.cause):
				s.failf("%s: %v, want the cause %q in the text", what, err, s.cause)
			case what != "Settle" && strings.Contains(err.Error(), s.key): // settlements may be of many keys
				s.failf("%s: %v, which names the key: the caller adds it", what, err)
			case errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded):
				s.failf("%s: %v, which reads as if the caller's own context had ended", what, err)
			}
		}
	}},
	{name: "canceled while unavailable", sentence: "a caller that is canceled does not wait for a store that cannot decide", unavailable: true, check: func(s *suite) {
		s.limit(slow, "")
		p := s.begin(s.ask(requests(1), time.Hour))
		s.Advance(step)
		p.end()
		if s.within(0, p); !errors.Is(p.err, context.Canceled) && !errors.Is(p.err, bucket.ErrUnavailable) {
			s.failf("%s, canceled: %v, want context.Canceled", p.what, p.err)
		}
	}},
}
