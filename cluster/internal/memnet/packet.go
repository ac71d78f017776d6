package memnet

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"
)

type packet struct {
	data []byte
	from netip.AddrPort
}

// socket sends and receives packets. Packets that do not fit into its buffer are lost.
type socket struct {
	net     *Net
	at      netip.AddrPort
	packets chan packet
	once    sync.Once
	done    chan struct{}
}

func (s *socket) ReadFrom(b []byte) (int, net.Addr, error) {
	select {
	case <-s.done: // even if packets are buffered
		return 0, nil, net.ErrClosed
	default:
	}
	select {
	case p := <-s.packets:
		return copy(b, p.data), net.UDPAddrFromAddrPort(p.from), nil
	case <-s.done:
		return 0, nil, net.ErrClosed
	}
}

func (s *socket) WriteTo(b []byte, addr net.Addr) (int, error) {
	select {
	case <-s.done:
		return 0, net.ErrClosed
	default:
	}
	to, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return 0, err
	}
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	n := s.net
	n.mu.Lock()
	copies := 1
	switch chance := n.rng.Float64(); {
	case chance < n.loss, n.cuts[[2]netip.Addr{s.at.Addr(), to.Addr()}]:
		copies = 0
	case chance < n.loss+n.dup:
		copies = 2
	}
	delay := n.delay
	n.mu.Unlock()
	p := packet{slices.Clone(b), s.at}
	for range copies {
		if delay > 0 {
			time.AfterFunc(delay, func() { n.deliver(p, to) })
		} else {
			n.deliver(p, to)
		}
	}
	return len(b), nil
}

func (n *Net) deliver(p packet, to netip.AddrPort) {
	n.mu.Lock()
	s := n.sockets[to]
	n.mu.Unlock()
	if s == nil {
		return
	}
	select {
	case s.packets <- p:
	default:
	}
}

func (s *socket) Close() error {
	s.once.Do(func() {
		s.net.mu.Lock()
		delete(s.net.sockets, s.at)
		s.net.mu.Unlock()
		close(s.done)
	})
	return nil
}

func (s *socket) LocalAddr() net.Addr { return net.UDPAddrFromAddrPort(s.at) }

// SetDeadline fails: a socket has no deadlines.
func (s *socket) SetDeadline(time.Time) error      { return os.ErrNoDeadline }
func (s *socket) SetReadDeadline(time.Time) error  { return os.ErrNoDeadline }
func (s *socket) SetWriteDeadline(time.Time) error { return os.ErrNoDeadline }
