package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Network provides a node with listeners, connections and a resolver.
type Network interface {
	Listen(addr string) (net.Listener, error)         // streams
	ListenPacket(addr string) (net.PacketConn, error) // packets
	Dial(ctx context.Context, addr string) (net.Conn, error)
	LookupHost(ctx context.Context, host string) ([]string, error)

	// Source returns the address of this host from which traffic to addr leaves. It
	// sends no packet.
	Source(addr string) (netip.Addr, error)

	// Addrs returns the addresses of this host.
	Addrs() ([]netip.Addr, error)
}

// System is the operating system's network: TCP, UDP and its resolver.
var System Network = system{}

type system struct{}

func (system) Listen(addr string) (net.Listener, error) { return net.Listen("tcp", addr) }

func (system) ListenPacket(addr string) (net.PacketConn, error) { return net.ListenPacket("udp", addr) }

func (system) Dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAlive: 15 * time.Second}
	return d.DialContext(ctx, "tcp", addr)
}

func (system) LookupHost(ctx context.Context, host string) ([]string, error) {
	if host == "localhost" { // the same on all machines, whatever their resolvers return
		return []string{"127.0.0.1"}, nil
	}
	return net.DefaultResolver.LookupHost(ctx, host)
}

func (system) Source(addr string) (netip.Addr, error) {
	conn, err := net.Dial("udp", addr) // only chooses the route
	if err != nil {
		return netip.Addr{}, err
	}
	defer conn.Close()
	at, err := netip.ParseAddrPort(conn.LocalAddr().String())
	return at.Addr().Unmap(), err
}

func (system) Addrs() ([]netip.Addr, error) {
	all, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range all {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil {
			addrs = append(addrs, prefix.Addr().Unmap())
		}
	}
	return addrs, nil
}

// listen binds addr for streams and for packets. Port 0 stands for any port that is
// free for both.
func listen(network Network, addr string) (net.Listener, net.PacketConn, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, nil, err
	}
	for try := 0; ; try++ {
		streams, err := network.Listen(addr)
		if err != nil {
			return nil, nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
		_, got, _ := net.SplitHostPort(streams.Addr().String())
		packets, err := network.ListenPacket(net.JoinHostPort(host, got))
		if err == nil {
			return streams, packets, nil
		}
		streams.Close()
		if port != "0" || try == 20 || !errors.Is(err, syscall.EADDRINUSE) {
			return nil, nil, fmt.Errorf("listen on %s: %w", addr, err)
		}
	}
}
