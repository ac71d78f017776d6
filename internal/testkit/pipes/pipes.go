// Package pipes is a network with one listener, for tests in a testing/synctest bubble:
// the fake time does not advance while bytes are being transferred.
package pipes

import (
	"context"
	"net"
	"sync"
)

// Network is a listener and its dialer. It implements [net.Listener].
type Network struct {
	conns chan net.Conn
	done  chan struct{} // closed by Close
	close func()
}

// New returns a network. Call it in the bubble in which the network is used.
func New() *Network {
	n := &Network{conns: make(chan net.Conn), done: make(chan struct{})}
	n.close = sync.OnceFunc(func() { close(n.done) })
	return n
}

// Accept implements [net.Listener].
func (n *Network) Accept() (net.Conn, error) {
	select {
	case conn := <-n.conns:
		return conn, nil
	case <-n.done:
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]. Dial fails afterwards.
func (n *Network) Close() error {
	n.close()
	return nil
}

// Addr implements [net.Listener].
func (n *Network) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// Dial connects to the listener. It ignores the network and the address.
func (n *Network) Dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	select {
	case n.conns <- far:
		return near, nil
	case <-n.done:
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: net.ErrClosed}
	case <-ctx.Done():
		return nil, &net.OpError{Op: "dial", Net: "pipe", Err: ctx.Err()}
	}
}
