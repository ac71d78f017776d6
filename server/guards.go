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

const (
	maxSources   = 1 << 16
	goodOfSource = 256 // tokens of a source that are remembered as good
)

// guards count the bad tokens of each source. One that has sent too many is
// not heard any more for a while, unless by tokens that it has used before:
// clients behind one address have nothing to fear from each other.
type guards struct {
	mu      sync.Mutex
	sources map[netip.Addr]*source
}

type source struct {
	bad  meter
	good map[[sha256.Size]byte]struct{}
}

func newGuards() *guards { return &guards{sources: make(map[netip.Addr]*source)} }

// blocked says for how long the source is not heard with this token.
func (g *guards) blocked(from netip.Addr, hash [sha256.Size]byte, now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sources[from]
	if s == nil {
		return 0
	}
	if _, ok := s.good[hash]; ok {
		return 0
	}
	return s.bad.wait(now, guessRate)
}

// judged notes what became of a token.
func (g *guards) judged(from netip.Addr, hash [sha256.Size]byte, good bool, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.sources[from]
	if s == nil {
		if len(g.sources) >= maxSources {
			g.forgetLocked(now)
		}
		s = &source{good: make(map[[sha256.Size]byte]struct{})}
		g.sources[from] = s
	}
	if !good {
		delete(s.good, hash) // it may have been revoked
		s.bad.take(now, guessRate)
		return
	}
	if _, ok := s.good[hash]; !ok && len(s.good) >= goodOfSource {
		clear(s.good)
	}
	s.good[hash] = struct{}{}
}

// forgetLocked makes room: it forgets sources that have nothing against them,
// or if it meets none, any.
func (g *guards) forgetLocked(now time.Time) {
	looked, forgotten := 0, 0
	for from, s := range g.sources { // a map is walked from a random place
		if looked++; !s.bad.full.After(now) || looked == 64 && forgotten == 0 {
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
	now, from, hash := time.Now(), sourceOf(r), sha256.Sum256([]byte(token))
	if s.guards.blocked(from, hash, now) > 0 {
		return nil, &httpapi.Error{Code: httpapi.Guessing, Message: "too many bad tokens from your address, come again in a minute"}
	}
	t := s.cfg.Tokens.match(hash, now)
	s.guards.judged(from, hash, t != nil, now)
	if t == nil {
		return nil, &httpapi.Error{Code: httpapi.Unauthorized, Message: "this token is not known"}
	}
	return t, nil
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
