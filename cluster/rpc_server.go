package cluster

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/choked/choked/internal/ledger"
	"github.com/choked/choked/internal/waitqueue"
)

// rpcServerConn serves the stream of one client while this node leads. It submits
// operations to the leader's queue as they arrive, and sends answers in batches.
type rpcServerConn struct {
	conn     net.Conn
	queue    *leaderQueue // nil if this node does not lead
	stream   stream       // as the queue knows it
	inflight inflight

	mu   sync.Mutex
	out  []byte        // frames to send
	wake chan struct{} // holds one while out is not empty
	dead bool          // the client reads too slowly: the stream is closed
}

const (
	// maxUnsent is how many bytes of answers a client may leave unread.
	maxUnsent = 16 << 20

	// writeTimeout bounds how long a write to the stream may take.
	writeTimeout = 5 * time.Second
)

// newRPCServerConn returns a connection to serve for a stream of the member id.
// q is nil if this node does not lead. The call comes before the member is told
// that this node leads: from then on it sends operations.
func newRPCServerConn(conn net.Conn, q *leaderQueue, id string) *rpcServerConn {
	s := &rpcServerConn{conn: conn, queue: q, wake: make(chan struct{}, 1)}
	if q != nil {
		s.stream = q.open(id)
	}
	return s
}

// serve reads frames until the stream ends or the client breaks the protocol. It
// outlives the queue, so that the client learns which member leads next. Frames
// of kinds other than operations, cancels and pings go to query, which returns the
// kind and the body of the reply. A reply of kind 0 ends the stream.
func (s *rpcServerConn) serve(query func(kind byte, body []byte) (reply byte, text []byte)) {
	done := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { s.write(done) })
	defer writer.Wait()
	defer close(done)
	if s.queue != nil {
		defer s.queue.close(s.stream)
	}
	defer func() {
		for _, req := range s.inflight.drain() {
			s.queue.abandon(req)
		}
	}()
	r := bufio.NewReaderSize(s.conn, 32<<10)
	var buf []byte
	for {
		kind, body, err := readFrame(r, &buf)
		if err != nil {
			return
		}
		s.inflight.expire(time.Now())
		if err := s.handle(kind, body, query); err != nil {
			return
		}
	}
}

// handle acts on one frame. An error ends the stream.
func (s *rpcServerConn) handle(kind byte, body []byte, query func(kind byte, body []byte) (reply byte, text []byte)) error {
	switch kind {
	case frameOps:
		return s.submit(body)
	case frameCancel:
		n, _, err := parseSeq(body)
		if err != nil {
			return err
		}
		if req := s.inflight.cancel(n); req != nil {
			s.queue.cancel(req)
		}
	case framePing:
		s.send(framePong, nil)
	default:
		reply, text := query(kind, body)
		if reply == 0 {
			return fmt.Errorf("frame of unknown kind %q", kind)
		}
		s.send(reply, text)
	}
	return nil
}

// submit submits the operations of a frame to the queue.
func (s *rpcServerConn) submit(body []byte) error {
	if s.queue == nil {
		return errNotLeader
	}
	for len(body) > 0 {
		n, rest, err := parseSeq(body)
		if err != nil {
			return err
		}
		op, rest, err := ledger.ParseOp(rest)
		if err != nil {
			return err
		}
		body = rest
		req := &request{op: op}
		s.inflight.add(n, req)
		submitted := s.queue.submitOn(s.stream, req, func(a waitqueue.Answer) {
			if a.Grant.OK {
				s.inflight.granted(n, req, time.Now())
			} else {
				s.inflight.answered(n, req)
			}
			s.answer(n, a)
		})
		if !submitted {
			s.inflight.answered(n, req)
			return errors.New("the member uses a newer stream")
		}
	}
	return nil
}

// answer sends the answer to operation n.
func (s *rpcServerConn) answer(n uint64, a waitqueue.Answer) {
	b := binary.AppendUvarint(make([]byte, 0, 64), n)
	switch a.Err {
	case errNotLeader:
		b = append(b, fateNotLeader)
	case errUnclear, waitqueue.ErrAskedAgain:
		b = append(b, fateUnclear)
	default:
		b = append(b, fateDecided)
		b = binary.AppendVarint(b, int64(a.Waited))
		b = ledger.AppendResult(b, a.Result)
	}
	s.send(frameAnswers, b)
}

// send queues a frame for the writer. It never blocks, since the leader's queue
// calls it: the stream of a client that does not read is closed.
func (s *rpcServerConn) send(kind byte, body []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.dead {
		return
	}
	if len(s.out)+len(body) > maxUnsent {
		s.dead = true
		s.conn.Close()
		return
	}
	s.out = appendFrame(s.out, kind, body)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// write sends queued frames until done is closed or a write fails.
func (s *rpcServerConn) write(done <-chan struct{}) {
	var buf []byte
	for {
		select {
		case <-done:
			return
		case <-s.wake:
		}
		s.mu.Lock()
		buf, s.out = s.out, buf[:0]
		s.mu.Unlock()
		s.conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if _, err := s.conn.Write(buf); err != nil {
			s.conn.Close()
			return
		}
	}
}
