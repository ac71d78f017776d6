package wire

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// maxPacket is the size in bytes of the largest packet that is read. Packets of
// memberlist are smaller.
const maxPacket = 65536

// Overhead is the number of bytes that sealing adds to a packet.
const Overhead = 12 + 16 // nonce and tag

// Gossip returns the transport for a [memberlist.Memberlist]. It encrypts streams by
// TLS and packets by [seals], so memberlist needs no key of its own.
func (p *Port) Gossip() memberlist.NodeAwareTransport { return p.gossip }

// seals encrypts and authenticates packets, by the present secret, which comes
// first, and by previous ones. A packet is sent once for each secret, since the
// receiver may hold only one of them.
type seals []cipher.AEAD

func newSeals(secrets ...Secret) (seals, error) {
	all := make(seals, len(secrets))
	for i, s := range secrets {
		key, err := s.gossipKey()
		if err != nil {
			return nil, err
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, err
		}
		if all[i], err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// open returns the content of a packet that was sealed by one of the secrets. space
// must have the length of the packet. open decrypts into it, so that a forged packet
// allocates no memory.
func (all seals) open(space, packet []byte) ([]byte, bool) {
	for _, s := range all {
		if b, err := s.Open(space[:0], nil, packet, nil); err == nil {
			return bytes.Clone(b), true
		}
	}
	return nil, false
}

// gossipTransport is a [memberlist.NodeAwareTransport] over a port.
type gossipTransport struct {
	port    *Port
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	close   func()
}

func newGossipTransport(p *Port) *gossipTransport {
	t := &gossipTransport{port: p, packets: make(chan *memberlist.Packet, 256), streams: make(chan net.Conn), done: make(chan struct{})}
	t.close = sync.OnceFunc(func() { close(t.done); p.acceptor(Gossip).Close() })
	return t
}

// readPackets opens packets and passes them on until the socket is closed. It drops
// packets while memberlist is busy, as the network may.
func (t *gossipTransport) readPackets() {
	buf, space := make([]byte, maxPacket), make([]byte, maxPacket)
	for {
		n, from, err := t.port.packets.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue
		}
		b, ok := t.port.seals.open(space, buf[:n])
		if !ok || len(b) == 0 {
			continue
		}
		packet := &memberlist.Packet{Buf: b, From: from, Timestamp: time.Now()}
		select {
		case t.packets <- packet:
		default:
		}
	}
}

// takeStreams passes streams on until the transport is shut down.
func (t *gossipTransport) takeStreams() {
	for {
		c, err := t.port.acceptor(Gossip).Accept()
		if err != nil {
			return
		}
		select {
		case t.streams <- c:
		case <-t.done:
			c.Close()
			return
		}
	}
}

// FinalAdvertiseAddr implements [memberlist.Transport].
func (t *gossipTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	at, err := net.ResolveTCPAddr("tcp", t.port.addr)
	if err != nil {
		return nil, 0, fmt.Errorf("advertise %s: %w", t.port.addr, err)
	}
	return at.IP, at.Port, nil
}

func (t *gossipTransport) WriteTo(b []byte, to string) (time.Time, error) {
	at, err := net.ResolveUDPAddr("udp", to)
	if err != nil {
		return time.Time{}, err
	}
	for _, s := range t.port.seals {
		if _, err := t.port.packets.WriteTo(s.Seal(nil, nil, b, nil), at); err != nil {
			return time.Time{}, err
		}
	}
	return time.Now(), nil
}

func (t *gossipTransport) WriteToAddress(b []byte, to memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, to.Addr)
}

func (t *gossipTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }

func (t *gossipTransport) DialTimeout(to string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return t.port.Dial(ctx, Gossip, to)
}

func (t *gossipTransport) DialAddressTimeout(to memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return t.DialTimeout(to.Addr, timeout)
}

func (t *gossipTransport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown implements [memberlist.Transport]. The socket stays open until the port
// is closed.
func (t *gossipTransport) Shutdown() error {
	t.close()
	return nil
}
