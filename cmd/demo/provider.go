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

// tolerance is what the provider grants for the way to it. Calls that were
// admitted in time may be held up and arrive together with later ones; so it
// accepts, beyond the burst, what its rate restores in this time.
const tolerance = 20 * time.Millisecond

// provider is an HTTP server that limits requests and tokens as those of LLMs
// do: beyond its limits it answers 429 and when to come again. How it counts is
// its own; of the limiter it uses the notation of rates and nothing else.
type provider struct {
	latency  span
	listener net.Listener
	server   *http.Server
	served   sync.WaitGroup
	refused  atomic.Int64 // by 429

	mu    sync.Mutex
	tanks []tank
}

// tank holds what one rate has let in and not yet drained. Level and size are
// in units, times in seconds since the provider was started.
type tank struct {
	ofTokens    bool
	size, level float64
	perSecond   float64
	drained     float64
}

// startProvider serves on a free port of loopback until it is closed.
func startProvider(limits bucket.Limits, latency span) (*provider, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("provider: %w", err)
	}
	p := &provider{latency: latency, listener: l, tanks: newTanks(limits)}
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

func newTanks(limits bucket.Limits) (tanks []tank) {
	for u := range bucket.Tokens + 1 {
		for _, r := range limits.Of(u) {
			rate := float64(r.N) / r.Per.Seconds()
			tanks = append(tanks, tank{ofTokens: u == bucket.Tokens, perSecond: rate,
				size: float64(r.Burst) + rate*tolerance.Seconds()})
		}
	}
	return tanks
}

// url is where prompts are posted to.
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
	case <-time.After(p.latency.least + rand.N(p.latency.most-p.latency.least+1)):
	case <-r.Context().Done():
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var out reply
	out.Usage.TotalTokens = tokens
	json.NewEncoder(w).Encode(out)
}

// admit lets a request in if all tanks have room for it, or says when they will.
func (p *provider) admit(now func() float64, tokens int64) (wait time.Duration, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := now() // under the lock, so that it does not run backwards
	var seconds float64
	for i := range p.tanks {
		k := &p.tanks[i]
		k.level = max(0, k.level-(t-k.drained)*k.perSecond)
		k.drained = t
		seconds = max(seconds, (k.level+k.cost(tokens)-k.size)/k.perSecond)
	}
	if seconds > 0 {
		return time.Duration(seconds*1e9) + 1, false
	}
	for i := range p.tanks {
		p.tanks[i].level += p.tanks[i].cost(tokens)
	}
	return 0, true
}

func (k *tank) cost(tokens int64) float64 {
	if k.ofTokens {
		return float64(tokens)
	}
	return 1
}
