package providertest

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

const (
	maxBody     = 16 << 20 // bytes of a request
	chunkTokens = 20       // most tokens in a frame of a stream
)

// An exchange is a call with its reply.
type exchange struct {
	Call
	p        *Provider
	endpoint *endpoint
	usage    Usage
	sse      bool // the stream is server-sent events
	wantsUse bool // the stream ends with the usage

	failure  Failure
	admitted time.Time // instant of the decision, as of which the call counts
	charged  amounts   // at the start
	produced int64     // tokens of the reply so far

	rand *rand.Rand
	gone <-chan struct{} // closed when the client has gone
}

// ServeHTTP implements [http.Handler].
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x, invalid := p.read(r)
	if invalid != nil {
		p.mu.Lock()
		p.stats.Invalid++
		p.mu.Unlock()
		p.writeError(w, invalid)
		return
	}
	time.Sleep(upTo(x.rand, p.config.Jitter)) // even if the client has gone: the call is on its way
	views, refusal := x.decide()
	p.spec.quota(w.Header(), views, x.admitted)
	if refusal != nil {
		p.writeError(w, refusal)
		return
	}
	x.answer(w)
}

// read reads a call. It returns an error for the client if the call is none of the
// provider's API.
func (p *Provider) read(r *http.Request) (*exchange, *apiError) {
	var e *endpoint
	var paths []string
	for i := range p.spec.endpoints {
		paths = append(paths, "POST …"+p.spec.endpoints[i].suffix)
		if strings.HasSuffix(r.URL.Path, p.spec.endpoints[i].suffix) {
			e = &p.spec.endpoints[i]
		}
	}
	if e == nil || r.Method != http.MethodPost {
		return nil, &apiError{kind: notFound, message: fmt.Sprintf(
			"Unknown request %s %s: want %s", r.Method, r.URL.Path, strings.Join(paths, ", "))}
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxBody+1))
	if err == nil && len(body) > maxBody {
		err = fmt.Errorf("body of more than %d bytes", maxBody)
	}
	var in request
	if err == nil {
		err = json.Unmarshal(body, &in)
	}
	if err == nil {
		err = e.check(&in)
	}
	if err != nil {
		return nil, &apiError{kind: invalidRequest, message: "Invalid request: " + err.Error()}
	}
	x := &exchange{p: p, endpoint: e, gone: r.Context().Done()}
	x.Call = in.call(r.URL.Path, e)
	x.Header = r.Header
	x.sse = !e.array || r.URL.Query().Get("alt") == "sse"
	x.wantsUse = in.StreamOptions.IncludeUsage
	p.mu.Lock()
	p.arrived++
	x.Number = p.arrived
	p.mu.Unlock()
	x.rand = p.random(x.Number)
	x.usage = p.usage(x.Call)
	if p.config.Fail != nil {
		x.failure = p.config.Fail(x.Call)
	}
	return x, nil
}

// decide admits or refuses the call. It returns the limits as they stand afterwards.
func (x *exchange) decide() ([]view, *apiError) {
	p := x.p
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.nowLocked()
	x.admitted = now
	if p.first.IsZero() {
		p.first = now
	}
	if len(p.failures) > 0 {
		x.failure, p.failures = p.failures[0], p.failures[1:]
	}
	charge, room := p.atStart(x.Call, x.usage)
	p.stats.Calls++
	if x.failure != NoFailure {
		p.stats.Failed++
	}
	refusal := x.failure.refusal()
	if refusal == nil {
		refusal = p.refusalLocked(now, room)
	}
	switch {
	case refusal == nil:
		p.stats.Admitted++
		x.charged = charge
		p.countLocked(now, now, charge, true)
	case p.config.Failed == CountFailed:
		charge[InFlight] = 0
		p.countLocked(now, now, charge, false)
	}
	if refusal != nil {
		refusal.Call = x.Call
	}
	return p.viewsLocked(now), refusal
}

// refusalLocked returns why there is no room for a call, or nil if there is.
func (p *Provider) refusalLocked(now time.Time, room amounts) (refusal *apiError) {
	var longest *meter
	for _, m := range p.meters {
		wait := m.wait(now, room[m.unit])
		if wait == 0 {
			continue
		}
		if refusal == nil {
			refusal = &apiError{kind: rateLimited}
		}
		v := m.view(now)
		refusal.full = append(refusal.full, v)
		if wait > refusal.wait {
			refusal.wait, refusal.limit, refusal.requested, longest = wait, v, room[m.unit], m
		}
	}
	if longest != nil {
		longest.stats.Refused++
		p.stats.Refused++
	}
	return refusal
}

// refusal returns the error of a call that fails at once.
func (f Failure) refusal() *apiError {
	switch f {
	case Overloaded:
		return &apiError{kind: overloaded}
	case ServerError:
		return &apiError{kind: serverError}
	case OutOfQuota:
		return &apiError{kind: outOfQuota}
	case Busy:
		return &apiError{kind: busy}
	}
	return nil
}

// inReply returns the error of a call that fails halfway through its reply.
func (f Failure) inReply() *apiError {
	switch f {
	case OverloadedInReply:
		return &apiError{kind: overloaded}
	case RateLimitedInReply:
		return &apiError{kind: busy}
	}
	return nil
}

// answer produces the reply of an admitted call.
func (x *exchange) answer(w http.ResponseWriter) {
	p := x.p
	if x.failure == Hang {
		<-x.gone
		x.end(false)
		return
	}
	out := &reply{w: w, x: x}
	ok := x.sleep(p.config.Latency + upTo(x.rand, p.config.LatencyJitter))
	if ok {
		if p.config.Count == AsProduced {
			x.correct(p.used(x.usage, 0)) // the prompt's tokens are known now
		}
		out.begin()
		ok = x.produce(out)
	}
	x.end(ok)
	switch failed := x.failure.inReply(); {
	case !ok: // the client has gone
	case failed != nil:
		failed.Call = x.Call
		out.fail(failed)
	case x.failure == CutInReply:
		out.cut()
	default:
		out.end()
	}
}

// produce produces the tokens of the reply. It returns false when the client has gone.
func (x *exchange) produce(out *reply) (ok bool) {
	p, ok := x.p, true
	total := x.usage.Output
	if x.failure != NoFailure {
		total /= 2
	}
	chunk := total
	if x.Stream || p.config.Speed > 0 {
		chunk = chunkTokens
	}
	for x.produced < total {
		n := min(chunk, total-x.produced)
		if p.config.Speed > 0 {
			ok = x.sleep(time.Duration(n)*time.Second/time.Duration(p.config.Speed)) && ok
		} else {
			ok = x.sleep(0) && ok
		}
		if !ok && !p.config.ProduceAfterClose {
			return false
		}
		x.produced += n
		if p.config.Count == AsProduced {
			p.count(time.Time{}, amounts{Tokens: n, Output: n})
		}
		if ok {
			ok = out.delta(n)
		}
	}
	return ok
}

// end ends the call: it counts the tokens that count at the end, and frees the place in
// flight, late if the client has gone.
func (x *exchange) end(ok bool) {
	p := x.p
	switch p.config.Count {
	case Reserved:
		x.correct(p.used(x.usage, x.produced))
	case AtEnd:
		p.count(time.Time{}, p.used(x.usage, x.produced))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now, over := p.nowLocked(), amounts{InFlight: -1}
	if ok {
		p.countLocked(now, now, over, true)
	} else {
		p.countLocked(now, now.Add(upTo(x.rand, p.config.Jitter)), over, true)
	}
}

// correct changes the charge of the start to the tokens that the call has used.
func (x *exchange) correct(used amounts) {
	var by amounts
	for _, u := range []Unit{Tokens, Input, Output} {
		by[u] = used[u] - x.charged[u]
	}
	x.p.count(x.admitted, by)
}

// sleep waits for d. It returns false if the client has gone: at once, or after d if
// the provider goes on with the reply.
func (x *exchange) sleep(d time.Duration) bool {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-x.gone:
			if x.p.config.ProduceAfterClose {
				<-timer.C
			}
			return false
		}
	}
	select {
	case <-x.gone:
		return false
	default:
		return true
	}
}

// A view is the state of a limit for headers and messages.
type view struct {
	unit   Unit
	limit  limit
	size   int64 // most units that count at one time
	left   int64
	reset  time.Duration // until the count is zero
	hidden bool
}

func (m *meter) view(now time.Time) view {
	return view{
		unit: m.unit, limit: m.limit, hidden: m.hidden, size: m.stats.N,
		left: max(0, m.stats.N-m.counted(now)), reset: m.reset(now),
	}
}

func (p *Provider) viewsLocked(now time.Time) []view {
	views := make([]view, len(p.meters))
	for i, m := range p.meters {
		views[i] = m.view(now)
	}
	return views
}
