package cluster

import (
	"bufio"
	"context"
	"encoding/binary"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"github.com/choked/choked/cluster/internal/wire"
)

// rpcServer serves the RPC streams that other members open to this node.
type rpcServer struct {
	ctx    context.Context // ends when the node closes
	tasks  *tasks
	id     string // of this node
	port   *wire.Port
	raft   *consensus
	gossip *gossip
	router *router
	voters *voterManager
	queue  *atomic.Pointer[leaderQueue]
}

// accept serves streams until the port closes.
func (s *rpcServer) accept() {
	for {
		conn, err := s.port.RPC().Accept()
		if err != nil {
			return
		}
		if !s.tasks.spawn(func() { s.serve(conn.(*wire.Conn)) }) {
			conn.Close()
		}
	}
}

// serve tells the client who leads, and serves its stream if this node does.
func (s *rpcServer) serve(conn *wire.Conn) {
	defer conn.Close()
	stop := context.AfterFunc(s.ctx, func() { conn.Close() })
	defer stop()
	q := s.awaitLeader(func() {
		conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		w := bufio.NewWriter(conn)
		writeFrame(w, frameWait, nil) //nolint:errcheck // serve notices a broken stream
		w.Flush()                     //nolint:errcheck
	})
	client := newRPCServerConn(conn, q, conn.Peer.Node)
	client.send(frameRole, s.role(q))
	if q == nil {
		conn.SetReadDeadline(time.Now().Add(changeWithin)) // for one question
	} else {
		ended := make(chan struct{})
		defer close(ended)
		s.tasks.spawn(func() { s.redirect(conn, client, q, ended) })
	}
	client.serve(s.answer)
}

// redirect tells a client who leads after q, which has sent all its answers by
// then. A client that does not close the stream is cut off after lostAfter.
func (s *rpcServer) redirect(conn *wire.Conn, client *rpcServerConn, q *leaderQueue, ended <-chan struct{}) {
	select {
	case <-ended:
	case <-q.ended:
		client.send(frameWait, nil)
		client.send(frameRole, s.role(s.awaitLeader(func() {})))
		conn.SetReadDeadline(time.Now().Add(lostAfter))
	}
}

// awaitLeader returns the queue if this node leads, else nil. A voter that knows
// no leader, or is about to lead, first waits up to heldFor for that to change, and
// calls onWait before.
func (s *rpcServer) awaitLeader(onWait func()) *leaderQueue {
	var timeout <-chan time.Time
	for {
		changed := s.router.mayHaveChanged()
		q := s.queue.Load()
		_, leader := s.raft.LeaderWithID()
		if elsewhere := leader != "" && leader != raft.ServerID(s.id); q != nil || elsewhere || !s.gossip.announced().Voter {
			return q
		}
		if timeout == nil {
			timer := time.NewTimer(heldFor)
			defer timer.Stop()
			timeout = timer.C
			onWait()
		}
		select {
		case <-changed:
		case <-timeout:
			return nil
		case <-s.ctx.Done():
			return nil
		}
	}
}

// role returns the body of the role frame of a node whose queue is q.
func (s *rpcServer) role(q *leaderQueue) []byte {
	if q != nil {
		return []byte{1}
	}
	_, id := s.raft.LeaderWithID()
	if m, ok := s.gossip.member(string(id)); ok && !m.Self {
		return append([]byte{0}, m.Addr...)
	}
	return []byte{0}
}

// answer answers frames that are no operations: questions of one member to another.
func (s *rpcServer) answer(kind byte, body []byte) (reply byte, text []byte) {
	switch kind {
	case frameStatus:
		return frameState, binary.AppendUvarint(nil, s.raft.AppliedIndex())
	case frameLeave:
		if err := s.voters.removeDeparting(s.ctx, string(body)); err != nil {
			return frameLeft, []byte(err.Error())
		}
		return frameLeft, nil
	}
	return 0, nil
}
