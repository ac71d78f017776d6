// Package memnet is a test helper: a network in memory for testing/synctest bubbles.
// Its hosts exchange streams and packets, with the faults of real networks. All of its
// blocking is durable in a bubble.
package memnet

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Net is a network. It is safe for concurrent use.
type Net struct {
	mu        sync.Mutex
	rng       *rand.Rand
	names     map[string][]string
	listeners map[netip.AddrPort]*listener
	sockets   map[netip.AddrPort]*socket
	conns     map[*conn]struct{}
	cuts      map[[2]netip.Addr]bool      // from, to
	lives     map[netip.Addr]int          // how often each host has crashed
	virtual   map[netip.Addr][]netip.Addr // hosts behind a virtual address
	aliases   map[netip.Addr]netip.Addr   // hosts by further addresses of theirs
	lastPort  uint16
	delay     time.Duration
	loss, dup float64
}

// New returns a network without faults. seed determines which packets later faults
// affect.
func New(seed uint64) *Net {
	return &Net{
		rng: rand.New(rand.NewPCG(seed, 0)), names: make(map[string][]string),
		listeners: make(map[netip.AddrPort]*listener), sockets: make(map[netip.AddrPort]*socket),
		conns: make(map[*conn]struct{}), cuts: make(map[[2]netip.Addr]bool),
		lives: make(map[netip.Addr]int), lastPort: firstPort,
		virtual: make(map[netip.Addr][]netip.Addr), aliases: make(map[netip.Addr]netip.Addr),
	}
}

// firstPort is the first port that port 0 stands for.
const firstPort = 30000

// Faults sets the delay of all data in one direction, and the shares of packets that
// are lost or duplicated.
func (n *Net) Faults(delay time.Duration, loss, dup float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay, n.loss, n.dup = delay, loss, dup
}

// Name sets the addresses that a DNS name resolves to.
func (n *Net) Name(name string, ips ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.names[name] = ips
}

// Virtual makes streams to the address ip lead to a random one of some hosts, as a load
// balancer does.
func (n *Net) Virtual(ip string, hosts ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]netip.Addr, len(hosts))
	for i, h := range hosts {
		all[i] = netip.MustParseAddr(h)
	}
	n.virtual[netip.MustParseAddr(ip)] = all
}

// Alias gives a host one more address, for streams only.
func (n *Net) Alias(host, ip string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.aliases[netip.MustParseAddr(ip)] = netip.MustParseAddr(host)
}

// target returns the address of the host to which a stream to an address leads. The
// lock is held.
func (n *Net) target(to netip.AddrPort) netip.AddrPort {
	if host, ok := n.aliases[to.Addr()]; ok {
		return netip.AddrPortFrom(host, to.Port())
	}
	if hosts := n.virtual[to.Addr()]; len(hosts) > 0 {
		return netip.AddrPortFrom(hosts[n.rng.IntN(len(hosts))], to.Port())
	}
	return to
}

// Cut stops all data from one host to another: packets are lost, streams block, dials
// time out.
func (n *Net) Cut(from, to string) { n.setCut(from, to, true) }

// Heal ends a cut. Data that is held up in streams arrives.
func (n *Net) Heal(from, to string) { n.setCut(from, to, false) }

func (n *Net) setCut(from, to string, on bool) {
	n.mu.Lock()
	n.cuts[[2]netip.Addr{netip.MustParseAddr(from), netip.MustParseAddr(to)}] = on
	conns := slices.Collect(maps.Keys(n.conns))
	n.mu.Unlock()
	for _, c := range conns {
		c.in.recheck()
		c.out.recheck()
	}
}

// Split cuts a from b and b from a, for all pairs; Join heals them.
func (n *Net) Split(a, b []string) { n.pairs(a, b, n.Cut) }

// Join heals what Split has cut.
func (n *Net) Join(a, b []string) { n.pairs(a, b, n.Heal) }

func (n *Net) pairs(a, b []string, f func(from, to string)) {
	for _, x := range a {
		for _, y := range b {
			f(x, y)
			f(y, x)
		}
	}
}

// Crash closes all sockets of a host, as the death of its process would: peers see
// their streams reset. Code of the test that still runs on the host cannot use the
// network. A later call of [Net.Host] starts the host again.
func (n *Net) Crash(ip string) {
	host := netip.MustParseAddr(ip)
	n.mu.Lock()
	n.lives[host]++
	var end []func()
	for at, l := range n.listeners {
		if at.Addr() == host {
			end = append(end, func() { l.Close() })
		}
	}
	for at, s := range n.sockets {
		if at.Addr() == host {
			end = append(end, func() { s.Close() })
		}
	}
	for c := range n.conns {
		if c.local.Addr() == host {
			end = append(end, c.reset)
		}
	}
	n.mu.Unlock()
	for _, f := range end {
		f()
	}
}

func (n *Net) cut(from, to netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.cuts[[2]netip.Addr{from, to}]
}

// Host returns the network of the host with this IP address.
func (n *Net) Host(ip string) *Host {
	host := netip.MustParseAddr(ip)
	n.mu.Lock()
	defer n.mu.Unlock()
	return &Host{n, host, n.lives[host]}
}

// Host is one host's view of the network, until it crashes.
type Host struct {
	net  *Net
	ip   netip.Addr
	life int
}

// dead returns an error if the host has crashed. The lock is held.
func (h *Host) dead(call string) error {
	if h.net.lives[h.ip] != h.life {
		return os.NewSyscallError(call, syscall.ENETDOWN)
	}
	return nil
}

// at returns the address to bind for addr on this host. It fills in a missing host part
// and port 0. The lock is held.
func (h *Host) at(addr string) (netip.AddrPort, error) {
	if err := h.dead("bind"); err != nil {
		return netip.AddrPort{}, err
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	if host == "" {
		addr = h.ip.String() + addr
	}
	at, err := netip.ParseAddrPort(addr)
	if err == nil && at.Addr() != h.ip {
		err = fmt.Errorf("bind %s on host %s: %w", addr, h.ip, syscall.EADDRNOTAVAIL)
	}
	if err == nil && at.Port() == 0 {
		at = h.free()
	}
	return at, err
}

// free returns an address of this host that is not bound. The lock is held.
func (h *Host) free() netip.AddrPort {
	n := h.net
	for {
		if n.lastPort++; n.lastPort < firstPort { // wrapped around
			n.lastPort = firstPort
		}
		at := netip.AddrPortFrom(h.ip, n.lastPort)
		if n.listeners[at] == nil && n.sockets[at] == nil {
			return at
		}
	}
}

// Listen listens for streams.
func (h *Host) Listen(addr string) (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	at, err := h.at(addr)
	if err != nil {
		return nil, err
	}
	if h.net.listeners[at] != nil {
		return nil, os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	l := &listener{net: h.net, at: at, conns: make(chan *conn, 128), done: make(chan struct{})}
	h.net.listeners[at] = l
	return l, nil
}

// ListenPacket opens a socket for packets.
func (h *Host) ListenPacket(addr string) (net.PacketConn, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	at, err := h.at(addr)
	if err != nil {
		return nil, err
	}
	if h.net.sockets[at] != nil {
		return nil, os.NewSyscallError("bind", syscall.EADDRINUSE)
	}
	s := &socket{net: h.net, at: at, packets: make(chan packet, 256), done: make(chan struct{})}
	h.net.sockets[at] = s
	return s, nil
}

// Dial opens a stream to addr.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	n := h.net
	fail := func(err error) (net.Conn, error) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Addr: tcp(to), Err: err}
	}
	n.mu.Lock()
	trip, err := 2*n.delay, h.dead("connect")
	to = n.target(to)
	n.mu.Unlock()
	if err != nil {
		return fail(err)
	}
	if trip > 0 {
		select {
		case <-time.After(trip):
		case <-ctx.Done():
		}
	}
	if n.cut(h.ip, to.Addr()) || n.cut(to.Addr(), h.ip) {
		<-ctx.Done()
	}
	if err := ctx.Err(); err != nil {
		return fail(err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := h.dead("connect"); err != nil { // it may have crashed during the round trip
		return fail(err)
	}
	l := n.listeners[to]
	if l == nil || len(l.conns) == cap(l.conns) {
		return fail(os.NewSyscallError("connect", syscall.ECONNREFUSED))
	}
	here, there := n.pair(h.free(), to)
	l.conns <- there // does not block: there is room, and all senders hold the lock
	return here, nil
}

// LookupHost resolves names set by [Net.Name], and IP addresses.
func (h *Host) LookupHost(_ context.Context, host string) ([]string, error) {
	if _, err := netip.ParseAddr(host); err == nil {
		return []string{host}, nil
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if ips := h.net.names[host]; len(ips) > 0 {
		return ips, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// Source returns the address of the host.
func (h *Host) Source(addr string) (netip.Addr, error) {
	_, err := netip.ParseAddrPort(addr)
	return h.ip, err
}

// Addrs returns the address of the host and its aliases.
func (h *Host) Addrs() ([]netip.Addr, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	all := []netip.Addr{h.ip}
	for ip, host := range h.net.aliases {
		if host == h.ip {
			all = append(all, ip)
		}
	}
	return all, nil
}

func tcp(at netip.AddrPort) net.Addr { return net.TCPAddrFromAddrPort(at) }

// listener is a [net.Listener] for streams.
type listener struct {
	net   *Net
	at    netip.AddrPort
	conns chan *conn
	once  sync.Once
	done  chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close closes the listener and resets the streams that are not accepted yet.
func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.at)
		l.net.mu.Unlock()
		close(l.done)
		for {
			select {
			case c := <-l.conns:
				c.reset()
			default:
				return
			}
		}
	})
	return nil
}

func (l *listener) Addr() net.Addr { return tcp(l.at) }
