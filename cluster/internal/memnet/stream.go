package memnet

import (
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// window is how many bytes a stream takes before its writer has to wait.
const window = 256 << 10

// conn is one end of a stream.
type conn struct {
	net           *Net
	local, remote netip.AddrPort
	in, out       *pipe
}

func (n *Net) pair(from, to netip.AddrPort) (here, there *conn) {
	forth, back := newPipe(n, from, to), newPipe(n, to, from)
	here = &conn{n, from, to, back, forth}
	there = &conn{n, to, from, forth, back}
	n.mu.Lock()
	n.conns[here], n.conns[there] = struct{}{}, struct{}{}
	n.mu.Unlock()
	return here, there
}

func (c *conn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b) }

func (c *conn) Close() error {
	c.forget()
	c.in.end(net.ErrClosed, syscall.EPIPE)
	c.out.end(io.EOF, net.ErrClosed)
	return nil
}

// reset breaks the stream for both ends.
func (c *conn) reset() {
	c.forget()
	c.in.drop(syscall.ECONNRESET)
	c.out.drop(syscall.ECONNRESET)
}

func (c *conn) forget() {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	delete(c.net.conns, c)
}

func (c *conn) LocalAddr() net.Addr                { return tcp(c.local) }
func (c *conn) RemoteAddr() net.Addr               { return tcp(c.remote) }
func (c *conn) SetReadDeadline(t time.Time) error  { c.in.setDeadline(&c.in.readBy, t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { c.out.setDeadline(&c.out.writeBy, t); return nil }

func (c *conn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// pipe is one direction of a stream.
type pipe struct {
	net      *Net
	from, to netip.AddrPort

	mu       sync.Mutex
	change   sync.Cond
	sent     []chunk
	held     int   // bytes sent and not read
	readErr  error // for the reader, once all that was sent is read
	writeErr error
	readBy   time.Time
	writeBy  time.Time
}

type chunk struct {
	data   []byte
	arrive time.Time
}

func newPipe(n *Net, from, to netip.AddrPort) *pipe {
	p := &pipe{net: n, from: from, to: to}
	p.change.L = &p.mu
	return p
}

func (p *pipe) wake() { p.change.Broadcast() }

// lookAgain wakes who waits for what the pipe does not hold: time, or the net.
func (p *pipe) lookAgain() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wake()
}

func (p *pipe) wakeAt(t time.Time) { time.AfterFunc(time.Until(t), p.lookAgain) }

func (p *pipe) setDeadline(which *time.Time, t time.Time) {
	p.mu.Lock()
	*which = t
	p.mu.Unlock()
	p.lookAgain()
	if !t.IsZero() {
		p.wakeAt(t)
	}
}

func past(t time.Time) bool { return !t.IsZero() && !time.Now().Before(t) }

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case past(p.readBy):
			return 0, os.ErrDeadlineExceeded
		case p.readErr == net.ErrClosed:
			return 0, net.ErrClosed
		case p.net.cut(p.from, p.to): // nothing arrives, not even the end
		case len(p.sent) > 0 && !time.Now().Before(p.sent[0].arrive):
			n := copy(b, p.sent[0].data)
			p.held -= n
			if p.sent[0].data = p.sent[0].data[n:]; len(p.sent[0].data) == 0 {
				p.sent = slices.Delete(p.sent, 0, 1)
			}
			p.wake()
			return n, nil
		case len(p.sent) == 0 && p.readErr != nil:
			return 0, p.readErr
		}
		p.change.Wait()
	}
}

func (p *pipe) write(b []byte) (int, error) {
	p.net.mu.Lock()
	delay := p.net.delay
	p.net.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.writeErr == nil && !past(p.writeBy) && p.held > window {
		p.change.Wait()
	}
	switch {
	case p.writeErr != nil:
		return 0, p.writeErr
	case past(p.writeBy):
		return 0, os.ErrDeadlineExceeded
	case len(b) == 0:
		return 0, nil
	}
	arrive := time.Now().Add(delay)
	p.sent = append(p.sent, chunk{slices.Clone(b), arrive})
	p.held += len(b)
	if delay > 0 {
		p.wakeAt(arrive)
	}
	p.wake()
	return len(b), nil
}

// end tells the reader, after what was sent, and the writer that it is over.
func (p *pipe) end(forReader, forWriter error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.readErr == nil || forReader == net.ErrClosed {
		p.readErr = forReader
	}
	if p.writeErr == nil {
		p.writeErr = forWriter
	}
	p.wake()
}

// drop is end without what was sent.
func (p *pipe) drop(err error) {
	p.end(err, err)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = nil
	p.wake()
}
