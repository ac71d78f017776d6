// Package pipes is a network of one listener, for tests in a bubble: its time
// stands still while bytes are on their way.
package pipes

import (
	"context"
	"net"
	"sync"
)

// Network is a listener and the way to it.
type Network struct {
	conns chan net.Conn
	over  chan struct{}
	close func()
}

// New returns a network. It has to be made in the bubble in which it is used.
func New() *Network {
	n := &Network{conns: make(chan net.Conn), over: make(chan struct{})}
	n.close = sync.OnceFunc(func() { close(n.over) })
	return n
}

// Accept implements [net.Listener].
func (n *Network) Accept() (net.Conn, error) {
	select {
	case conn := <-n.conns:
		return conn, nil
	case <-n.over:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]. Who dials then is refused.
func (n *Network) Close() error {
	n.close()
	return nil
}

// Addr implements [net.Listener].
func (n *Network) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// Dial connects to the listener, whatever the address.
func (n *Network) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case n.conns <- far:
		return near, nil
	case <-n.over:
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: net.ErrClosed}
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: ctx.Err()}
	}
}
