package wire

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Hello is how both sides of a stream introduce themselves.
type Hello struct {
	Cluster string // id of the cluster, up to 64 bytes; empty: the node has joined none yet
	Node    string // id of the node, 1 to 64 bytes
}

// RefusedError is the reason that a peer gave for refusing a stream.
type RefusedError struct {
	Addr   string
	Reason string
	Peer   Hello // of the peer
}

func (e *RefusedError) Error() string { return fmt.Sprintf("%s refuses: %s", e.Addr, e.Reason) }

// The preamble of a stream, in both directions: the magic, a length and the cluster
// id, a length and the node id. The accepting side appends a length and the reason
// of its refusal, which is empty if it accepts.
const (
	magic     = "choked\x00\x01" // the last byte is the version
	maxID     = 64
	maxReason = 255
)

func appendHello(b []byte, h Hello) []byte {
	b = append(b, magic...)
	b = append(append(b, byte(len(h.Cluster))), h.Cluster...)
	return append(append(b, byte(len(h.Node))), h.Node...)
}

func readHello(r io.Reader) (h Hello, err error) {
	var head [len(magic)]byte
	if _, err = io.ReadFull(r, head[:]); err != nil {
		return Hello{}, fmt.Errorf("read hello: want %q first: %w", magic, err)
	}
	if string(head[:]) != magic {
		return Hello{}, fmt.Errorf("read hello: begins with %q: want %q", head[:], magic)
	}
	if h.Cluster, err = readShort(r, "cluster id", 0, maxID); err == nil {
		h.Node, err = readShort(r, "node id", 1, maxID)
	}
	if err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	return h, nil
}

// readShort reads a string after its length, which is one byte with a value from
// least to most. Errors call the string by name.
func readShort(r io.Reader, name string, least, most int) (string, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return "", fmt.Errorf("want the length of the %s: %w", name, err)
	}
	if int(n[0]) < least || int(n[0]) > most {
		return "", fmt.Errorf("%s of %d bytes: want %d to %d", name, n[0], least, most)
	}
	b := make([]byte, n[0])
	if _, err := io.ReadFull(r, b); err != nil {
		return "", fmt.Errorf("want a %s of %d bytes: %w", name, n[0], err)
	}
	return string(b), nil
}

// greet is the dialing side of the preamble: it sends self and returns the peer's
// hello.
func greet(rw io.ReadWriter, addr string, self Hello) (Hello, error) {
	if _, err := rw.Write(appendHello(nil, self)); err != nil {
		return Hello{}, err
	}
	peer, err := readHello(rw)
	if err != nil {
		return Hello{}, err
	}
	reason, err := readShort(rw, "reason", 0, maxReason)
	if err != nil {
		return Hello{}, err
	}
	if reason != "" {
		return Hello{}, &RefusedError{Addr: addr, Reason: printable(reason), Peer: peer}
	}
	return peer, nil
}

// printable returns s with a replacement character for each rune that could do harm
// on a terminal or in a log.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return unicode.ReplacementChar
	}, s)
}

// receive is the accepting side of the preamble. It sends the error of admit to the
// peer as the reason of the refusal.
func receive(rw io.ReadWriter, self func() Hello, admit func(Hello) error) (Hello, error) {
	peer, err := readHello(rw)
	if err != nil {
		return Hello{}, err
	}
	refusal := admit(peer)
	reason := ""
	if refusal != nil {
		reason = refusal.Error()
		reason = strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
		reason = cmp.Or(reason, "no reason given") // an empty one would accept
	}
	b := appendHello(nil, self())
	b = append(append(b, byte(len(reason))), reason...)
	_, err = rw.Write(b)
	return peer, errors.Join(refusal, err)
}
