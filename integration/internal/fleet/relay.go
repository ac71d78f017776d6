//go:build linux

package fleet

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Relay forwards TCP streams and UDP packets from one address to another with a
// fixed delay, like a long link of ample bandwidth.
type Relay struct {
	to    string
	delay time.Duration

	streams net.Listener
	packets *net.UDPConn

	mu         sync.Mutex
	conns      map[net.Conn]bool // nil: closed
	goroutines sync.WaitGroup
}

// NewRelay starts a relay from one address to another, both host:port.
func NewRelay(from, to string, delay time.Duration) (*Relay, error) {
	r := &Relay{to: to, delay: delay, conns: make(map[net.Conn]bool)}
	var err error
	if r.streams, err = net.Listen("tcp", from); err != nil {
		return nil, err
	}
	addr, err := netip.ParseAddrPort(r.streams.Addr().String())
	if err != nil {
		return nil, errors.Join(err, r.streams.Close())
	}
	if r.packets, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(addr)); err != nil {
		return nil, errors.Join(err, r.streams.Close())
	}
	r.goroutines.Go(r.accept)       // ends with the listener
	r.goroutines.Go(r.carryPackets) // ends with its socket
	return r, nil
}

// Close closes all streams and waits until all goroutines of the relay have ended.
func (r *Relay) Close() error {
	r.mu.Lock()
	for conn := range r.conns {
		conn.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	err := errors.Join(r.streams.Close(), r.packets.Close())
	r.goroutines.Wait()
	return err
}

// track registers a connection, so that Close closes it. If the relay is closed,
// it closes the connection and returns false.
func (r *Relay) track(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		conn.Close()
		return false
	}
	r.conns[conn] = true
	return true
}

func (r *Relay) untrack(conn net.Conn) {
	conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, conn)
}

func (r *Relay) accept() {
	for {
		client, err := r.streams.Accept()
		if err != nil {
			return
		}
		r.goroutines.Go(func() { r.carryStream(client) })
	}
}

func (r *Relay) carryStream(client net.Conn) {
	if !r.track(client) {
		return
	}
	defer r.untrack(client)
	server, err := net.Dial("tcp", r.to)
	if err != nil || !r.track(server) {
		return
	}
	defer r.untrack(server)
	var both sync.WaitGroup
	both.Go(func() { r.copy(server, client) })
	both.Go(func() { r.copy(client, server) })
	both.Wait()
}

// chunk is data that was read, with the time at which it is written.
type chunk struct {
	due  time.Time
	data []byte
}

// copy copies src to dst with the delay, the end of the stream too.
func (r *Relay) copy(dst, src net.Conn) {
	pending := make(chan chunk, 1<<12)
	go func() { // ends when src does
		defer close(pending)
		for {
			b := make([]byte, 32<<10)
			n, err := src.Read(b)
			pending <- chunk{time.Now().Add(r.delay), b[:n]}
			if err != nil {
				return
			}
		}
	}()
	for c := range pending {
		time.Sleep(time.Until(c.due))
		if _, err := dst.Write(c.data); err != nil {
			break
		}
	}
	if tcp, ok := dst.(*net.TCPConn); ok {
		tcp.CloseWrite() //nolint:errcheck // the connection may be closed
	}
	src.Close()
	for range pending { // drain until the reader has ended
	}
}

func (r *Relay) carryPackets() {
	out, err := net.Dial("udp", r.to)
	if err != nil {
		return
	}
	defer out.Close()
	var pending sync.WaitGroup
	defer pending.Wait()
	for b := make([]byte, 64<<10); ; {
		n, _, err := r.packets.ReadFromUDP(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		packet := append([]byte(nil), b[:n]...)
		pending.Go(func() {
			time.Sleep(r.delay)
			out.Write(packet) //nolint:errcheck // UDP may lose packets
		})
	}
}
