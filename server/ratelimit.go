package server

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/choked/choked/bucket"
)

// setRetryAfter sets Retry-After to d in whole seconds, rounded up.
func setRetryAfter(h http.Header, d time.Duration) {
	h.Set("Retry-After", strconv.FormatInt(wholeSeconds(d), 10))
}

// wholeSeconds returns d in seconds, rounded up.
func wholeSeconds(d time.Duration) int64 {
	return int64((max(d, 0) + time.Second - 1) / time.Second)
}

// setRateLimit sets the fields of draft-ietf-httpapi-ratelimit-headers-10 for the
// answer to a cost of need: the policy of each rate, and the units left of each kind.
//
// A client that obeys spends no more than r before t has passed. So t is the time
// until the next unit, as the draft defines it, and not until the bucket is full:
// after r units the client continues at the rate of the limit.
func setRateLimit(h http.Header, limits bucket.Limits, need bucket.Cost, lease bucket.Lease) {
	var policies, left []string
	for u := range bucket.NumUnits {
		rates := limits.Of(u)
		if len(rates) == 0 {
			continue
		}
		for i, r := range rates {
			policies = append(policies, policy(policyName(u, i), r))
		}
		level := lease.Level.Of(u)
		item := fmt.Sprintf("%q;r=%d", policyName(u, 0), max(level, 0))
		if level < limits.Burst().Of(u) {
			next := untilNext(rates, level)
			if !lease.OK && need.Of(u) > level { // the store counts fractions of a unit as well
				next = min(next, lease.RetryAfter)
			}
			item += fmt.Sprintf(";t=%d", resetSeconds(next))
		}
		left = append(left, item)
	}
	h.Set("RateLimit-Policy", strings.Join(policies, ", "))
	h.Set("RateLimit", strings.Join(left, ", "))
}

// policyName names the policy of a unit's rate i. A level is the least that all
// rates of a unit leave, and is reported for the first of them. The numbers of the draft
// are whole, so spend is in millionths of a dollar.
func policyName(u bucket.Unit, i int) string {
	name := u.String()
	if u == bucket.Spend {
		name = "spend-microdollars"
	}
	if i == 0 {
		return name
	}
	return name + "-" + strconv.Itoa(i+1)
}

// policy returns r as an item of RateLimit-Policy: q units in every window of w
// seconds, and the most that may be spent at once where that is not q. The draft
// has no parameter for a burst; it reserves names with a prefix for services. A day has
// 24 hours there, a month 30 days.
func policy(name string, r bucket.Rate) string {
	q, window, burst := r.N, r.Span(r.N), r.Pace
	if r.Kind == bucket.TokenBucket {
		window = policyWindow(r.Per)
		if q = r.In(window); r.Burst != q {
			burst = r.Burst
		}
	}
	s := fmt.Sprintf("%q;q=%d;w=%d", name, q, wholeSeconds(window))
	if burst > 0 {
		s += fmt.Sprintf(";choked-burst=%d", burst)
	}
	return s
}

// longWindow is the length from which on a window may be rounded to a whole second:
// the rate is then reported at most 1/3600 too low.
const longWindow = time.Hour

// policyWindow returns the shortest number of whole seconds that is a multiple of
// per, since the draft's windows are whole seconds. If that is longer than
// longWindow, it returns the first multiple that is not shorter, rounded up.
func policyWindow(per time.Duration) time.Duration {
	exact := per / gcd(per, time.Second) // in seconds
	if per%time.Second == 0 || exact <= longWindow/time.Second {
		return exact * time.Second
	}
	periods := (longWindow + per - 1) / per
	return time.Duration(wholeSeconds(periods*per)) * time.Second
}

func gcd(a, b time.Duration) time.Duration {
	for b > 0 {
		a, b = b, a%b
	}
	return a
}

// untilNext returns the time until another unit is available, at most, at a level
// below the burst. Of several rates it uses the fastest, since the level does not say
// which rate is exhausted. If it is a slower one, the client's next call is refused,
// with the exact time in Retry-After.
func untilNext(rates bucket.Rates, level int64) time.Duration {
	next := rates[0].Span(1 + max(-level, 0))
	for _, r := range rates[1:] {
		next = min(next, r.Span(1+max(-level, 0)))
	}
	return next
}

// resetSeconds returns d in seconds, rounded up, and 0 for less than a second:
// rounded up to 1, it would hold a client that obeys to one burst a second, however
// high the rate is.
func resetSeconds(d time.Duration) int64 {
	if d < time.Second {
		return 0
	}
	return wholeSeconds(d)
}
