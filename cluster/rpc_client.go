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
	// pingAfter is how long a leader may be silent before it is pinged, while it
	// has operations to answer.
	pingAfter = 250 * time.Millisecond

	// lostAfter is how long it may be silent before the connection is given up.
	lostAfter = time.Second
)

// rpcClient is a client's connection to the leader. It carries any number of
// operations at a time.
type rpcClient struct {
	conn net.Conn
	addr string

	mu      sync.Mutex
	lastSeq uint64                           // of the operation sent last
	pending map[uint64]chan waitqueue.Answer // operations without an answer, by sequence number
	out     []byte                           // frames to send
	wake    chan struct{}                    // holds one while out is not empty
	heard   time.Time                        // last frame from the leader, or when the oldest pending operation was sent, if later
	err     error                            // why the connection takes no more operations

	ended chan struct{} // closed when the connection takes no more operations
	next  chan string   // gets the address of the next leader, if this one names it; then closed
}

func newRPCClient(conn net.Conn, addr string) *rpcClient {
	return &rpcClient{
		conn: conn, addr: addr, pending: make(map[uint64]chan waitqueue.Answer),
		wake: make(chan struct{}, 1), ended: make(chan struct{}), next: make(chan string, 1), heard: time.Now(),
	}
}

// run serves the connection until it is closed. A leader that steps down closes it
// after it has named the next leader.
func (c *rpcClient) run(r *bufio.Reader) {
	defer close(c.next)
	var wg sync.WaitGroup
	wg.Go(c.write)
	wg.Go(c.watch)
	c.end(c.read(r))
	wg.Wait()
}

// end closes the connection. The outcome of pending operations is unknown.
func (c *rpcClient) end(err error) {
	c.retire(err)
	c.conn.Close()
}

// retire ends the use of the connection, and lets the leader finish.
func (c *rpcClient) retire(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err = err
	close(c.ended)
	lost := fmt.Errorf("connection to the leader at %s lost: %w: %w", c.addr, err, errUnclear)
	for _, answers := range c.pending {
		answers <- waitqueue.Answer{Result: ledger.Result{Err: lost}}
	}
	clear(c.pending)
}

// do implements [leader]. Errors of the decision itself are in the answer.
func (c *rpcClient) do(ctx context.Context, op ledger.Op) (waitqueue.Answer, error) {
	answers := make(chan waitqueue.Answer, 1)
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return waitqueue.Answer{}, errNotLeader // op was not sent
	}
	c.lastSeq++
	n := c.lastSeq
	if len(c.pending) == 0 {
		c.heard = time.Now()
	}
	c.pending[n] = answers
	c.send(frameOps, ledger.AppendOp(binary.AppendUvarint(nil, n), op))
	c.mu.Unlock()

	select {
	case a := <-answers:
		return undecided(a)
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	select {
	case a := <-answers: // it came just as ctx ended
		return undecided(a)
	default:
	}
	delete(c.pending, n)
	if !errors.Is(context.Cause(ctx), errAttemptTimeout) {
		c.send(frameCancel, binary.AppendUvarint(nil, n))
	}
	return waitqueue.Answer{}, context.Cause(ctx)
}

// undecided returns the answer, or an error if it says that there is no decision.
// There is none of an ask whose place in the queue was taken by an earlier attempt
// at the same ask, which was sent on a lost connection and arrived late.
func undecided(a waitqueue.Answer) (waitqueue.Answer, error) {
	if errors.Is(a.Err, waitqueue.ErrAskedAgain) {
		return waitqueue.Answer{}, errUnclear
	}
	if errors.Is(a.Err, errNotLeader) || errors.Is(a.Err, errUnclear) {
		return waitqueue.Answer{}, a.Err
	}
	return a, nil
}

// send queues a frame for the writer. The lock is held.
func (c *rpcClient) send(kind byte, body []byte) {
	c.out = appendFrame(c.out, kind, body)
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// write sends queued frames until the connection has ended.
func (c *rpcClient) write() {
	var buf []byte
	for {
		select {
		case <-c.ended:
			return
		case <-c.wake:
		}
		c.mu.Lock()
		buf, c.out = c.out, buf[:0]
		c.mu.Unlock()
		c.conn.SetWriteDeadline(time.Now().Add(lostAfter))
		if _, err := c.conn.Write(buf); err != nil {
			c.end(err)
			return
		}
	}
}

// watch pings a silent leader while operations are pending, and ends the connection
// if it stays silent.
func (c *rpcClient) watch() {
	timer := time.NewTicker(pingAfter)
	defer timer.Stop()
	for {
		select {
		case <-c.ended:
			return
		case <-timer.C:
		}
		c.mu.Lock()
		silent := time.Since(c.heard)
		idle := len(c.pending) == 0
		if !idle && silent >= pingAfter {
			c.send(framePing, nil)
		}
		c.mu.Unlock()
		if !idle && silent >= lostAfter {
			c.end(fmt.Errorf("silent for %v", silent.Round(time.Millisecond)))
			return
		}
	}
}

// read handles frames from the leader until the stream ends. It returns why.
func (c *rpcClient) read(r *bufio.Reader) error {
	var buf []byte
	for {
		kind, body, err := readFrame(r, &buf)
		if err != nil {
			return err
		}
		c.mu.Lock()
		c.heard = time.Now()
		c.mu.Unlock()
		if err := c.handle(kind, body); err != nil {
			return err
		}
	}
}

// handle acts on one frame. An error ends the stream.
func (c *rpcClient) handle(kind byte, body []byte) error {
	switch kind {
	case framePong:
		return nil
	case frameAnswers:
		return c.answers(body)
	case frameWait: // it leads no longer, and names the next leader soon
		c.retire(errNotLeader)
		c.conn.SetReadDeadline(time.Now().Add(heldFor + lostAfter))
		return nil
	case frameRole:
		leads, addr, err := parseRole(body)
		if err != nil {
			return err
		}
		if leads { // once more
			addr = c.addr
		}
		c.next <- addr
		return errNotLeader
	}
	return fmt.Errorf("frame of kind %q from the leader", kind)
}

// answers delivers the answers of a frame.
func (c *rpcClient) answers(body []byte) error {
	for len(body) > 0 {
		n, a, rest, err := parseAnswer(body)
		if err != nil {
			return err
		}
		c.deliver(n, a)
		body = rest
	}
	return nil
}

// deliver gives an answer to its caller, unless that has stopped waiting.
func (c *rpcClient) deliver(n uint64, a waitqueue.Answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if answers := c.pending[n]; answers != nil {
		delete(c.pending, n)
		answers <- a
	}
}

// parseAnswer reads the answer at the front of b and the sequence number of its
// operation.
func parseAnswer(b []byte) (n uint64, a waitqueue.Answer, rest []byte, err error) {
	n, b, err = parseSeq(b)
	if err == nil && len(b) == 0 {
		err = errors.New("answer without a fate")
	}
	if err != nil {
		return 0, a, nil, err
	}
	fate, b := b[0], b[1:]
	switch fate {
	case fateNotLeader:
		a.Err = errNotLeader
	case fateUnclear:
		a.Err = errUnclear
	case fateDecided:
		waited, size := binary.Varint(b)
		if size <= 0 || waited < 0 {
			return 0, a, nil, errors.New("answer without the time that its operation waited")
		}
		a.Waited = time.Duration(waited)
		a.Result, b, err = ledger.ParseResult(b[size:])
	default:
		err = fmt.Errorf("answer with fate %d: want %d to %d", fate, fateDecided, fateUnclear)
	}
	return n, a, b, err
}

// alive reports whether the connection takes operations.
func (c *rpcClient) alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err == nil
}
