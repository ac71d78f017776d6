//go:build linux

package fleet

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

// Relay carries all that arrives at one address on to another, somewhat later:
// streams and packets, as a long way does that has room enough.
type Relay struct {
	to    string
	delay time.Duration

	streams net.Listener
	packets *net.UDPConn

	mu    sync.Mutex
	conns map[net.Conn]bool // nil: closed
	all   sync.WaitGroup
}

// NewRelay listens at from, TCP and UDP, both host:port.
func NewRelay(from, to string, delay time.Duration) (*Relay, error) {
	r := &Relay{to: to, delay: delay, conns: make(map[net.Conn]bool)}
	var err error
	if r.streams, err = net.Listen("tcp", from); err != nil {
		return nil, err
	}
	at, err := netip.ParseAddrPort(r.streams.Addr().String())
	if err != nil {
		return nil, errors.Join(err, r.streams.Close())
	}
	if r.packets, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(at)); err != nil {
		return nil, errors.Join(err, r.streams.Close())
	}
	r.all.Go(r.accept)       // ends with the listener
	r.all.Go(r.carryPackets) // ends with its socket
	return r, nil
}

// Close cuts all streams off, and returns when nothing is under way any more.
func (r *Relay) Close() error {
	r.mu.Lock()
	for conn := range r.conns {
		conn.Close()
	}
	r.conns = nil
	r.mu.Unlock()
	err := errors.Join(r.streams.Close(), r.packets.Close())
	r.all.Wait()
	return err
}

// keep notes a connection, so that Close ends it; false if it is too late.
func (r *Relay) keep(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		conn.Close()
		return false
	}
	r.conns[conn] = true
	return true
}

func (r *Relay) drop(conn net.Conn) {
	conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, conn)
}

func (r *Relay) accept() {
	for {
		near, err := r.streams.Accept()
		if err != nil {
			return
		}
		r.all.Go(func() { r.carryStream(near) })
	}
}

func (r *Relay) carryStream(near net.Conn) {
	if !r.keep(near) {
		return
	}
	defer r.drop(near)
	far, err := net.Dial("tcp", r.to)
	if err != nil || !r.keep(far) {
		return
	}
	defer r.drop(far)
	var both sync.WaitGroup
	both.Go(func() { r.copy(far, near) })
	both.Go(func() { r.copy(near, far) })
	both.Wait()
}

// late is what was read, and when it may be written.
type late struct {
	at   time.Time
	data []byte
}

// copy writes what it reads from src to dst, each piece after the delay, the end
// too.
func (r *Relay) copy(dst, src net.Conn) {
	under := make(chan late, 1<<12)
	go func() { // ends when src does
		defer close(under)
		for {
			b := make([]byte, 32<<10)
			n, err := src.Read(b)
			under <- late{time.Now().Add(r.delay), b[:n]}
			if err != nil {
				return
			}
		}
	}()
	for l := range under {
		time.Sleep(time.Until(l.at))
		if _, err := dst.Write(l.data); err != nil {
			break
		}
	}
	if half, ok := dst.(*net.TCPConn); ok {
		half.CloseWrite() //nolint:errcheck // it may be gone
	}
	src.Close()
	for range under { // until the reader has ended
	}
}

func (r *Relay) carryPackets() {
	out, err := net.Dial("udp", r.to)
	if err != nil {
		return
	}
	defer out.Close()
	var under sync.WaitGroup
	defer under.Wait()
	for b := make([]byte, 64<<10); ; {
		n, _, err := r.packets.ReadFromUDP(b)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		packet := append([]byte(nil), b[:n]...)
		under.Go(func() {
			time.Sleep(r.delay)
			out.Write(packet) //nolint:errcheck // packets get lost
		})
	}
}
