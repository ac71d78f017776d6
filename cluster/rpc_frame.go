package cluster

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The RPC between a member and the leader: frames of a length, a kind and a body,
// over a stream that is authenticated already. The server sends the first frame,
// which says whether it leads, or which member does. If it does not know yet, it
// sends a wait frame before. A server that stops leading sends both frames again.

// maxFrame bounds the length of a frame in bytes. It is checked before anything is
// allocated.
const maxFrame = 1 << 20

// Kinds of frames that the client sends.
const (
	frameOps    = 'o' // {sequence number, operation}…
	frameCancel = 'c' // sequence number
	framePing   = 'p'
	frameStatus = 's' // empty: asks for the index of the last applied entry
	frameLeave  = 'l' // node id: asks to remove its vote
)

// Kinds of frames that the server sends.
const (
	frameRole    = 'R' // 1 if it leads, else 0; then the address of the leader, if it knows another
	frameWait    = 'W' // it does not lead; a role frame follows soon
	frameAnswers = 'A' // {sequence number, fate, answer}…
	framePong    = 'P'
	frameState   = 'S' // index of the last applied entry
	frameLeft    = 'L' // empty if the vote is removed, else an error
)

// Fates of an operation, in front of its answer.
const (
	fateDecided   = iota // the nanoseconds it waited and its result follow
	fateNotLeader        // it was not proposed
	fateUnclear          // it was proposed, and may have been decided
)

// writeFrame writes one frame to w, which buffers it.
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

// appendFrame appends one frame to b.
func appendFrame(b []byte, kind byte, body []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(body)+1))
	return append(append(b, kind), body...)
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

// parseRole reads the body of a role frame: whether the sender leads, and if not,
// the address of the leader, which is empty if the sender does not know it.
func parseRole(b []byte) (leads bool, leader string, err error) {
	if len(b) == 0 {
		return false, "", errors.New("role frame without a body")
	}
	return b[0] == 1, string(b[1:]), nil
}

// parseSeq reads the sequence number at the front of b.
func parseSeq(b []byte) (uint64, []byte, error) {
	n, size := binary.Uvarint(b)
	if size <= 0 {
		return 0, nil, fmt.Errorf("frame without a sequence number: %d bytes left", len(b))
	}
	return n, b[size:], nil
}
