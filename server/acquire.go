package server

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"mime"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
)

// Bounds of how long an acquire may wait.
const (
	defaultWait = 30 * time.Second
	maxWait     = 10 * time.Minute
)

// rounding is the longest time that the rounding of charges may add to when quota
// is available: a bucket rounds each charge up by less than a nanosecond, so three
// calls to "3/s" within a nanosecond would find it 3 ns short.
const rounding = time.Microsecond

// acquisition is a request for quota that the service itself spends.
type acquisition struct {
	key    string
	limits bucket.Limits // the zero Limits grant every cost
	cost   bucket.Cost
	wait   time.Duration // longest time in the store's queue
	atOnce bool          // refuse the cost unless all of it is available now
}

// refused is the answer to an acquire that was not granted: status 429.
type refused struct{ httpapi.Acquired }

func (s *Server) acquire(c *call) (any, *httpapi.Error) {
	a, e := readAcquire(c)
	if e != nil {
		return nil, e
	}
	return s.spend(c, a)
}

func (s *Server) acquireAsChoked(c *call) (any, *httpapi.Error) {
	a, err := parseChoked(c.URL.RawQuery)
	if err != nil {
		return nil, askError(err)
	}
	return s.spend(c, a)
}

// spend waits for quota, spends it, and answers. A client that disconnects, and a
// server that drains, end the wait.
func (s *Server) spend(c *call, a acquisition) (any, *httpapi.Error) {
	if a.cost.IsZero() {
		return httpapi.Acquired{OK: true, Level: httpapi.Level(a.limits.Burst())}, nil
	}
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	defer context.AfterFunc(s.open, cancel)()

	began := s.clock.Now()
	ask := bucket.Ask{
		Key: c.tenant.key(a.key), ID: bucket.LeaseID{Holder: s.holder, Seq: s.seq.Add(1)},
		Limits: a.limits, Defined: time.Now().UnixNano(), Need: a.cost, Want: a.cost, MaxWait: a.wait,
	}
	lease, err := s.cfg.Store.Lease(ctx, ask)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, closing
	case err != nil:
		return nil, s.storeError(c, err)
	}
	settlement := bucket.Settlement{Key: ask.Key, ID: ask.ID}
	promised := untilAvailable(lease)
	if a.atOnce && promised > rounding {
		// The store grants up to a second of refill ahead of time. The lease is
		// returned before the answer is sent, so that a refused call holds no quota.
		s.settle(settlement)
		lease.OK, lease.RetryAfter, lease.Level = false, promised, lease.Level.Add(lease.Granted)
	}
	setRateLimit(c.w.Header(), a.limits, a.cost, lease)
	answer := httpapi.Acquired{OK: lease.OK, RetryAfter: lease.RetryAfter, Level: httpapi.Level(lease.Level)}
	if !lease.OK {
		setRetryAfter(c.w.Header(), lease.RetryAfter)
		answer.Waited = s.clock.Since(began)
		return refused{answer}, nil
	}
	switch {
	case !sleep(ctx, bucket.Late(promised)): // the store's clock may be slower than this one
		s.settleLater(settlement) // unspent
		return nil, closing
	case s.clock.Since(began) >= lease.ValidFor:
		s.settleLater(settlement)
		return nil, tooLate
	}
	settlement.Spent = a.cost
	s.settleLater(settlement)
	answer.Waited = s.clock.Since(began)
	return answer, nil
}

var tooLate = &httpapi.Error{Code: httpapi.Late, Message: "lease expired before it could be spent, nothing was spent: retry"}

// untilAvailable returns how long until all of l may be spent, in the store's time.
func untilAvailable(l bucket.Lease) (d time.Duration) {
	for _, drip := range l.Drips {
		d = max(d, drip.Ready)
	}
	return d
}

// sleep waits for d and reports whether it did so before ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return true
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// readAcquire reads an acquire from the query of a GET, or from the body of a POST,
// which is a form or JSON.
func readAcquire(c *call) (acquisition, *httpapi.Error) {
	query := c.URL.RawQuery
	if c.Method == "POST" {
		body, e := c.body()
		if e != nil {
			return acquisition{}, e
		}
		switch kind, _, _ := mime.ParseMediaType(c.Header.Get("Content-Type")); kind {
		case "application/x-www-form-urlencoded":
			if bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) { // curl -d sends any body with this type
				return acquisition{}, badRequest(errors.New("body is JSON, but Content-Type is application/x-www-form-urlencoded: want Content-Type: application/json"))
			}
			query = string(body)
		default:
			a, err := decodeAcquire(body)
			if err != nil {
				return a, askError(err)
			}
			return a, nil
		}
	}
	a, err := parseAcquire(query)
	if err != nil {
		return a, askError(err)
	}
	return a, nil
}

func decodeAcquire(body []byte) (a acquisition, err error) {
	// A unit that the cost leaves out has the same default as in a form: the decoder
	// keeps the value that is set here.
	r := httpapi.AcquireRequest{Cost: &bucket.Cost{Requests: 1}}
	if err := httpapi.Decode(body, &r); err != nil {
		return a, err
	}
	if a.key, err = r.Key.Value(); err != nil {
		return a, err
	}
	a.limits, a.cost, a.wait = bucket.Limits(r.Limits), bucket.Cost{Requests: 1}, defaultWait
	if r.Cost != nil {
		a.cost = *r.Cost
	}
	if r.Wait != nil {
		a.wait = *r.Wait
	}
	return a, a.check()
}

// check returns why a is not valid, or nil. It makes a.cost what the call is charged.
func (a *acquisition) check() (err error) {
	if a.wait < 0 || a.wait > maxWait {
		return fmt.Errorf("wait %v: want 0 to %v", a.wait, maxWait)
	}
	if err := cmp.Or(bucket.CheckKey(a.key), a.limits.Check()); err != nil {
		return err
	}
	a.cost, err = httpapi.CostCharged(a.limits, a.cost)
	return err
}

// parseAcquire parses the query or the form of an acquire.
func parseAcquire(query string) (a acquisition, err error) {
	v, err := parseQuery(query, "key", "limits", "request_limit", "token_limit", "cost", "requests", "tokens", "wait")
	if err != nil {
		return a, err
	}
	a = acquisition{key: v.Get("key"), cost: bucket.Cost{Requests: 1}, wait: defaultWait}
	if a.limits, err = parseLimits(v); err != nil {
		return a, err
	}
	if a.cost, err = parseCost(v); err != nil {
		return a, err
	}
	if s := v.Get("wait"); s != "" {
		if a.wait, err = parseWait(s); err != nil {
			return a, err
		}
	}
	return a, a.check()
}

// parseLimits parses the limits of an acquire, which are given for all units in one
// text, or for requests and tokens apart.
func parseLimits(v url.Values) (bucket.Limits, error) {
	switch requests, tokens := v.Get("request_limit"), v.Get("token_limit"); {
	case v.Get("limits") == "":
		return bucket.ParseShortLimits(requests, tokens)
	case requests+tokens != "":
		return bucket.Limits{}, fmt.Errorf("limits %.200q beside request_limit or token_limit: want either", v.Get("limits"))
	}
	return bucket.ParseLimits(v.Get("limits"))
}

// parseCost parses the cost of an acquire, which is given for all units in one text,
// or for requests and tokens apart. Without a number of requests it is one.
func parseCost(v url.Values) (bucket.Cost, error) {
	text := v.Get("cost")
	for _, u := range []bucket.Unit{bucket.Requests, bucket.Tokens} {
		n := v.Get(u.String())
		switch {
		case n == "":
			continue
		case v.Get("cost") != "":
			return bucket.Cost{}, fmt.Errorf("cost %.200q beside %v: want either", v.Get("cost"), u)
		case text != "":
			text += "; "
		}
		text += u.String() + " " + n
	}
	return httpapi.ParseCost(text)
}

// parseWait parses a duration such as "1.5s", or a number of seconds.
func parseWait(s string) (time.Duration, error) {
	if d, err := time.ParseDuration(s); err == nil {
		return d, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || !(f >= 0 && f <= maxWait.Seconds()) {
		return 0, fmt.Errorf(`wait %.40q: want up to %v, in seconds or as in "1m30s"`, s, maxWait)
	}
	return time.Duration(f * float64(time.Second)), nil
}

// parseQuery parses a query with parameters of these names. A parameter that is
// malformed, unknown or given twice is an error: to ignore it could lift a limit.
func parseQuery(query string, names ...string) (url.Values, error) {
	v, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("parse parameters: %w", err)
	}
	for name, values := range v {
		switch {
		case !slices.Contains(names, name):
			return nil, fmt.Errorf("unknown parameter %.40q: want %q", name, names)
		case len(values) > 1:
			return nil, fmt.Errorf("parameter %q: given twice, want it once", name)
		}
	}
	return v, nil
}

// parseChoked parses an acquire in the form of the Python package choked:
// capacities and rates per second, where a capacity of 0 means that the unit is
// not limited. That package's contract is an answer at once, 200 when the cost is
// taken and 429 when it is not: its client sleeps and retries.
func parseChoked(query string) (a acquisition, err error) {
	v, err := parseQuery(query, "key", "request_capacity", "request_refill_rate", "token_capacity", "token_refill_rate",
		"requests_needed", "tokens_needed")
	if err != nil {
		return a, err
	}
	a = acquisition{key: v.Get("key"), atOnce: true}
	if a.limits.Requests, err = parseCapacity(v, "request"); err != nil {
		return a, err
	}
	if a.limits.Tokens, err = parseCapacity(v, "token"); err != nil {
		return a, err
	}
	if a.cost.Requests, err = parseNeeded(v, "requests_needed", 1); err != nil {
		return a, err
	}
	if a.cost.Tokens, err = parseNeeded(v, "tokens_needed", 0); err != nil {
		return a, err
	}
	if a.limits.Len() == 0 { // the cost is granted without the store
		a.cost, err = httpapi.CostCharged(a.limits, a.cost)
		return a, cmp.Or(bucket.CheckKey(a.key), err)
	}
	return a, a.check()
}

func parseNeeded(v url.Values, name string, otherwise int64) (int64, error) {
	s := v.Get(name)
	if s == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s %.40q: want a whole number", name, s)
	}
	return n, nil
}

// parseCapacity parses the rate on a unit. A capacity of 0 is no rate.
func parseCapacity(v url.Values, unit string) (bucket.Rates, error) {
	parse := func(name string) (float64, error) {
		s := v.Get(name)
		if s == "" {
			return 0, nil
		}
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || !(f >= 0 && f <= bucket.MaxUnits) {
			return 0, fmt.Errorf("%s %.40q: want a number from 0 to %d", name, s, int64(bucket.MaxUnits))
		}
		return f, nil
	}
	capacity, err := parse(unit + "_capacity")
	if err != nil || capacity == 0 {
		return nil, err
	}
	perSecond, err := parse(unit + "_refill_rate")
	if err != nil {
		return nil, err
	}
	if perSecond == 0 {
		return nil, fmt.Errorf("%s_refill_rate of 0: want more than 0, or %s_capacity of 0 for no limit on %ss", unit, unit, unit)
	}
	r := rateOf(perSecond, int64(capacity))
	if err := r.Check(); err != nil {
		return nil, fmt.Errorf("%s_capacity %v and %s_refill_rate %v: %w", unit, capacity, unit, perSecond, err)
	}
	return bucket.Rates{r}, nil
}

// rateOf returns the rate of perSecond units a second. If that is a whole number of
// units per second, minute, hour or day within the precision of a float64, it returns
// that number, which the client has divided; otherwise the next lower rate.
func rateOf(perSecond float64, burst int64) bucket.Rate {
	for _, per := range []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour} {
		n := math.Round(perSecond * per.Seconds())
		if n >= 1 && math.Abs(n/per.Seconds()-perSecond) <= 1e-9*perSecond {
			return bucket.Rate{N: int64(n), Per: per, Burst: burst}
		}
	}
	if perSecond < 1 {
		per := math.Min(math.Ceil(float64(time.Second)/perSecond), math.MaxInt64/2)
		return bucket.Rate{N: 1, Per: time.Duration(per), Burst: burst}
	}
	return bucket.Rate{N: int64(perSecond * 86400), Per: 24 * time.Hour, Burst: burst}
}
