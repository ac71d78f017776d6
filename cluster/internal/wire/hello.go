package wire

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

// Hello is how both sides of a stream introduce themselves.
type Hello struct {
	Cluster    string        // id of the cluster, up to 64 bytes; empty: the node has joined none yet
	Node       string        // id of the node, 1 to 64 bytes
	Addr       string        // host:port that the node advertises, up to 96 bytes; the port fills it in
	Want       string        // id of the node that is dialled, up to 64 bytes; empty: whichever answers
	Run        uint64        // random number of the process: a copied Dir copies the node id, but not this
	Up         time.Duration // since the process started, by a clock that never steps
	SteppedOut bool          // the node takes no part in its cluster any more
	Age        time.Duration // of the cluster, by the time in its log; 0: the node does not know it
}

// IsProcess reports whether both hellos come from the same process.
func (h Hello) IsProcess(other Hello) bool { return h.Node == other.Node && h.Run == other.Run }

// IsCopy reports whether the hellos come from two processes with one node id, as
// when a directory was copied.
func (h Hello) IsCopy(other Hello) bool { return h.Node == other.Node && h.Run != other.Run }

// RefusedError is the reason that a peer gave for refusing a stream.
type RefusedError struct {
	Addr   string
	Reason string
	Peer   Hello // of the peer
}

func (e *RefusedError) Error() string { return fmt.Sprintf("%s refuses: %s", e.Addr, e.Reason) }

// The preamble of a stream, in both directions: the magic, a length and the cluster
// id, a length and the node id, a length and the address, a length and the id of the node
// that is dialled, the number of the process, its time since the start in nanoseconds, 1
// if the node has stepped out, else 0, and the age of the cluster in nanoseconds.
// Numbers have 8 bytes, the most significant one first. The accepting side appends a
// length and the reason of its refusal, which is empty if it accepts.
const (
	magic     = "choked\x00\x01" // the last byte is the version
	maxID     = 64
	maxAddr   = 96
	maxReason = 255
)

func appendHello(b []byte, h Hello) []byte {
	b = append(b, magic...)
	b = append(append(b, byte(len(h.Cluster))), h.Cluster...)
	b = append(append(b, byte(len(h.Node))), h.Node...)
	b = append(append(b, byte(len(h.Addr))), h.Addr...)
	b = append(append(b, byte(len(h.Want))), h.Want...)
	b = binary.BigEndian.AppendUint64(b, h.Run)
	b = binary.BigEndian.AppendUint64(b, uint64(max(h.Up, 0)))
	steppedOut := byte(0)
	if h.SteppedOut {
		steppedOut = 1
	}
	return binary.BigEndian.AppendUint64(append(b, steppedOut), uint64(max(h.Age, 0)))
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
	if err == nil {
		h.Addr, err = readShort(r, "address", 0, maxAddr)
	}
	if err == nil {
		h.Want, err = readShort(r, "wanted id", 0, maxID)
	}
	if err == nil {
		err = h.readProcess(r)
	}
	if err == nil {
		err = h.readAge(r)
	}
	if err != nil {
		return Hello{}, fmt.Errorf("read hello: %w", err)
	}
	return h, nil
}

// readProcess reads the fields of fixed size.
func (h *Hello) readProcess(r io.Reader) error {
	var b [17]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("want a process of %d bytes: %w", len(b), err)
	}
	h.Run, h.Up, h.SteppedOut = binary.BigEndian.Uint64(b[:]), time.Duration(binary.BigEndian.Uint64(b[8:])), b[16] == 1
	if h.Up < 0 || b[16] > 1 {
		return fmt.Errorf("process %x: want a time of less than 2^63 ns, then 0 or 1", b)
	}
	return nil
}

// readAge reads the age of the cluster.
func (h *Hello) readAge(r io.Reader) error {
	var b [8]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("want an age of %d bytes: %w", len(b), err)
	}
	if h.Age = time.Duration(binary.BigEndian.Uint64(b[:])); h.Age < 0 {
		return fmt.Errorf("age %x: want less than 2^63 ns", b)
	}
	return nil
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

// receive is the accepting side of the preamble. It sends the error of admit, which
// gets the hellos of this node and of the peer, as the reason of the refusal.
func receive(rw io.ReadWriter, hello func() Hello, admit func(self, peer Hello) error) (Hello, error) {
	peer, err := readHello(rw)
	if err != nil {
		return Hello{}, err
	}
	self := hello()
	refusal := admit(self, peer)
	reason := ""
	if refusal != nil {
		reason = refusal.Error()
		reason = strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
		reason = cmp.Or(reason, "no reason given") // an empty one would accept
	}
	b := appendHello(nil, self)
	b = append(append(b, byte(len(reason))), reason...)
	_, err = rw.Write(b)
	return peer, errors.Join(refusal, err)
}
