package memnet

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// packets opens a socket on each of the hosts a and b.
func packets(t *testing.T, n *Net) (here, there net.PacketConn) {
	t.Helper()
	for ip, s := range map[string]*net.PacketConn{a: &here, b: &there} {
		var err error
		*s, err = n.Host(ip).ListenPacket(ip + ":7946")
		require.NoError(t, err)
		t.Cleanup(func() { (*s).Close() })
	}
	return here, there
}

func send(t *testing.T, from, to net.PacketConn, s string) {
	t.Helper()
	n, err := from.WriteTo([]byte(s), to.LocalAddr())
	require.NoError(t, err)
	require.Equal(t, len(s), n)
}

// arrived returns the packets that a socket has received, without waiting.
func arrived(t *testing.T, s net.PacketConn) (all []string) {
	t.Helper()
	for len(s.(*socket).packets) > 0 {
		b := make([]byte, 2000)
		n, _, err := s.ReadFrom(b)
		require.NoError(t, err)
		all = append(all, string(b[:n]))
	}
	return all
}

func TestPacketArrivesWhole(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := packets(t, n)
		b := []byte("hello")
		_, err := here.WriteTo(b, there.LocalAddr())
		require.NoError(t, err)
		clear(b) // the sender may reuse its buffer
		send(t, here, there, "")
		send(t, here, there, "the rest that does not fit is lost")
		buf := make([]byte, 9)
		for _, want := range []string{"hello", "", "the rest "} {
			n, from, err := there.ReadFrom(buf)
			assert.NoError(t, err)
			assert.Equal(t, want, string(buf[:n]))
			assert.Equal(t, here.LocalAddr(), from)
			assert.Equal(t, "udp", from.Network())
		}
		assert.Empty(t, arrived(t, there))
		assert.Empty(t, arrived(t, here))
		mapped := &net.UDPAddr{IP: net.ParseIP("10.0.0.2").To16(), Port: 7946}
		_, err = here.WriteTo([]byte("by the longer form of its address"), mapped)
		require.NoError(t, err)
		assert.Len(t, arrived(t, there), 1)
	})
}

// A sender gets no error for a packet that is lost.
func TestPacketWithoutAReceiverIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := packets(t, n)
		there.Close()
		send(t, here, there, "x")
		_, err := here.WriteTo([]byte("x"), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(c+":7946")))
		assert.NoError(t, err)
		n.Faults(time.Second, 0, 0)
		send(t, here, there, "arrives at the socket that is open by then")
		again, err := n.Host(b).ListenPacket(b + ":7946")
		require.NoError(t, err)
		assert.Empty(t, arrived(t, again))
		time.Sleep(time.Second)
		synctest.Wait()
		assert.Len(t, arrived(t, again), 1)
		_, err = here.WriteTo(nil, tcpName("workers.internal:7946"))
		assert.Error(t, err, "WriteTo resolves no names")
	})
}

type tcpName string

func (tcpName) Network() string  { return "udp" }
func (n tcpName) String() string { return string(n) }

// A reader that is too slow loses the later packets.
func TestPacketsBeyondTheQueueAreLost(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := packets(t, n)
		for i := range 300 {
			send(t, here, there, fmt.Sprint(i))
		}
		got := arrived(t, there)
		assert.Len(t, got, 256)
		assert.Equal(t, "0", got[0])
		assert.Equal(t, "255", got[255])
		send(t, here, there, "room again")
		assert.Len(t, arrived(t, there), 1)
	})
}

func TestPacketsAreDelayed(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := packets(t, n)
		n.Faults(50*time.Millisecond, 0, 0)
		send(t, here, there, "slow")
		n.Faults(20*time.Millisecond, 0, 0)
		send(t, here, there, "overtakes")
		began := time.Now()
		for _, tt := range []struct {
			want string
			at   time.Duration
		}{{"overtakes", 20 * time.Millisecond}, {"slow", 50 * time.Millisecond}} {
			b := make([]byte, 99)
			n, _, err := there.ReadFrom(b)
			assert.NoError(t, err)
			assert.Equal(t, tt.want, string(b[:n]))
			assert.Equal(t, tt.at, time.Since(began))
		}
	})
}

// The configured shares of packets are lost and duplicated. The seed determines which.
func TestPacketsAreLostAndDuplicated(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *Net) {
		run := func(seed uint64, loss, dup float64) (counts []int) {
			n := New(seed)
			here, there := packets(t, n)
			n.Faults(0, loss, dup)
			for range 2_000 {
				send(t, here, there, "x")
				counts = append(counts, len(arrived(t, there)))
			}
			return counts
		}
		share := func(counts []int, copies int) float64 {
			hits := 0
			for _, n := range counts {
				if n == copies {
					hits++
				}
			}
			return float64(hits) / float64(len(counts))
		}
		for _, tt := range []struct{ loss, dup float64 }{{0, 0}, {1, 0}, {0, 1}, {0.1, 0}, {0, 0.1}, {0.2, 0.3}} {
			got := run(1, tt.loss, tt.dup)
			assert.InDelta(t, tt.loss, share(got, 0), 0.03)
			assert.InDelta(t, tt.dup, share(got, 2), 0.03)
			assert.InDelta(t, 1-tt.loss-tt.dup, share(got, 1), 0.03)
		}
		assert.Equal(t, run(1, 0.2, 0.3), run(1, 0.2, 0.3))
		assert.False(t, slices.Equal(run(1, 0.2, 0.3), run(2, 0.2, 0.3)))
	})
}

func TestCutLosesPacketsOneWay(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := packets(t, n)
		n.Faults(0, 0, 1)
		n.Cut(a, b)
		send(t, here, there, "lost")
		send(t, there, here, "arrives")
		assert.Empty(t, arrived(t, there))
		assert.Equal(t, []string{"arrives", "arrives"}, arrived(t, here))
		n.Heal(a, b)
		assert.Empty(t, arrived(t, there), "packets are not kept")
		send(t, here, there, "x")
		assert.Len(t, arrived(t, there), 2)
	})
}

func TestClosingASocket(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, there := packets(t, n)
		read := make(chan error)
		for range 2 {
			go func() { _, _, err := there.ReadFrom(make([]byte, 1)); read <- err }()
		}
		synctest.Wait()
		assert.NoError(t, there.Close())
		assert.ErrorIs(t, <-read, net.ErrClosed)
		assert.ErrorIs(t, <-read, net.ErrClosed)
		assert.NoError(t, there.Close())
		_, err := there.WriteTo([]byte("x"), here.LocalAddr())
		assert.ErrorIs(t, err, net.ErrClosed)

		again, err := n.Host(b).ListenPacket(":0")
		require.NoError(t, err)
		for range 100 {
			send(t, again, here, "not read")
		}
		here.Close()
		for range 100 {
			_, _, err = here.ReadFrom(make([]byte, 1))
			assert.ErrorIs(t, err, net.ErrClosed)
		}
	})
}

func TestSocketHasNoDeadlines(t *testing.T) {
	inBubble(t, func(t *testing.T, n *Net) {
		here, _ := packets(t, n)
		assert.ErrorIs(t, here.SetDeadline(time.Now()), os.ErrNoDeadline)
		assert.ErrorIs(t, here.SetReadDeadline(time.Now()), os.ErrNoDeadline)
		assert.ErrorIs(t, here.SetWriteDeadline(time.Now()), os.ErrNoDeadline)
	})
}
