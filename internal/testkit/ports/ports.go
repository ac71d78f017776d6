// Package ports finds free ports for the processes that tests and programs start.
package ports

import (
	"fmt"
	"io"
	"net"
)

// Free returns n loopback addresses, as host:port, whose port is free for TCP and UDP.
func Free(n int) (addrs []string, err error) {
	var held []io.Closer // until all are found, so that no port is found twice
	defer func() {
		for _, c := range held {
			c.Close()
		}
	}()
	for tries := 0; len(addrs) < n; tries++ {
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		held = append(held, tcp)
		addr := tcp.Addr().String()
		udp, err := net.ListenPacket("udp", addr)
		if err == nil {
			held = append(held, udp)
			addrs = append(addrs, addr)
		} else if tries > 10*n {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
	}
	return addrs, nil
}
