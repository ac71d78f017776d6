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

// window is the number of unread bytes at which a stream blocks its writer.
const window = 256 << 10

// conn is one end of a stream.
type conn struct {
	net           *Net
	local, remote netip.AddrPort
	in, out       *pipe
}

// pair returns the two ends of a new stream. The lock is held.
func (n *Net) pair(from, to netip.AddrPort) (here, there *conn) {
	forth, back := newPipe(n, from, to), newPipe(n, to, from)
	here = &conn{n, from, to, back, forth}
	there = &conn{n, to, from, forth, back}
	n.conns[here], n.conns[there] = struct{}{}, struct{}{}
	return here, there
}

func (c *conn) Read(b []byte) (int, error)  { return c.in.read(b) }
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b) }

func (c *conn) Close() error {
	c.forget()
	c.in.endReader(net.ErrClosed, syscall.EPIPE)
	c.out.endWriter(net.ErrClosed, io.EOF)
	return nil
}

// reset resets the stream at this end. The other end sees the reset later.
func (c *conn) reset() {
	c.forget()
	c.in.endReader(syscall.ECONNRESET, syscall.ECONNRESET)
	c.out.drop()
	c.out.endWriter(syscall.ECONNRESET, syscall.ECONNRESET)
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
	held     int // bytes sent and not read
	readEnd  end // applies to the reader after it has read all data
	writeEnd end
	readBy   time.Time
	writeBy  time.Time
}

// end is why a pipe has ended for its reader or its writer. The zero value means that
// it has not.
type end struct {
	err error
	at  time.Time // when the news arrives; zero: the pipe was ended at this side
}

// here reports whether the pipe was ended at this side, arrived whether at the other.
func (e end) here() bool    { return e.err != nil && e.at.IsZero() }
func (e end) arrived() bool { return e.err != nil && !time.Now().Before(e.at) }

// chunk is the data of one write.
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

// recheck wakes goroutines that wait for a change outside the pipe: a deadline, an
// arrival, or the end of a cut.
func (p *pipe) recheck() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wake()
}

// wakeAt calls recheck at t, unless t is past.
func (p *pipe) wakeAt(t time.Time) {
	if d := time.Until(t); d > 0 {
		time.AfterFunc(d, p.recheck)
	}
}

func (p *pipe) setDeadline(which *time.Time, t time.Time) {
	p.mu.Lock()
	*which = t
	p.mu.Unlock()
	p.recheck()
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
		case p.readEnd.here():
			return 0, p.readEnd.err
		case past(p.readBy):
			return 0, os.ErrDeadlineExceeded
		case p.net.cut(p.from.Addr(), p.to.Addr()): // no data arrives, and no end
		case len(p.sent) > 0 && !time.Now().Before(p.sent[0].arrive):
			n := copy(b, p.sent[0].data)
			p.held -= n
			if p.sent[0].data = p.sent[0].data[n:]; len(p.sent[0].data) == 0 {
				p.sent = slices.Delete(p.sent, 0, 1)
			}
			p.wake()
			return n, nil
		case len(p.sent) == 0 && p.readEnd.arrived():
			return 0, p.readEnd.err
		}
		p.change.Wait()
	}
}

func (p *pipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		switch {
		case p.writeEnd.here(), p.writeEnd.arrived() && !p.net.cut(p.to.Addr(), p.from.Addr()):
			return 0, p.writeEnd.err
		case past(p.writeBy):
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case p.held <= window:
			arrive := p.arrival()
			p.sent = append(p.sent, chunk{slices.Clone(b), arrive})
			p.held += len(b)
			p.wake()
			p.wakeAt(arrive)
			return len(b), nil
		}
		p.change.Wait()
	}
}

// arrival returns when data that is sent now arrives.
func (p *pipe) arrival() time.Time {
	p.net.mu.Lock()
	defer p.net.mu.Unlock()
	return time.Now().Add(p.net.delay)
}

// endReader ends the pipe at its reading side. The writer gets forWriter later.
func (p *pipe) endReader(err, forWriter error) { p.end(&p.readEnd, err, &p.writeEnd, forWriter) }

// endWriter ends the pipe at its writing side. The reader gets forReader later, after
// all data.
func (p *pipe) endWriter(err, forReader error) { p.end(&p.writeEnd, err, &p.readEnd, forReader) }

func (p *pipe) end(here *end, err error, there *end, news error) {
	arrive := p.arrival()
	p.mu.Lock()
	defer p.mu.Unlock()
	*here = end{err: err}
	if there.err == nil {
		*there = end{news, arrive}
	}
	p.wake()
	p.wakeAt(arrive)
}

// drop discards data that was sent and not read.
func (p *pipe) drop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent, p.held = nil, 0
}
