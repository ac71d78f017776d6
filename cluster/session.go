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

// session serves one client's stream, as long as this node leads. Operations
// go to the authority as they come, answers leave in batches.
type session struct {
	conn      net.Conn
	authority *authority // nil: it does not lead
	stream    stream     // to the authority
	inflight  inflight

	mu   sync.Mutex
	out  []byte        // answers to be sent
	wake chan struct{} // holds one when there is something to send
	dead bool          // the client reads too slowly, or is gone
}

const (
	// maxUnsent is how many bytes of answers a client may leave unread.
	maxUnsent = 16 << 20

	// writeWithin is how long the system may take to accept what is sent.
	writeWithin = 5 * time.Second
)

// newSession is for a stream of the member id. It comes before the member is told
// that this node leads.
func newSession(conn net.Conn, a *authority, id string) *session {
	s := &session{conn: conn, authority: a, wake: make(chan struct{}, 1)}
	if a != nil {
		s.stream = a.open(id)
	}
	return s
}

// serve reads frames until the stream ends, the client breaks the protocol, or,
// once this node is not the leader any more, the authority's end has been told.
// Frames of other kinds than those of operations go to query, which returns the
// kind and the body of the reply; kind 0 ends the stream.
func (s *session) serve(query func(kind byte, body []byte) (reply byte, text []byte)) {
	done := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { s.write(done) })
	defer writer.Wait()
	defer close(done)
	if s.authority != nil {
		defer s.authority.close(s.stream)
	}
	defer func() {
		for _, req := range s.inflight.drain() {
			s.authority.abandon(req)
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
func (s *session) handle(kind byte, body []byte, query func(kind byte, body []byte) (reply byte, text []byte)) error {
	switch kind {
	case frameOps:
		return s.submit(body)
	case frameCancel:
		n, _, err := seq(body)
		if err != nil {
			return err
		}
		if req := s.inflight.cancel(n); req != nil {
			s.authority.cancel(req)
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

// submit hands the operations of a frame to the authority.
func (s *session) submit(body []byte) error {
	if s.authority == nil {
		return errNotLeader
	}
	for len(body) > 0 {
		n, rest, err := seq(body)
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
		submitted := s.authority.submitOn(s.stream, req, func(a waitqueue.Answer) {
			if a.Grant.OK {
				s.inflight.granted(n, req, time.Now())
			} else {
				s.inflight.answered(n, req)
			}
			s.answer(n, a)
		})
		if !submitted {
			s.inflight.answered(n, req)
			return errors.New("the member sends on a later stream")
		}
	}
	return nil
}

// answer queues the answer to operation n.
func (s *session) answer(n uint64, a waitqueue.Answer) {
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

// send queues a frame and never blocks: it is called by the authority. A client
// that does not read is cut off.
func (s *session) send(kind byte, body []byte) {
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
	s.out = binary.BigEndian.AppendUint32(s.out, uint32(len(body)+1))
	s.out = append(append(s.out, kind), body...)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *session) write(done <-chan struct{}) {
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
		s.conn.SetWriteDeadline(time.Now().Add(writeWithin))
		if _, err := s.conn.Write(buf); err != nil {
			s.conn.Close()
			return
		}
	}
}
