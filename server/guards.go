package server

import (
	"crypto/sha256"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
)

// guessRate is how many bad tokens may come from one source.
var guessRate = bucket.Rate{N: 20, Per: time.Minute, Burst: 20}

const maxSources = 1 << 16

// guards count the bad tokens of each source. One that has sent too many is told
// to come later. Its good tokens are admitted all the same: clients behind one
// address have nothing to fear from each other, and a guesser gains nothing by
// that, for a token is random and too long to be guessed.
type guards struct {
	mu      sync.Mutex
	sources map[netip.Addr]*meter // of bad tokens
}

func newGuards() *guards { return &guards{sources: make(map[netip.Addr]*meter)} }

// bad notes a bad token, and says how much later the source should have come.
func (g *guards) bad(from netip.Addr, now time.Time) time.Duration {
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

// forgetLocked makes room: it forgets sources that have nothing against them,
// or if it meets none, any.
func (g *guards) forgetLocked(now time.Time) {
	looked, forgotten := 0, 0
	for from, m := range g.sources { // a map is walked from a random place
		if looked++; !m.full.After(now) || looked == 64 && forgotten == 0 {
			delete(g.sources, from)
			forgotten++
		}
		if looked >= 64 {
			return
		}
	}
}

// sourceOf is where r comes from: its address, or for IPv6 the network of 64
// bits, of which one host may have all.
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
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	token = strings.TrimSpace(token)
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return nil, &httpapi.Error{Code: httpapi.Unauthorized, Message: `no token: want the header "Authorization: Bearer ..."`}
	}
	now := time.Now()
	if t := s.cfg.Tokens.match(sha256.Sum256([]byte(token)), now); t != nil {
		return t, nil
	}
	if s.guards.bad(sourceOf(r), now) > 0 {
		return nil, &httpapi.Error{Code: httpapi.Guessing, Message: "this token is not known, and too many such came from your address"}
	}
	return nil, &httpapi.Error{Code: httpapi.Unauthorized, Message: "this token is not known"}
}

// meter is a bucket of its own, of one rate.
type meter struct{ full time.Time }

// wait is how long until a unit is there.
func (m *meter) wait(now time.Time, r bucket.Rate) time.Duration {
	return max(max(m.full.Sub(now), 0)+r.Span(1)-r.Span(r.Burst), 0)
}

// take takes a unit, or says when one will be there.
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
