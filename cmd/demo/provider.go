package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/choked/choked/bucket"
)

// tolerance is the time in which the rate restores the units that the provider
// accepts beyond the burst. Calls that were admitted in time may be delayed on
// their way and arrive together with later ones.
const tolerance = 20 * time.Millisecond

// provider is an HTTP server that limits requests and tokens as LLM providers do:
// beyond the limits it answers 429 with the time to wait. It shares the notation
// of rates with the limiter, but no code that counts.
type provider struct {
	latency  durationRange
	listener net.Listener
	server   *http.Server
	served   sync.WaitGroup
	refused  atomic.Int64 // calls answered with 429

	mu     sync.Mutex
	meters []meter
}

// meter counts one unit against one rate, as a leaky bucket: admitted units raise
// the level, the rate lowers it, and the level may not exceed size. Levels are in
// units, times in seconds since the provider was started.
type meter struct {
	ofTokens    bool // of requests otherwise
	size, level float64
	perSecond   float64
	updated     float64 // when level was computed
}

// startProvider starts a provider on a free port of the loopback interface.
func startProvider(limits bucket.Limits, latency durationRange) (*provider, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("provider: %w", err)
	}
	p := &provider{latency: latency, listener: l, meters: newMeters(limits)}
	start := time.Now()
	p.server = &http.Server{
		ReadHeaderTimeout: 5 * time.Second,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			p.answer(w, r, func() float64 { return time.Since(start).Seconds() })
		}),
	}
	p.served.Go(func() { p.server.Serve(l) }) // ends with Close
	return p, nil
}

func newMeters(limits bucket.Limits) (meters []meter) {
	for u := range bucket.NumUnits {
		for _, r := range limits.Of(u) {
			rate := float64(r.N) / r.Per.Seconds()
			meters = append(meters, meter{ofTokens: u == bucket.Tokens, perSecond: rate,
				size: float64(r.Burst) + rate*tolerance.Seconds()})
		}
	}
	return meters
}

// url returns the address to which prompts are posted.
func (p *provider) url() string { return "http://" + p.listener.Addr().String() + "/v1/chat" }

// close ends all connections and waits for the server.
func (p *provider) close() {
	p.server.Close()
	p.served.Wait()
}

func (p *provider) answer(w http.ResponseWriter, r *http.Request, now func() float64) {
	prompt, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 1<<20))
	if err != nil || len(prompt) == 0 {
		http.Error(w, "want a prompt of up to a megabyte", http.StatusBadRequest)
		return
	}
	tokens := countTokens(string(prompt))
	wait, ok := p.admit(now, tokens)
	if !ok {
		p.refused.Add(1)
		setRetryAfter(w.Header(), wait)
		http.Error(w, "rate limit exceeded", http.StatusTooManyRequests)
		return
	}
	select {
	case <-time.After(p.latency.shortest + rand.N(p.latency.longest-p.latency.shortest+1)):
	case <-r.Context().Done():
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var out reply
	out.Usage.TotalTokens = tokens
	json.NewEncoder(w).Encode(out)
}

// admit counts a request if all meters have room for it. If not, it returns how
// long until they will, and counts nothing.
func (p *provider) admit(now func() float64, tokens int64) (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := now() // read under the lock, so that it does not run backwards
	var seconds float64
	for i := range p.meters {
		m := &p.meters[i]
		m.level = max(0, m.level-(t-m.updated)*m.perSecond)
		m.updated = t
		seconds = max(seconds, (m.level+m.cost(tokens)-m.size)/m.perSecond)
	}
	if seconds > 0 {
		return time.Duration(seconds*1e9) + 1, false
	}
	for i := range p.meters {
		p.meters[i].level += p.meters[i].cost(tokens)
	}
	return 0, true
}

func (m *meter) cost(tokens int64) float64 {
	if m.ofTokens {
		return float64(tokens)
	}
	return 1
}
