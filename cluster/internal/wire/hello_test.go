package wire

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// maxHello is the length in bytes of the longest hello.
const maxHello = len(magic) + 1 + maxID + 1 + maxID + 1 + maxAddr + 1 + maxID + 17 + 8

func FuzzHello(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(appendHello(nil, Hello{Node: "n"}))
	f.Add(appendHello(nil, Hello{Cluster: "c", Node: "n"}))
	f.Add(appendHello(nil, Hello{Cluster: strings.Repeat("c", maxID), Node: strings.Repeat("n", maxID)}))
	f.Add(append(appendHello(nil, Hello{Cluster: "c", Node: "n"}), "\x06go off and more"...))
	f.Add(appendHello(nil, Hello{Node: "n", Addr: "10.0.0.1:7946", Run: 7, Up: time.Minute, SteppedOut: true}))
	f.Add(appendHello(nil, Hello{Node: "n", Want: "other"}))
	f.Add([]byte(magic + "\xff"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		h, err := readHello(r)
		read := len(b) - r.Len()
		require.LessOrEqual(t, read, maxHello)
		again, slow := readHello(iotest.OneByteReader(bytes.NewReader(b)))
		require.Equal(t, h, again)
		if err != nil {
			require.EqualError(t, slow, err.Error())
		} else {
			require.NoError(t, slow)
			require.NotEmpty(t, h.Node)
			require.Equal(t, b[:read], appendHello(nil, h), "the encoding of a hello is unique")
		}

		reply := bytes.NewReader(b)
		peer, err := greet(dialogue{reply, io.Discard}, "10.0.0.1:7946", Hello{Node: "n"})
		require.LessOrEqual(t, len(b)-reply.Len(), maxHello+1+maxReason)
		var refused *RefusedError
		if err == nil {
			require.Equal(t, h, peer)
		} else if errors.As(err, &refused) {
			require.NotEmpty(t, refused.Reason)
		}
	})
}

// dialogue is a stream with a fixed input.
type dialogue struct {
	io.Reader
	io.Writer
}

func TestHelloRoundTrip(t *testing.T) {
	for _, h := range []Hello{
		{Node: "n"},
		{Cluster: "c", Node: "n"},
		{Cluster: strings.Repeat("c", 64), Node: strings.Repeat("n", 64)},
		{Cluster: "\x00\xff", Node: "a\nb"},
		{Node: "n", Addr: "10.0.0.1:7946", Run: 1<<64 - 1, Up: 1<<63 - 1, SteppedOut: true},
		{Node: "n", Addr: strings.Repeat("a", 96), Run: 1, Up: 1},
		{Node: "n", Want: strings.Repeat("w", 64)},
		{Cluster: "c", Node: "n", Age: 1<<63 - 1},
	} {
		b := appendHello(nil, h)
		got, err := readHello(bytes.NewReader(append(b, "what follows"...)))
		assert.NoError(t, err)
		assert.Equal(t, h, got)
	}
}

func TestErrorOfABadHelloNamesWhatWasExpected(t *testing.T) {
	long := strings.Repeat("x", 65)
	for _, tt := range []struct {
		name, hello string
		want        []string
	}{
		{"nothing", "", []string{`want "choked\x00\x01"`, "EOF"}},
		{"half of the magic", magic[:4], []string{`want "choked\x00\x01"`, "unexpected EOF"}},
		{"another protocol", "GET / HTTP/1.1\r\n", []string{`"GET / HT"`, `want "choked\x00\x01"`}},
		{"another version", "choked\x00\x02\x01c\x01n", []string{`"choked\x00\x02"`, `want "choked\x00\x01"`}},
		{"only the magic", magic, []string{"want the length of the cluster id", "EOF"}},
		{"a length that is too much", magic + "\x41" + long + "\x01n", []string{"cluster id of 65 bytes: want 0 to 64"}},
		{"the greatest length", magic + "\xff", []string{"cluster id of 255 bytes: want 0 to 64"}},
		{"a cluster cut off", magic + "\x02c", []string{"want a cluster id of 2 bytes", "unexpected EOF"}},
		{"no node", magic + "\x01c", []string{"want the length of the node id", "EOF"}},
		{"a node without a name", magic + "\x01c\x00", []string{"node id of 0 bytes: want 1 to 64"}},
		{"a node that is too long", magic + "\x01c\x41" + long, []string{"node id of 65 bytes: want 1 to 64"}},
		{"a node cut off", magic + "\x01c\x40n", []string{"want a node id of 64 bytes", "unexpected EOF"}},
		{"no address", magic + "\x01c\x01n", []string{"want the length of the address", "EOF"}},
		{"an address that is too long", magic + "\x01c\x01n\x61" + long, []string{"address of 97 bytes: want 0 to 96"}},
		{"no wanted id", magic + "\x01c\x01n\x00", []string{"want the length of the wanted id", "EOF"}},
		{"a wanted id that is too long", magic + "\x01c\x01n\x00\x41" + long, []string{"wanted id of 65 bytes: want 0 to 64"}},
		{"no process", magic + "\x01c\x01n\x00\x00", []string{"want a process of 17 bytes", "EOF"}},
		{"a process cut off", magic + "\x01c\x01n\x00\x00" + long[:16], []string{"want a process of 17 bytes", "unexpected EOF"}},
		{"a time below zero", magic + "\x01c\x01n\x00\x00" + strings.Repeat("\xff", 16) + "\x00", []string{"less than 2^63 ns"}},
		{"no age", magic + "\x01c\x01n\x00\x00" + strings.Repeat("\x00", 17), []string{"want an age of 8 bytes", "EOF"}},
		{"an age below zero", magic + "\x01c\x01n\x00\x00" + strings.Repeat("\x00", 17) + strings.Repeat("\xff", 8), []string{"less than 2^63 ns"}},
		{"neither in nor out", magic + "\x01c\x01n\x00\x00" + strings.Repeat("\x00", 16) + "\x02", []string{"0 or 1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := readHello(strings.NewReader(tt.hello))
			require.Error(t, err)
			for _, want := range append(tt.want, "hello: ") {
				assert.ErrorContains(t, err, want)
			}
			assert.Less(t, len(err.Error()), 200)

			_, fromDialler := receive(dialogue{strings.NewReader(tt.hello), io.Discard}, nil, nil)
			assert.Equal(t, err, fromDialler, "admit is not called")
			_, fromAccepter := greet(dialogue{strings.NewReader(tt.hello), io.Discard}, "", Hello{Node: "n"})
			assert.Equal(t, err, fromAccepter)
		})
	}
}

// readHello reads no more than the longest hello from a peer that sends without end.
func TestHelloIsNotReadBeyondItsEnd(t *testing.T) {
	for _, filling := range []string{"\x00", "\x40", "\xff"} {
		var read bytes.Buffer
		endless := io.MultiReader(strings.NewReader(magic), strings.NewReader(strings.Repeat(filling, 1<<20)))
		readHello(io.TeeReader(endless, &read)) //nolint:errcheck // some are hellos, some are not
		assert.LessOrEqual(t, read.Len(), maxHello)
	}
}

func TestBadReplyIsAnError(t *testing.T) {
	hello := string(appendHello(nil, Hello{Cluster: "c", Node: "n"}))
	for reply, want := range map[string]string{
		hello:             "want the length of the reason: EOF",
		hello + "\x05no":  "want a reason of 5 bytes: unexpected EOF",
		hello + "\xffno":  "want a reason of 255 bytes: unexpected EOF",
		hello + "\x02no":  "10.0.0.1:7946 refuses: no",
		hello + "\x02no!": "10.0.0.1:7946 refuses: no",
	} {
		peer, err := greet(dialogue{strings.NewReader(reply), io.Discard}, "10.0.0.1:7946", Hello{Node: "n"})
		assert.ErrorContains(t, err, want)
		assert.Zero(t, peer)
	}
	peer, err := greet(dialogue{strings.NewReader(hello + "\x00"), io.Discard}, "", Hello{Node: "n"})
	assert.NoError(t, err)
	assert.Equal(t, Hello{Cluster: "c", Node: "n"}, peer)
}

// The dialling side receives the reason for which the accepting side refuses it.
func TestRefusalReachesThePeer(t *testing.T) {
	for _, tt := range []struct {
		name  string
		admit error
		want  string // empty: accepted
	}{
		{"accepted", nil, ""},
		{"refused", errors.New("go off"), "go off"},
		{"for no reason", errors.New(""), "no reason given"},
		{"at length", errors.New(strings.Repeat("x", 300)), strings.Repeat("x", 255)},
		{"with control characters", errors.New("go\n\x1b[2J\x00off <b>"), "go\ufffd\ufffd[2J\ufffdoff <b>"},
		{"not cut within a character", errors.New(strings.Repeat("é", 300)), strings.Repeat("é", 127)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dialler, accepter := Hello{Cluster: "c", Node: "dialler"}, Hello{Node: "accepter"}
			var reply bytes.Buffer
			peer, err := receive(dialogue{bytes.NewReader(appendHello(nil, dialler)), &reply},
				func() Hello { return accepter },
				func(self, peer Hello) error {
					assert.Equal(t, accepter, self)
					assert.Equal(t, dialler, peer)
					return tt.admit
				})
			assert.ErrorIs(t, err, tt.admit)
			assert.Equal(t, dialler, peer)

			peer, err = greet(dialogue{&reply, io.Discard}, "10.0.0.1:7946", dialler)
			assert.Zero(t, reply.Len(), "all of the reply is read")
			if tt.want == "" {
				assert.NoError(t, err)
				assert.Equal(t, accepter, peer)
				return
			}
			var refused *RefusedError
			require.ErrorAs(t, err, &refused)
			assert.Equal(t, RefusedError{Addr: "10.0.0.1:7946", Reason: tt.want, Peer: accepter}, *refused)
			assert.EqualError(t, err, "10.0.0.1:7946 refuses: "+tt.want)
		})
	}
}

func TestFailedWriteIsAnError(t *testing.T) {
	dead := dialogue{bytes.NewReader(appendHello(nil, Hello{Node: "n"})), failing{}}
	_, err := greet(dead, "", Hello{Node: "n"})
	assert.ErrorIs(t, err, io.ErrClosedPipe)
	_, err = receive(dead, func() Hello { return Hello{Node: "n"} }, func(_, _ Hello) error { return nil })
	assert.ErrorIs(t, err, io.ErrClosedPipe)
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }
