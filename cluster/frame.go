package cluster

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The RPC between a member and the leader: frames of a length, a kind and a
// body, over a stream that is authenticated already. The accepting side speaks
// first: in a frame of its role it says whether it leads, or who does. One that
// does not know yet says that it waits, before. One that leads no more says the
// same again.

// maxFrame bounds a frame, in bytes, before anything is allocated for it.
const maxFrame = 1 << 20

// Kinds of frame: from the client …
const (
	frameOps    = 'o' // {seq, operation}…
	frameCancel = 'c' // seq
	framePing   = 'p'
	frameStatus = 's' // how far is your log?
	frameLeave  = 'l' // node id: take it out of the voters
)

// … and from the server.
const (
	frameRole    = 'R' // 1 if it leads, then the address of who does, if known
	frameWait    = 'W' // it does not lead, and says soon who does
	frameAnswers = 'A' // {seq, fate, answer}…
	framePong    = 'P'
	frameState   = 'S' // index of the last entry it has applied
	frameLeft    = 'L' // empty: done; or an error
)

// Fates of an operation, before its answer.
const (
	fateDecided   = iota // with nanoseconds waited, and a result
	fateNotLeader        // not proposed
	fateUnclear          // proposed, and maybe decided
)

// writeFrame writes one frame to w, which buffers.
func writeFrame(w *bufio.Writer, kind byte, body []byte) error {
	var head [5]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(body)+1))
	head[4] = kind
	if _, err := w.Write(head[:]); err != nil {
		return err
	}
	_, err := w.Write(body)
	return err
}

// readFrame reads one frame. The body is valid until the next call with buf.
func readFrame(r *bufio.Reader, buf *[]byte) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 1 || n > maxFrame {
		return 0, nil, fmt.Errorf("frame of %d bytes: want 1 to %d", n, maxFrame)
	}
	n--
	if cap(*buf) < int(n) {
		*buf = make([]byte, n)
	}
	body = (*buf)[:n]
	_, err = io.ReadFull(r, body)
	return head[4], body, err
}

// parseRole reads the body of a role frame: whether its sender leads, and if not,
// the address of who does; empty: it does not know.
func parseRole(b []byte) (leads bool, leader string, err error) {
	if len(b) == 0 {
		return false, "", errors.New("a role of no bytes")
	}
	return b[0] == 1, string(b[1:]), nil
}

// seq reads the sequence number at the front of b.
func seq(b []byte) (uint64, []byte, error) {
	n, size := binary.Uvarint(b)
	if size <= 0 {
		return 0, nil, fmt.Errorf("frame: no sequence number in %d bytes", len(b))
	}
	return n, b[size:], nil
}
