// Package wire is the one port of a node: streams for Raft, RPC and gossip, and
// gossip's packets, all on the same port number. A stream is handed on only after
// its peer has proved by TLS that it holds the secret, and both sides have sent
// their ids.
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
	"sync"
	"time"

	"github.com/choked/choked/internal/fold"
)

// Kind is the purpose of a stream. It is negotiated within TLS (ALPN).
type Kind string

// The kinds of stream. The number in a name is the version of the protocol.
const (
	Raft   Kind = "choked-raft/2"
	Gossip Kind = "choked-gossip/2"
	RPC    Kind = "choked-rpc/2"
	Probe  Kind = "choked-probe/2" // ends after the handshake, which tells who answers at an address
)

var kinds = []string{string(Raft), string(Gossip), string(RPC), string(Probe)}

// Bounds on the time and the connections that peers can use. A handshake is TLS and
// the hello together.
const (
	handshakeTimeout   = 2 * time.Second
	maxHandshakes      = 512  // connections in their handshake
	memberHandshakes   = 64   // of these only for addresses of members
	maxHandshakesPerIP = 64   // the same, from one IP address, or one IPv6 network of 64 bits
	maxConns           = 8192 // connections in all
	backlog            = 64   // streams of one kind that wait to be accepted
)

// Config holds the addresses of a Port and decides which peers it admits.
type Config struct {
	Network   Network
	Bind      string   // host:port; port 0: any free port
	Advertise string   // host:port; default: see [advertised]
	Join      []string // host:port of other nodes, which decide the default of Advertise
	Secret    Secret   // may be empty only if Bind is a loopback address
	Previous  []Secret

	Hello func() Hello            // returns the present hello of this node
	Admit func(Kind, Hello) error // returns why a peer is refused, or nil; safe for concurrent use

	// Copied is called when another process has the id of this node, on both sides of
	// the stream with the same two hellos. It returns why there is no such stream.
	// Safe for concurrent use.
	Copied func(self, peer Hello) error

	// IsMember reports whether a member of the cluster has an IP address: some of the
	// connections in their handshake are for members only. Nil: none is known. Safe
	// for concurrent use.
	IsMember func(netip.Addr) bool

	// Refused, if set, is called when a peer has refused a stream of this node. A
	// peer with another secret does not get as far: see [Port.WrongSecrets].
	Refused func(Kind, *RefusedError)
	Logger  *slog.Logger
}

// Port is a node's port. It is safe for concurrent use.
type Port struct {
	cfg     Config
	addr    string
	tls     *tls.Config
	seals   seals
	streams net.Listener
	packets net.PacketConn
	gossip  *gossipTransport
	wrong   wrongSecrets
	events  fold.Events // of log lines

	mu         sync.Mutex
	acceptors  map[Kind]*acceptor
	conns      map[net.Conn]Kind    // "" during the handshake
	handshakes map[netip.Prefix]int // connections in their handshake, by source
	closed     bool
	work       sync.WaitGroup
}

// Open binds the port and starts to accept streams.
func Open(cfg Config) (*Port, error) {
	p := &Port{cfg: cfg, conns: make(map[net.Conn]Kind), handshakes: make(map[netip.Prefix]int), acceptors: make(map[Kind]*acceptor)}
	p.cfg.Secret, p.cfg.Previous = "", nil           // only the keys are needed: a Port that is printed shows no secret
	if i := slices.Index(cfg.Previous, ""); i >= 0 { // it would admit any peer
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
	if p.addr, err = advertised(cfg, p.streams.Addr().String()); err != nil {
		return nil, errors.Join(err, p.streams.Close(), p.packets.Close())
	}
	for _, kind := range kinds {
		p.acceptors[Kind(kind)] = newAcceptor(p.addr)
	}
	p.gossip = newGossipTransport(p)
	p.work.Go(p.accept)             // ends when the listener is closed
	p.work.Go(p.gossip.readPackets) // ends when the packet socket is closed
	p.work.Go(p.gossip.takeStreams) // ends when the acceptor is closed
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

// Addr returns the host:port at which others reach the port.
func (p *Port) Addr() string { return p.addr }

// RPC returns the listener for streams of kind [RPC]. Their connections are
// [*Conn].
func (p *Port) RPC() net.Listener { return p.acceptor(RPC) }

// Conn is a stream after its handshake.
type Conn struct {
	net.Conn
	Peer Hello
	port *Port
}

// Close closes the stream without blocking. TLS would send an alert first, and wait
// for seconds if the peer does not read. The protocols on the streams do not need
// the alert: each message carries its length.
func (c *Conn) Close() error {
	c.port.forget(c)
	return c.Conn.(*tls.Conn).NetConn().Close()
}

// Dial opens a stream to the port at addr. The error may be a [*RefusedError]. It is
// [net.ErrClosed] once the port or the kind is closed, which also ends dials in
// progress.
func (p *Port) Dial(ctx context.Context, kind Kind, addr string) (*Conn, error) {
	return p.dial(ctx, kind, addr, "")
}

// dial is Dial to the node with an id, which any other node refuses; empty: to any node.
func (p *Port) dial(ctx context.Context, kind Kind, addr, want string) (*Conn, error) {
	open := p.acceptor(kind).open
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(open, func() { cancel(net.ErrClosed) })()
	raw, err := p.cfg.Network.Dial(ctx, addr)
	if err != nil {
		p.noteDialled(addr, err)
		if open.Err() != nil {
			err = fmt.Errorf("dial %s: %w", addr, net.ErrClosed)
		} else if ctx.Err() != nil { // net's "operation was canceled" hides the cause
			err = fmt.Errorf("dial %s: %w", addr, context.Cause(ctx))
		}
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	raw.SetDeadline(time.Now().Add(handshakeTimeout))
	cfg := p.tls.Clone()
	cfg.NextProtos = []string{string(kind)}
	stream := tls.Client(raw, cfg)
	self := p.Hello()
	self.Want = want
	peer, err := greet(stream, addr, self)
	err = explainVersion(err)
	if !stop() {
		err = context.Cause(ctx)
	}
	var refused *RefusedError
	if errors.As(err, &refused) {
		peer = refused.Peer
	}
	if self.IsCopy(peer) {
		err, refused = p.cfg.Copied(self, peer), nil
	}
	p.noteDialled(addr, err)
	if err != nil {
		raw.Close()
		if refused == nil {
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

// Probe returns the hello of the node that answers at addr, which may be this one. A
// node that refuses this one is an error, a [*RefusedError] with its hello.
func (p *Port) Probe(ctx context.Context, addr string) (Hello, error) {
	c, err := p.Dial(ctx, Probe, addr)
	if err != nil {
		return Hello{}, err
	}
	c.Close()
	return c.Peer, nil
}

// Hello returns the present hello of this node.
func (p *Port) Hello() Hello {
	h := p.cfg.Hello()
	h.Addr = p.addr
	return h
}

// remember registers c, which is closed with the port. It returns false if the port
// is closed already.
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

// accept accepts streams until the port is closed.
func (p *Port) accept() {
	for {
		raw, err := p.streams.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // perhaps too many open files: retry
			time.Sleep(10 * time.Millisecond)
			p.mu.Lock()
			closed := p.closed
			p.mu.Unlock()
			if closed {
				return
			}
			continue
		}
		from, ok := p.beginHandshake(raw)
		if !ok {
			raw.Close()
			continue
		}
		p.work.Go(func() {
			c, kind, err := p.handshake(raw)
			p.endHandshake(raw, from)
			if err != nil {
				p.noteRefused(raw, err)
				raw.Close()
				return
			}
			if kind == Probe || !p.remember(c, kind) || !p.acceptor(kind).offer(c) {
				c.Close()
			}
		})
	}
}

// beginHandshake counts a connection in, unless there are too many. The source that it
// returns is the network of the peer. For a member whose network has no place left, or
// when all places for strangers are taken, it is the address alone.
func (p *Port) beginHandshake(raw net.Conn) (source netip.Prefix, ok bool) {
	ip := sourceOf(raw)
	source = network(ip)
	p.mu.Lock()
	defer p.mu.Unlock()
	all := 0
	for _, n := range p.handshakes {
		all += n
	}
	if p.closed || all >= maxHandshakes || len(p.conns) >= maxConns {
		return source, false
	}
	if all >= maxHandshakes-memberHandshakes || p.handshakes[source] >= maxHandshakesPerIP {
		if p.cfg.IsMember == nil || !p.cfg.IsMember(ip) {
			return source, false
		}
		if source, _ = ip.Prefix(ip.BitLen()); p.handshakes[source] >= maxHandshakesPerIP {
			return source, false
		}
	}
	p.handshakes[source]++
	p.conns[raw] = ""
	return source, true
}

// endHandshake counts a connection out.
func (p *Port) endHandshake(raw net.Conn, source netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.conns, raw)
	if p.handshakes[source]--; p.handshakes[source] == 0 {
		delete(p.handshakes, source)
	}
}

// handshake runs the accepting side of TLS and the preamble.
func (p *Port) handshake(raw net.Conn) (*Conn, Kind, error) {
	raw.SetDeadline(time.Now().Add(handshakeTimeout))
	stream := tls.Server(raw, p.tls)
	if err := stream.Handshake(); err != nil {
		return nil, "", explainVersion(err)
	}
	kind := Kind(stream.ConnectionState().NegotiatedProtocol)
	if p.acceptor(kind) == nil {
		return nil, "", fmt.Errorf("protocol %q: want one of %q", kind, kinds)
	}
	peer, err := receive(stream, p.Hello, func(self, peer Hello) error {
		if self.IsCopy(peer) {
			return p.cfg.Copied(self, peer)
		}
		if peer.Want != "" && peer.Want != self.Node {
			return fmt.Errorf("this is node %q, not %q", self.Node, peer.Want)
		}
		return p.cfg.Admit(kind, peer)
	})
	if err != nil {
		return nil, "", err
	}
	raw.SetDeadline(time.Time{})
	return &Conn{stream, peer, p}, kind, nil
}

// CloseKind closes all streams of a kind. From then on none of it is accepted or
// dialed.
func (p *Port) CloseKind(kind Kind) {
	p.acceptor(kind).Close()
	p.mu.Lock()
	var conns []net.Conn
	for c, k := range p.conns {
		if k == kind {
			conns = append(conns, c)
		}
	}
	p.mu.Unlock()
	closeAll(conns)
}

// Reopen makes a kind that was closed accept and dial streams again, unless the port
// is closed. Listeners of the kind from before remain closed.
func (p *Port) Reopen(kind Kind) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.acceptors[kind].open.Err() != nil && !p.closed {
		p.acceptors[kind] = newAcceptor(p.addr)
	}
}

// acceptor returns the present acceptor of a kind; nil: there is no such kind.
func (p *Port) acceptor(kind Kind) *acceptor {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.acceptors[kind]
}

func closeAll(conns []net.Conn) {
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
	for _, a := range p.acceptors {
		a.Close()
	}
	p.gossip.close() // which may hold a stream that memberlist does not take
	closeAll(conns)
	p.work.Wait()
	return err
}

// acceptor is a listener for the streams of one kind.
type acceptor struct {
	addr  string
	conns chan *Conn
	open  context.Context // ends when the acceptor is closed
	close func()
}

func newAcceptor(addr string) *acceptor {
	a := &acceptor{addr: addr, conns: make(chan *Conn, backlog)}
	a.open, a.close = context.WithCancel(context.Background())
	return a
}

// offer passes a stream to Accept. It returns false if the acceptor is closed, or too
// many streams wait already.
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
