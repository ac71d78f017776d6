package wire

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// maxPacket is the largest packet that is read. memberlist's are smaller.
const maxPacket = 65536

// Gossip returns the transport for a [memberlist.Memberlist]. Its streams are
// under TLS; its packets are for memberlist to seal: give it [Port.Keyring],
// and let it verify both ways.
func (p *Port) Gossip() memberlist.NodeAwareTransport { return p.gossip }

// Keyring returns the keys for packets. It seals with the present secret's and
// opens those of previous ones.
func (p *Port) Keyring() *memberlist.Keyring { return p.keyring }

func keyring(secret Secret, previous []Secret) (*memberlist.Keyring, error) {
	primary, err := secret.gossipKey()
	if err != nil {
		return nil, err
	}
	keys := make([][]byte, len(previous))
	for i, s := range previous {
		if keys[i], err = s.gossipKey(); err != nil {
			return nil, err
		}
	}
	return memberlist.NewKeyring(keys, primary)
}

type gossipTransport struct {
	port    *Port
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	close   func()
}

func newGossipTransport(p *Port) *gossipTransport {
	t := &gossipTransport{port: p, packets: make(chan *memberlist.Packet, 256), streams: make(chan net.Conn), done: make(chan struct{})}
	t.close = sync.OnceFunc(func() { close(t.done); p.taken[Gossip].Close() })
	return t
}

// readPackets passes packets on until the socket is closed. What memberlist is
// too busy to take is lost, as packets may be.
func (t *gossipTransport) readPackets() {
	buf := make([]byte, maxPacket)
	for {
		n, from, err := t.port.packets.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n < 1 {
			continue
		}
		packet := &memberlist.Packet{Buf: append([]byte(nil), buf[:n]...), From: from, Timestamp: time.Now()}
		select {
		case t.packets <- packet:
		default:
		}
	}
}

func (t *gossipTransport) takeStreams() {
	for {
		c, err := t.port.taken[Gossip].Accept()
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
	_, err = t.port.packets.WriteTo(b, at)
	return time.Now(), err
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

// Shutdown implements [memberlist.Transport]. The socket closes with the port.
func (t *gossipTransport) Shutdown() error {
	t.close()
	return nil
}
