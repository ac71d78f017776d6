package cluster

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/choked/choked/cluster/internal/wire"
)

// dialWithin is how long a member may take to accept a stream and to say who
// leads, or that it is waiting for a leader: three round trips. In the second case
// it may take heldFor longer.
const dialWithin = time.Second

// dialer opens RPC streams to members.
type dialer struct{ port *wire.Port }

// peer is an RPC stream to a member, after the member has said who leads.
type peer struct {
	addr   string // of the member
	conn   net.Conn
	r      *bufio.Reader
	leads  bool   // the member leads
	leader string // else the address of the leader; empty: unknown
}

// dial opens a stream to the member at addr and reads its role. It calls onWait if
// the member says that it is waiting for a leader itself.
func (d dialer) dial(ctx context.Context, addr string, onWait func()) (*peer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	deadline := time.AfterFunc(dialWithin, func() { cancel(context.DeadlineExceeded) })
	defer deadline.Stop()
	conn, err := d.port.Dial(ctx, wire.RPC, addr)
	if err != nil {
		return nil, err
	}
	interrupt := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	p := &peer{addr: addr, conn: conn, r: bufio.NewReaderSize(conn, 32<<10)}
	err = p.readRole(func() {
		onWait()
		deadline.Reset(heldFor + dialWithin)
	})
	if !interrupt() {
		err = context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("ask %s: %w", addr, err)
	}
	return p, nil
}

// readRole reads the first frames of a stream: possibly frameWait, for which it calls
// onWait, then the role of the member.
func (p *peer) readRole(onWait func()) error {
	var buf []byte
	kind, body, err := readFrame(p.r, &buf)
	if err == nil && kind == frameWait {
		onWait()
		kind, body, err = readFrame(p.r, &buf)
	}
	if err == nil && kind != frameRole {
		err = fmt.Errorf("frame of kind %q: want a role", kind)
	}
	if err == nil {
		p.leads, p.leader, err = parseRole(body)
	}
	return err
}

// call sends one frame to the member at addr and returns the body of its answer,
// which must be a frame of kind answer.
func (d dialer) call(ctx context.Context, addr string, kind byte, body []byte, answer byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, changeWithin)
	defer cancel()
	p, err := d.dial(ctx, addr, func() {})
	if err != nil {
		return nil, err
	}
	defer p.conn.Close()
	defer context.AfterFunc(ctx, func() { p.conn.SetDeadline(time.Unix(1, 0)) })()
	w := bufio.NewWriter(p.conn)
	if err := errors.Join(writeFrame(w, kind, body), w.Flush()); err != nil {
		return nil, fmt.Errorf("ask %s: %w", addr, err)
	}
	var buf []byte
	got, body, err := readFrame(p.r, &buf)
	if err == nil && got != answer {
		err = fmt.Errorf("frame of kind %q: want %q", got, answer)
	}
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", addr, err)
	}
	return body, nil
}

// appliedIndex returns the index of the last log entry that the member at addr has
// applied.
func (d dialer) appliedIndex(ctx context.Context, addr string) (uint64, error) {
	body, err := d.call(ctx, addr, frameStatus, nil, frameState)
	if err != nil {
		return 0, err
	}
	index, size := binary.Uvarint(body)
	if size <= 0 {
		return 0, fmt.Errorf("ask %s: answer of %d bytes has no index", addr, len(body))
	}
	return index, nil
}
