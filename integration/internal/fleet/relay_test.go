//go:build linux

package fleet

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestRelayDelaysStreamsAndPackets(t *testing.T) {
	const delay = 20 * time.Millisecond
	end, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer end.Close()
	socket, err := net.ListenPacket("udp", end.Addr().String())
	require.NoError(t, err)
	defer socket.Close()
	r, err := NewRelay("127.0.0.1:0", end.Addr().String(), delay)
	require.NoError(t, err)
	began := time.Now()
	late := func(what string) {
		t.Helper()
		assert.GreaterOrEqual(t, time.Since(began), delay, what)
	}

	near, err := net.Dial("tcp", r.streams.Addr().String())
	require.NoError(t, err)
	defer near.Close()
	far, err := end.Accept()
	require.NoError(t, err)
	defer far.Close()
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		began = time.Now()
		b := make([]byte, 10)
		for _, part := range []string{"one ", "after ", "the other"} {
			_, err := io.WriteString(way[0], part)
			require.NoError(t, err)
			n, err := io.ReadFull(way[1], b[:len(part)])
			require.NoError(t, err)
			assert.Equal(t, part, string(b[:n]))
			late(part)
		}
	}

	began = time.Now()
	packet, err := net.Dial("udp", r.packets.LocalAddr().String())
	require.NoError(t, err)
	defer packet.Close()
	_, err = io.WriteString(packet, "packet")
	require.NoError(t, err)
	b := make([]byte, 10)
	n, _, err := socket.ReadFrom(b)
	require.NoError(t, err)
	assert.Equal(t, "packet", string(b[:n]))
	late("packet")

	require.NoError(t, r.Close())
	_, err = near.Read(b)
	assert.Error(t, err, "Close closes the connections")
}
