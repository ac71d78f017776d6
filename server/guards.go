package server

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
)

// guessRate bounds the unknown tokens from one source before it is told to retry later.
var guessRate = bucket.Rate{N: 20, Per: time.Minute, Burst: 20}

// maxSources bounds the sources that guards remember.
const maxSources = 1 << 16

// guards count the unknown tokens from each source, and refuse further ones above
// guessRate with another error. Known tokens from the same source are admitted all
// the same, so clients behind one address do not harm each other. That
// does not help a guesser, since a token is random and too long to be guessed.
type guards struct {
	mu      sync.Mutex
	sources map[netip.Addr]*meter // of unknown tokens
}

func newGuards() *guards { return &guards{sources: make(map[netip.Addr]*meter)} }

// countUnknown counts an unknown token, and returns how much later the source
// should have sent it, or zero.
func (g *guards) countUnknown(from netip.Addr, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.sources[from]
	if m == nil {
		if len(g.sources) >= maxSources {
			g.forgetLocked(now)
		}
		m = new(meter)
		g.sources[from] = m
	}
	return m.take(now, guessRate)
}

// forgetLocked makes room for another source. Of 64 random sources it forgets all
// whose meters have recovered, and if none has, the last one.
func (g *guards) forgetLocked(now time.Time) {
	seen, forgotten := 0, 0
	for from, m := range g.sources { // iteration begins at a random element
		if seen++; !m.full.After(now) || seen == 64 && forgotten == 0 {
			delete(g.sources, from)
			forgotten++
		}
		if seen >= 64 {
			return
		}
	}
}

// sourceOf returns the address of r's client, or for IPv6 its network of 64 bits,
// since one host may own a whole such network.
func sourceOf(r *http.Request) netip.Addr {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return networkOf(addr)
}

func networkOf(addr netip.Addr) netip.Addr {
	addr = addr.Unmap().WithZone("")
	if addr.Is6() {
		if p, err := addr.Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return addr
}

// admit finds the tenant whose token r bears.
func (s *Server) admit(r *http.Request) (*tenant, *httpapi.Error) {
	if s.cfg.Tokens == nil {
		return s.anyone, nil
	}
	headers := r.Header.Values("Authorization")
	if len(headers) > 1 { // a proxy may have checked another one than the first
		return nil, &httpapi.Error{Code: httpapi.Unauthorized, Message: fmt.Sprintf("%d headers Authorization: want one", len(headers))}
	}
	scheme, token, _ := strings.Cut(strings.Join(headers, ""), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return nil, &httpapi.Error{Code: httpapi.Unauthorized, Message: `no token: want the header "Authorization: Bearer TOKEN"`}
	}
	now := time.Now()
	if t := s.cfg.Tokens.match(sha256.Sum256([]byte(token)), now); t != nil {
		return t, nil
	}
	if s.guards.countUnknown(sourceOf(r), now) > 0 {
		return nil, &httpapi.Error{Code: httpapi.Guessing, Message: "unknown token, after too many from this address: retry later"}
	}
	return nil, &httpapi.Error{Code: httpapi.Unauthorized, Message: "unknown token"}
}

// meter is a bucket of one rate, which the caller passes to each method. The zero
// meter is full.
type meter struct{ full time.Time }

// wait returns how long until a unit is available.
func (m *meter) wait(now time.Time, r bucket.Rate) time.Duration {
	return max(max(m.full.Sub(now), 0)+r.Span(1)-r.Span(r.Burst), 0)
}

// take takes a unit and returns zero, or returns how long until one is available.
func (m *meter) take(now time.Time, r bucket.Rate) time.Duration {
	if wait := m.wait(now, r); wait > 0 {
		return wait
	}
	if m.full.Before(now) {
		m.full = now
	}
	m.full = m.full.Add(r.Span(1))
	return 0
}
