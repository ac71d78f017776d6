package cluster

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/choked/choked/internal/ledger"
	"github.com/choked/choked/internal/waitqueue"
)

const (
	// pingAfter is how long a leader may be silent while it has something to
	// decide before it is pinged, and lostAfter before it is given up.
	pingAfter = 250 * time.Millisecond
	lostAfter = time.Second
)

// link is a client's stream to the leader. Any number of operations are under
// way on it at a time.
type link struct {
	conn net.Conn
	addr string

	mu      sync.Mutex
	last    uint64
	pending map[uint64]chan waitqueue.Answer
	out     []byte
	wake    chan struct{}
	heard   time.Time // something from the other side, or the first of what is pending was sent
	err     error     // once it is over

	over chan struct{} // closed when it is over
	next chan string   // who leads after this one, if it says so; then closed
}

func newLink(conn net.Conn, addr string) *link {
	return &link{
		conn: conn, addr: addr, pending: make(map[uint64]chan waitqueue.Answer),
		wake: make(chan struct{}, 1), over: make(chan struct{}), next: make(chan string, 1), heard: time.Now(),
	}
}

// run serves the link until it is over, and until the leader has said who leads
// after it, if it leads no more.
func (l *link) run(r *bufio.Reader) {
	defer close(l.next)
	var wg sync.WaitGroup
	wg.Go(l.write)
	wg.Go(l.watch)
	l.end(l.read(r))
	wg.Wait()
}

// end closes the link. What is under way is unclear.
func (l *link) end(err error) {
	l.retire(err)
	l.conn.Close()
}

// retire ends the use of the link, and lets the other side finish.
func (l *link) retire(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return
	}
	l.err = err
	close(l.over)
	lost := fmt.Errorf("connection to the leader at %s lost: %w: %w", l.addr, err, errUnclear)
	for _, answers := range l.pending {
		answers <- waitqueue.Answer{Result: ledger.Result{Err: lost}}
	}
	clear(l.pending)
}

// do has the leader decide op. The error is errNotLeader, errUnclear or that of
// ctx; errors of the decision are in the answer.
func (l *link) do(ctx context.Context, op ledger.Op) (waitqueue.Answer, error) {
	answers := make(chan waitqueue.Answer, 1)
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return waitqueue.Answer{}, errNotLeader // nothing was sent
	}
	l.last++
	n := l.last
	if len(l.pending) == 0 {
		l.heard = time.Now()
	}
	l.pending[n] = answers
	l.queue(frameOps, ledger.AppendOp(binary.AppendUvarint(nil, n), op))
	l.mu.Unlock()

	select {
	case a := <-answers:
		return undecided(a)
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case a := <-answers: // the two met
		return undecided(a)
	default:
	}
	delete(l.pending, n)
	if !errors.Is(context.Cause(ctx), errAttemptTimeout) {
		l.queue(frameCancel, binary.AppendUvarint(nil, n))
	}
	return waitqueue.Answer{}, context.Cause(ctx)
}

// undecided tells an answer from none. Who is told that the same was asked again
// did not do that: an attempt before it came later, from a connection that is lost.
func undecided(a waitqueue.Answer) (waitqueue.Answer, error) {
	if errors.Is(a.Err, waitqueue.ErrAskedAgain) {
		return waitqueue.Answer{}, errUnclear
	}
	if errors.Is(a.Err, errNotLeader) || errors.Is(a.Err, errUnclear) {
		return waitqueue.Answer{}, a.Err
	}
	return a, nil
}

// queue has a frame sent. The lock is held.
func (l *link) queue(kind byte, body []byte) {
	l.out = binary.BigEndian.AppendUint32(l.out, uint32(len(body)+1))
	l.out = append(append(l.out, kind), body...)
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *link) write() {
	var buf []byte
	for {
		select {
		case <-l.over:
			return
		case <-l.wake:
		}
		l.mu.Lock()
		buf, l.out = l.out, buf[:0]
		l.mu.Unlock()
		l.conn.SetWriteDeadline(time.Now().Add(lostAfter))
		if _, err := l.conn.Write(buf); err != nil {
			l.end(err)
			return
		}
	}
}

// watch notices a leader that does not answer: while something is under way it
// is pinged, and given up when it stays silent.
func (l *link) watch() {
	timer := time.NewTicker(pingAfter)
	defer timer.Stop()
	for {
		select {
		case <-l.over:
			return
		case <-timer.C:
		}
		l.mu.Lock()
		silent := time.Since(l.heard)
		idle := len(l.pending) == 0
		if !idle && silent >= pingAfter {
			l.queue(framePing, nil)
		}
		l.mu.Unlock()
		if !idle && silent >= lostAfter {
			l.end(fmt.Errorf("silent for %v", silent.Round(time.Millisecond)))
			return
		}
	}
}

// read takes in answers until the stream ends.
func (l *link) read(r *bufio.Reader) error {
	var buf []byte
	for {
		kind, body, err := readFrame(r, &buf)
		if err != nil {
			return err
		}
		l.mu.Lock()
		l.heard = time.Now()
		l.mu.Unlock()
		switch kind {
		case framePong:
		case frameAnswers:
			for len(body) > 0 {
				if body, err = l.answer(body); err != nil {
					return err
				}
			}
		case frameWait: // it leads no more
			l.retire(errNotLeader)
			l.conn.SetReadDeadline(time.Now().Add(heldFor + lostAfter))
		case frameRole:
			again, addr, err := parseRole(body)
			if err != nil {
				return err
			}
			if again {
				addr = l.addr
			}
			l.next <- addr
			return errNotLeader
		default:
			return fmt.Errorf("frame of kind %q from the leader", kind)
		}
	}
}

// answer hands the answer at the front of b to who waits for it.
func (l *link) answer(b []byte) (rest []byte, err error) {
	n, b, err := seq(b)
	if err != nil || len(b) == 0 {
		return nil, errors.Join(err, errors.New("an answer ends early"))
	}
	fate, b := b[0], b[1:]
	var a waitqueue.Answer
	switch fate {
	case fateNotLeader:
		a.Err = errNotLeader
	case fateUnclear:
		a.Err = errUnclear
	case fateDecided:
		waited, size := binary.Varint(b)
		if size <= 0 || waited < 0 {
			return nil, errors.New("an answer without the time it waited")
		}
		a.Waited = time.Duration(waited)
		if a.Result, b, err = ledger.ParseResult(b[size:]); err != nil {
			return nil, err
		}
	default:
		return nil, fmt.Errorf("an answer of fate %d", fate)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if answers := l.pending[n]; answers != nil {
		delete(l.pending, n)
		answers <- a
	}
	return b, nil
}

// alive reports whether the link can be used.
func (l *link) alive() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err == nil
}
