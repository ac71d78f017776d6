// Package ports finds ports to listen on, for programs and tests that start
// others.
package ports

import (
	"fmt"
	"io"
	"net"
)

// Free returns n addresses of loopback on which TCP and UDP are free.
func Free(n int) (addrs []string, err error) {
	var held []io.Closer // until all are found: else one might be found twice
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for tries := 0; len(addrs) < n; tries++ {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("look for a free port: %w", err)
		}
		held = append(held, tcp)
		addr := tcp.Addr().String()
		udp, err := net.ListenPacket("udp", addr)
		if err == nil {
			held = append(held, udp)
			addrs = append(addrs, addr)
		} else if tries > 10*n {
			return nil, fmt.Errorf("look for a free port: %w", err)
		}
	}
	return addrs, nil
}
