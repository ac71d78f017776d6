package wire

import (
	"errors"
	"fmt"
	"io"
)

// Hello is what both sides of a stream say first.
type Hello struct {
	Cluster string // id of the cluster, up to 64 bytes; empty: of none yet
	Node    string // id of the node, 1 to 64 bytes
}

// RefusedError is the reason that a peer gave for not talking to this node.
type RefusedError struct {
	Addr   string
	Reason string
}

func (e *RefusedError) Error() string { return fmt.Sprintf("%s refuses: %s", e.Addr, e.Reason) }

// The preamble of a stream, both ways: the magic, a length and the cluster id,
// a length and the node id. The accepting side ends its own with a length and
// the reason of its refusal, empty to accept.
const (
	magic     = "choked\x00\x01" // the last byte is the version
	maxID     = 64
	maxReason = 255
)

func (h Hello) check() error {
	if len(h.Cluster) > maxID || len(h.Node) > maxID || h.Node == "" {
		return fmt.Errorf("hello from node %.80q of cluster %.80q: want ids of up to %d bytes", h.Node, h.Cluster, maxID)
	}
	return nil
}

func appendHello(b []byte, h Hello) []byte {
	b = append(b, magic...)
	b = append(append(b, byte(len(h.Cluster))), h.Cluster...)
	return append(append(b, byte(len(h.Node))), h.Node...)
}

func readHello(r io.Reader) (Hello, error) {
	var head [len(magic)]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	if string(head[:]) != magic {
		return Hello{}, fmt.Errorf("hello begins with %q: want %q", head[:], magic)
	}
	var h Hello
	var err error
	if h.Cluster, err = readShort(r, maxID); err == nil {
		h.Node, err = readShort(r, maxID)
	}
	if err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	return h, h.check()
}

// readShort reads a length of one byte, at most most, and that many bytes.
func readShort(r io.Reader, most int) (string, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", err
	}
	if int(n[0]) > most {
		return "", fmt.Errorf("%d bytes: want at most %d", n[0], most)
	}
	b := make([]byte, n[0])
	_, err := io.ReadFull(r, b)
	return string(b), err
}

// greet is the dialing side's part: it says self and returns what the other
// side says.
func greet(rw io.ReadWriter, addr string, self Hello) (Hello, error) {
	if _, err := rw.Write(appendHello(nil, self)); err != nil {
		return Hello{}, err
	}
	peer, err := readHello(rw)
	if err != nil {
		return Hello{}, err
	}
	reason, err := readShort(rw, maxReason)
	if err != nil {
		return Hello{}, err
	}
	if reason != "" {
		return Hello{}, &RefusedError{Addr: addr, Reason: reason}
	}
	return peer, nil
}

// receive is the accepting side's part. A peer that admit does not admit is
// told why.
func receive(rw io.ReadWriter, self func() Hello, admit func(Hello) error) (Hello, error) {
	peer, err := readHello(rw)
	if err != nil {
		return Hello{}, err
	}
	refusal := admit(peer)
	reason := ""
	if refusal != nil {
		reason = refusal.Error()
		reason = reason[:min(len(reason), maxReason)]
	}
	b := appendHello(nil, self())
	b = append(append(b, byte(len(reason))), reason...)
	_, err = rw.Write(b)
	return peer, errors.Join(refusal, err)
}
