package wire

import (
	"context"
	"net"
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

func (l raftLayer) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return l.port.Dial(ctx, Raft, string(address))
}

func (l raftLayer) Close() error {
	l.port.CloseKind(Raft)
	return nil
}
