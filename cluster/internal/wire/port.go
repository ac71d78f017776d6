// Package wire is the one port of a node: streams for Raft, RPC and gossip, and
// gossip's packets on the same number. Nothing but TLS sees a stream before its
// peer has proved that it holds the secret, and both sides have said who they
// are.
package wire

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/go-sockaddr"
)

// Kind is what a stream is for. It is agreed on within TLS (ALPN).
type Kind string

// The kinds of stream. Their number is the version of what they carry.
const (
	Raft   Kind = "choked-raft/1"
	Gossip Kind = "choked-gossip/1"
	RPC    Kind = "choked-rpc/1"
)

var kinds = []string{string(Raft), string(Gossip), string(RPC)}

// Bounds on what peers can take before they are known, and in all.
const (
	handshakeWithin = 2 * time.Second // TLS and hello together
	maxStrangers    = 512             // connections before the end of their hello
	maxStrangersBy  = 64              // of those from one IP address
	maxConns        = 8192
	backlog         = 64 // streams accepted and not yet taken, for each kind
)

// Config says where a Port is and who may come in.
type Config struct {
	Network   Network
	Bind      string // host:port; port 0 takes any
	Advertise string // host:port; default: a reachable address of Bind
	Secret    Secret // may be empty on loopback only
	Previous  []Secret

	Hello func() Hello            // what this node says of itself, now
	Admit func(Kind, Hello) error // why a peer is not welcome; safe for concurrent use

	// Refused, if set, is told why this node was not welcome elsewhere.
	Refused func(Kind, *RefusedError)
	Logger  *slog.Logger
}

// Port is a node's port. Safe for concurrent use.
type Port struct {
	cfg     Config
	addr    string
	tls     *tls.Config
	seals   seals
	streams net.Listener
	packets net.PacketConn
	taken   map[Kind]*acceptor
	gossip  *gossipTransport

	mu        sync.Mutex
	conns     map[net.Conn]Kind // "" before the end of the hello
	strangers map[netip.Addr]int
	closed    bool
	work      sync.WaitGroup
}

// Open binds the port and begins to accept.
func Open(cfg Config) (*Port, error) {
	p := &Port{cfg: cfg, conns: make(map[net.Conn]Kind), strangers: make(map[netip.Addr]int), taken: make(map[Kind]*acceptor)}
	p.cfg.Secret, p.cfg.Previous = "", nil           // the keys are enough, and what prints a Port prints no secret
	if i := slices.Index(cfg.Previous, ""); i >= 0 { // anybody could come in by it
		return nil, fmt.Errorf("previous secret %d of %d is empty", i+1, len(cfg.Previous))
	}
	var err error
	if p.tls, err = credentials(cfg.Secret, cfg.Previous); err != nil {
		return nil, fmt.Errorf("derive keys: %w", err)
	}
	p.tls.NextProtos = kinds
	if p.seals, err = newSeals(append([]Secret{cfg.Secret}, cfg.Previous...)...); err != nil {
		return nil, fmt.Errorf("derive keys: %w", err)
	}
	if cfg.Secret == "" && !(loopback(cfg.Bind) && (cfg.Advertise == "" || loopback(cfg.Advertise))) {
		return nil, fmt.Errorf("bind %s without a secret: want a secret, or a loopback address such as 127.0.0.1", cfg.Bind)
	}
	if p.streams, p.packets, err = listen(cfg.Network, cfg.Bind); err != nil {
		return nil, err
	}
	if p.addr, err = advertised(cfg.Network, cfg.Advertise, p.streams.Addr().String()); err != nil {
		return nil, errors.Join(err, p.streams.Close(), p.packets.Close())
	}
	for _, kind := range []Kind{Raft, Gossip, RPC} {
		p.taken[kind] = newAcceptor(p.addr)
	}
	p.gossip = newGossipTransport(p)
	p.work.Go(p.accept)             // these end with the listener
	p.work.Go(p.gossip.readPackets) // and the packet socket
	p.work.Go(p.gossip.takeStreams)
	return p, nil
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// advertised is the address that others are told: what the user said, or the
// bound one, or where that is unspecified, a private one of this machine.
func advertised(network Network, said, bound string) (string, error) {
	_, port, err := net.SplitHostPort(bound)
	if err != nil {
		return "", err
	}
	if said != "" {
		host, saidPort, err := net.SplitHostPort(said)
		if err != nil {
			return "", err
		}
		if saidPort == "0" {
			saidPort = port
		}
		ips, err := network.LookupHost(context.Background(), host)
		if err != nil {
			return "", fmt.Errorf("advertise %s: %w", said, err)
		}
		if ip, err := netip.ParseAddr(ips[0]); err != nil || ip.IsUnspecified() {
			return "", fmt.Errorf("advertise %s: want an address at which others reach this node", said)
		}
		return CanonicalAddr(ips[0], saidPort), nil
	}
	at, err := netip.ParseAddrPort(bound)
	if err != nil {
		return "", err
	}
	if !at.Addr().IsUnspecified() {
		return CanonicalAddr(at.Addr().String(), port), nil
	}
	ip, err := sockaddr.GetPrivateIP()
	if err != nil || ip == "" {
		return "", fmt.Errorf("bind %s: found no private address to advertise, name one (%v)", bound, err)
	}
	return CanonicalAddr(ip, port), nil
}

// CanonicalAddr is host:port as all spell it, so that equal addresses are equal text.
// People write those of IPv6 in many ways, and ports with zeros before them.
func CanonicalAddr(ip, port string) string {
	if at, err := netip.ParseAddr(ip); err == nil {
		ip = at.Unmap().String()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err == nil {
		port = strconv.FormatUint(n, 10)
	}
	return net.JoinHostPort(ip, port)
}

// Addr returns the host:port at which others reach the port.
func (p *Port) Addr() string { return p.addr }

// RPC returns the listener for streams of kind [RPC]. Their connections are
// [*Conn].
func (p *Port) RPC() net.Listener { return p.taken[RPC] }

// Conn is a stream whose peer is known.
type Conn struct {
	net.Conn
	Peer Hello
	port *Port
}

// Close closes the stream, and does not block. TLS would say good-bye first, and
// wait for seconds for a peer that does not read. What streams carry says itself
// where it ends.
func (c *Conn) Close() error {
	c.port.forget(c)
	return c.Conn.(*tls.Conn).NetConn().Close()
}

// Dial opens a stream to the port at addr. The error may be a [*RefusedError],
// and is [net.ErrClosed] once the port or the kind is closed, which ends what
// is being dialled.
func (p *Port) Dial(ctx context.Context, kind Kind, addr string) (*Conn, error) {
	open := p.taken[kind].open
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(open, func() { cancel(net.ErrClosed) })()
	raw, err := p.cfg.Network.Dial(ctx, addr)
	if err != nil {
		if open.Err() != nil {
			err = fmt.Errorf("dial %s: %w", addr, net.ErrClosed)
		} else if ctx.Err() != nil { // not "operation was canceled", which hides why
			err = fmt.Errorf("dial %s: %w", addr, context.Cause(ctx))
		}
		return nil, err
	}
	stays := context.AfterFunc(ctx, func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(handshakeWithin))
	cfg := p.tls.Clone()
	cfg.NextProtos = []string{string(kind)}
	stream := tls.Client(raw, cfg)
	peer, err := greet(stream, addr, p.cfg.Hello())
	if !stays() {
		err = context.Cause(ctx)
	}
	if err != nil {
		raw.Close()
		var refused *RefusedError
		if !errors.As(err, &refused) {
			return nil, fmt.Errorf("handshake with %s: %w", addr, err)
		}
		if p.cfg.Refused != nil {
			p.cfg.Refused(kind, refused)
		}
		return nil, err
	}
	raw.SetDeadline(time.Time{})
	c := &Conn{stream, peer, p}
	if !p.remember(c, kind) || open.Err() != nil {
		c.Close()
		return nil, fmt.Errorf("dial %s: %w", addr, net.ErrClosed)
	}
	return c, nil
}

// remember keeps c so that it can be closed with the port.
func (p *Port) remember(c net.Conn, kind Kind) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[c] = kind
	return true
}

func (p *Port) forget(c net.Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, c)
}

func (p *Port) accept() {
	for {
		raw, err := p.streams.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many open files, perhaps: it may pass
			time.Sleep(10 * time.Millisecond)
			p.mu.Lock()
			closed := p.closed
			p.mu.Unlock()
			if closed {
				return
			}
			continue
		}
		from, ok := p.enter(raw)
		if !ok {
			raw.Close()
			continue
		}
		p.work.Go(func() {
			c, kind, err := p.handshake(raw)
			p.leave(raw, from)
			if err != nil {
				p.cfg.Logger.Debug("stream refused", "from", raw.RemoteAddr().String(), "error", err)
				raw.Close()
				return
			}
			if !p.remember(c, kind) || !p.taken[kind].offer(c) {
				c.Close()
			}
		})
	}
}

// enter counts a stranger in, if there is room.
func (p *Port) enter(raw net.Conn) (from netip.Addr, ok bool) {
	if at, err := netip.ParseAddrPort(raw.RemoteAddr().String()); err == nil {
		from = at.Addr()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	all := 0
	for _, n := range p.strangers {
		all += n
	}
	if p.closed || all >= maxStrangers || p.strangers[from] >= maxStrangersBy || len(p.conns) >= maxConns {
		return from, false
	}
	p.strangers[from]++
	p.conns[raw] = ""
	return from, true
}

func (p *Port) leave(raw net.Conn, from netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, raw)
	if p.strangers[from]--; p.strangers[from] == 0 {
		delete(p.strangers, from)
	}
}

// handshake makes a stranger known, or fails.
func (p *Port) handshake(raw net.Conn) (*Conn, Kind, error) {
	raw.SetDeadline(time.Now().Add(handshakeWithin))
	stream := tls.Server(raw, p.tls)
	if err := stream.Handshake(); err != nil {
		return nil, "", err
	}
	kind := Kind(stream.ConnectionState().NegotiatedProtocol)
	if p.taken[kind] == nil {
		return nil, "", fmt.Errorf("protocol %q: want one of %q", kind, kinds)
	}
	peer, err := receive(stream, p.cfg.Hello, func(h Hello) error { return p.cfg.Admit(kind, h) })
	if err != nil {
		return nil, "", err
	}
	raw.SetDeadline(time.Time{})
	return &Conn{stream, peer, p}, kind, nil
}

// CloseKind closes all streams of a kind, and accepts and dials no more of it.
func (p *Port) CloseKind(kind Kind) {
	p.taken[kind].Close()
	p.mu.Lock()
	var conns []net.Conn
	for c, k := range p.conns {
		if k == kind {
			conns = append(conns, c)
		}
	}
	p.mu.Unlock()
	cut(conns)
}

func cut(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

// Close closes the port and all of its streams, and returns when its goroutines
// have ended. It may be called twice.
func (p *Port) Close() error {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		p.work.Wait()
		return nil
	}
	p.closed = true
	conns := make([]net.Conn, 0, len(p.conns))
	for c := range p.conns {
		conns = append(conns, c)
	}
	p.mu.Unlock()
	err := errors.Join(p.streams.Close(), p.packets.Close())
	for _, a := range p.taken {
		a.Close()
	}
	p.gossip.close() // it may hold a stream that nobody takes
	cut(conns)
	p.work.Wait()
	return err
}

// acceptor is a listener for the streams of one kind.
type acceptor struct {
	addr  string
	conns chan *Conn
	open  context.Context // until it is closed
	close func()
}

func newAcceptor(addr string) *acceptor {
	a := &acceptor{addr: addr, conns: make(chan *Conn, backlog)}
	a.open, a.close = context.WithCancel(context.Background())
	return a
}

// offer hands a stream to whoever accepts, unless too many wait already.
func (a *acceptor) offer(c *Conn) bool {
	if a.open.Err() != nil {
		return false
	}
	select {
	case a.conns <- c:
		return true
	default:
		return false
	}
}

func (a *acceptor) Accept() (net.Conn, error) {
	select {
	case c := <-a.conns:
		if a.open.Err() != nil {
			return nil, net.ErrClosed
		}
		return c, nil
	case <-a.open.Done():
		return nil, net.ErrClosed
	}
}

func (a *acceptor) Close() error { a.close(); return nil }

func (a *acceptor) Addr() net.Addr { return addr(a.addr) }

// addr is a host:port as a [net.Addr].
type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }
