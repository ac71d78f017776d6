package cluster

import (
	"bufio"
	"encoding/binary"
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

	mu   sync.Mutex
	out  []byte        // answers to be sent
	wake chan struct{} // holds one when there is something to send
	dead bool          // the client reads too slowly, or is gone
}

// grant is an answer by which a lease went out.
type grant struct {
	n  uint64
	at time.Time
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

// serve reads frames until the stream ends, or, once this node is not the
// leader any more, until the authority's end has been told.
func (s *session) serve(handle func(kind byte, body []byte) (reply byte, text []byte)) {
	done := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() { s.write(done) })
	defer writer.Wait()
	defer close(done)

	if s.authority != nil {
		defer s.authority.close(s.stream)
	}
	asked := make(map[uint64]*request)
	defer func() {
		for _, req := range asked {
			s.authority.abandon(req)
		}
	}()
	var answered sync.Mutex // guards gone and granted
	var gone []uint64       // answered since the last frame: to be forgotten
	var granted []grant     // in the order of time: a cancel may cross the answer
	r := bufio.NewReaderSize(s.conn, 32<<10)
	var buf []byte
	for {
		kind, body, err := readFrame(r, &buf)
		if err != nil {
			return
		}
		answered.Lock()
		for _, n := range gone {
			delete(asked, n)
		}
		gone = gone[:0]
		for len(granted) > 0 && time.Since(granted[0].at) > lostAfter {
			delete(asked, granted[0].n)
			granted = granted[1:]
		}
		answered.Unlock()
		switch kind {
		case frameOps:
			if s.authority == nil {
				return
			}
			for len(body) > 0 {
				n, rest, err := seq(body)
				if err != nil {
					return
				}
				op, rest, err := ledger.ParseOp(rest)
				if err != nil {
					return
				}
				body = rest
				req := s.authority.submitOn(s.stream, op, func(a waitqueue.Answer) {
					answered.Lock()
					if a.Grant.OK {
						granted = append(granted, grant{n, time.Now()})
					} else {
						gone = append(gone, n)
					}
					answered.Unlock()
					s.answer(n, a)
				})
				if req == nil {
					return // the member is elsewhere
				}
				asked[n] = req
			}
		case frameCancel:
			n, _, err := seq(body)
			if err != nil {
				return
			}
			if req := asked[n]; req != nil {
				s.authority.cancel(req)
				delete(asked, n)
			}
		case framePing:
			s.send(framePong, nil)
		default:
			reply, text := handle(kind, body)
			if reply == 0 {
				return
			}
			s.send(reply, text)
		}
	}
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
