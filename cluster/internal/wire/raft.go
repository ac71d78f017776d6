package wire

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// Raft returns the port's streams of kind [Raft], for a
// [raft.NetworkTransport]. Closing it closes those that are open, too, which
// the transport would leave.
func (p *Port) Raft() raft.StreamLayer { return raftLayer{p.taken[Raft], p} }

type raftLayer struct {
	*acceptor
	port *Port
}

// RaftAddr is the address at which [Port.Raft] dials the node with this id, and
// no other: one that lost its log and has come back at the same address would
// give a vote for its former self.
func RaftAddr(node, addr string) raft.ServerAddress { return raft.ServerAddress(node + "@" + addr) }

func (l raftLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	node, addr, ok := strings.Cut(string(address), "@")
	if !ok {
		return nil, fmt.Errorf("dial %s: whether the member is there is not known", address)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := l.port.Dial(ctx, Raft, addr)
	if err != nil {
		return nil, err
	}
	if c.Peer.Node != node {
		c.Close()
		return nil, fmt.Errorf("dial %s: node %q is there now, not %q", addr, c.Peer.Node, node)
	}
	return c, nil
}

func (l raftLayer) Close() error {
	l.port.CloseKind(Raft)
	return nil
}
