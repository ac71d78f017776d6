package wire

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// Raft returns the port's streams of kind [Raft], for a [raft.NetworkTransport].
// Closing it also closes the streams that are open, which the transport does not.
func (p *Port) Raft() raft.StreamLayer { return raftLayer{p.acceptor(Raft), p} }

// raftLayer is a [raft.StreamLayer] over a port.
type raftLayer struct {
	*acceptor
	port *Port
}

// RaftAddr returns the address by which [Port.Raft] dials the node with this id. Any other
// node at that address refuses the stream: if it lost its log and restarted there, it could
// otherwise cast the vote of its former self, or join a cluster that has no leader.
func RaftAddr(node, addr string) raft.ServerAddress { return raft.ServerAddress(node + "@" + addr) }

func (l raftLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	node, addr, ok := strings.Cut(string(address), "@")
	if !ok {
		return nil, fmt.Errorf("dial %s: gossip knows no address of this member", address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := l.port.dial(ctx, Raft, addr, node)
	if err != nil { // a nil *Conn would be no nil net.Conn
		return nil, err
	}
	return c, nil
}

func (l raftLayer) Close() error {
	l.port.CloseKind(Raft)
	return nil
}
