package wire

import (
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// WrongSecret is a peer that does not hold the secret of this port.
type WrongSecret struct {
	Addr    string    // host:port that was dialled, or the IP address of a peer that dialled
	Dialled bool      // this port dialled the peer
	Since   time.Time // of the first failure in a row
}

func (w WrongSecret) String() string {
	if w.Dialled {
		return w.Addr + " answers, but not to our secret"
	}
	return w.Addr + " dials us, but with another secret"
}

const (
	// wrongSecretFor is how long after its last failure a peer counts as one with a
	// wrong secret.
	wrongSecretFor = 10 * time.Second

	maxWrongSecrets = 64 // peers that are remembered
)

// wrongSecrets remembers the peers with a wrong secret. The zero value is ready for
// use. Safe for concurrent use.
type wrongSecrets struct {
	mu    sync.Mutex
	peers map[wrongPeer]wrongSpan
}

type wrongPeer struct {
	addr    string
	dialled bool
}

type wrongSpan struct{ first, last time.Time }

// add records a failure.
func (w *wrongSecrets) add(addr string, dialled bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	w.forget(now)
	if w.peers == nil {
		w.peers = make(map[wrongPeer]wrongSpan)
	}
	peer := wrongPeer{addr, dialled}
	span, known := w.peers[peer]
	if !known {
		if len(w.peers) >= maxWrongSecrets {
			return
		}
		span.first = now
	}
	span.last = now
	w.peers[peer] = span
}

// clear records that the peer that was dialled at addr does not fail for its secret.
func (w *wrongSecrets) clear(addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.peers, wrongPeer{addr, true})
}

func (w *wrongSecrets) forget(now time.Time) {
	maps.DeleteFunc(w.peers, func(_ wrongPeer, s wrongSpan) bool { return now.Sub(s.last) >= wrongSecretFor })
}

// list returns the peers, those that were dialled first.
func (w *wrongSecrets) list() []WrongSecret {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(time.Now())
	var list []WrongSecret
	for peer, span := range w.peers {
		list = append(list, WrongSecret{peer.addr, peer.dialled, span.first})
	}
	slices.SortFunc(list, func(a, b WrongSecret) int {
		switch {
		case a.Dialled != b.Dialled && a.Dialled, a.Dialled == b.Dialled && a.Addr < b.Addr:
			return -1
		}
		return 1
	})
	return list
}

// WrongSecrets returns the peers that failed to prove within the last seconds that
// they hold the secret of this port, or found that this port does not hold theirs.
func (p *Port) WrongSecrets() []WrongSecret { return p.wrong.list() }

// isWrongSecret reports whether a handshake failed because one side does not trust the
// certificate of the other one. A fault of the network is another error.
func isWrongSecret(err error) bool {
	var certificate *tls.CertificateVerificationError
	if errors.As(err, &certificate) {
		return true
	}
	var alert *net.OpError // package tls does not export the alerts that it receives
	if !errors.As(err, &alert) || alert.Op != "remote error" {
		return false
	}
	switch alert.Err.Error() {
	case "tls: bad certificate", "tls: unknown certificate authority":
		return true
	}
	return false
}

// noteDialled records the result of a handshake with the peer that was dialled at
// addr, and warns of a wrong secret, once a minute.
func (p *Port) noteDialled(addr string, err error) {
	if !isWrongSecret(err) {
		p.wrong.clear(addr)
		return
	}
	p.wrong.add(addr, true)
	if repeated, report := p.events.Report("dialled " + addr); report {
		p.cfg.Logger.Warn("stream failed: peer answers, but not to our secret", "addr", addr, "repeated", repeated, "error", err)
	}
}

// noteRefused logs why a stream was refused. A wrong secret is a warning, once a
// minute for each source.
func (p *Port) noteRefused(raw net.Conn, err error) {
	addr := raw.RemoteAddr().String()
	if isWrongSecret(err) {
		ip := sourceOf(raw)
		p.wrong.add(ip.String(), false)
		if repeated, report := p.events.Report("dialled by " + network(ip).String()); report {
			p.cfg.Logger.Warn("stream refused: peer has another secret", "from", addr, "repeated", repeated, "error", err)
			return
		}
	}
	p.cfg.Logger.Debug("stream refused", "from", addr, "error", err)
}

// sourceOf returns the IP address from which a connection comes; the zero address if
// there is none.
func sourceOf(raw net.Conn) netip.Addr {
	at, err := netip.ParseAddrPort(raw.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap().WithZone("")
}

// network returns the addresses that count as one source: an IPv4 address, or the
// IPv6 network of 64 bits that one host can have for itself.
func network(ip netip.Addr) netip.Prefix {
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	prefix, _ := ip.Prefix(bits)
	return prefix
}
