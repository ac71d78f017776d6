package server

import (
	"net"
	"net/netip"
	"sync"
)

// Bounds of the open connections.
const (
	maxConns       = 10_000
	connsPerSource = 1_000 // default of Config.ConnsPerSource
)

// bounded returns a listener that closes the connections of l over the bounds.
func bounded(l net.Listener, perSource int) net.Listener {
	return &listener{Listener: l, perSource: perSource, from: make(map[netip.Addr]int)}
}

type listener struct {
	net.Listener
	perSource int

	mu   sync.Mutex
	all  int                // open connections
	from map[netip.Addr]int // open connections by source
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		source := sourceOfConn(conn)
		if !l.add(source) {
			conn.Close()
			continue
		}
		return &counted{Conn: conn, done: sync.OnceFunc(func() { l.remove(source) })}, nil
	}
}

func sourceOfConn(conn net.Conn) netip.Addr {
	addr, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return networkOf(addr.Addr())
}

func (l *listener) add(source netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxConns || l.from[source] >= l.perSource {
		return false
	}
	l.all++
	l.from[source]++
	return true
}

func (l *listener) remove(source netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.from[source]--; l.from[source] == 0 {
		delete(l.from, source)
	}
}

// counted is a connection that counts as open until it is closed.
type counted struct {
	net.Conn
	done func()
}

func (c *counted) Close() error {
	c.done()
	return c.Conn.Close()
}
