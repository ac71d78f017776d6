package wire

import (
	"bytes"
	"compress/lzw"
	"encoding/binary"
	"net"
	"runtime"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/cluster/internal/memnet"
)

// A packet opens only with the secret that sealed it, and only if it is complete and
// unchanged.
func TestSealedPacketOpensOnlyWithItsSecret(t *testing.T) {
	for _, tt := range []struct {
		from, to []Secret
		opens    bool
	}{
		{[]Secret{"a"}, []Secret{"a"}, true},
		{[]Secret{"a"}, []Secret{"b", "a"}, true},
		{[]Secret{"a"}, []Secret{"b"}, false},
		{[]Secret{""}, []Secret{"a"}, false},
	} {
		from, err := newSeals(tt.from...)
		require.NoError(t, err)
		to, err := newSeals(tt.to...)
		require.NoError(t, err)
		packet := from[0].Seal(nil, nil, []byte("gossip"), nil)
		assert.Len(t, packet, len("gossip")+Overhead)
		assert.NotContains(t, string(packet), "gossip")
		b, ok := to.open(make([]byte, 100), packet)
		assert.Equal(t, tt.opens, ok)
		if ok {
			assert.Equal(t, "gossip", string(b))
		}
		for i := range packet {
			packet[i] ^= 1
			_, ok := to.open(make([]byte, 100), packet)
			assert.False(t, ok, "byte %d was changed", i)
			_, ok = to.open(make([]byte, 100), packet[:i])
			assert.False(t, ok, "cut off at %d", i)
			packet[i] ^= 1
		}
	}
}

// During a change of secrets a packet reaches holders of either: it is sent once for
// each secret. A holder of both may receive it twice, as packets may be duplicated.
func TestPacketsReachHoldersOfEitherSecret(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		cfg := at(1).config("b")
		cfg.Previous = []Secret{"a"}
		both := open(t, cfg)
		for i, secret := range []Secret{"a", "b"} {
			p := open(t, at(2+i).config(secret))
			_, err := both.Gossip().WriteTo([]byte("to "+secret), p.Addr())
			require.NoError(t, err)
			assert.Equal(t, "to "+string(secret), string((<-p.Gossip().PacketCh()).Buf))
			_, err = p.Gossip().WriteTo([]byte("from "+secret), both.Addr())
			require.NoError(t, err)
			assert.Equal(t, "from "+string(secret), string((<-both.Gossip().PacketCh()).Buf))
			synctest.Wait()
			assert.Empty(t, p.gossip.packets)
			assert.Empty(t, both.gossip.packets)
		}
	})
}

// bomb returns a compressed packet of memberlist: 31 kB that expand to megabytes.
func bomb(t *testing.T) []byte {
	const size = 31_000
	var packed bytes.Buffer
	w := lzw.NewWriter(&packed, lzw.LSB, 8)
	for zeros := make([]byte, 1<<16); packed.Len() < size-1000; {
		_, err := w.Write(zeros)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	b := []byte("\x09\x82\xa4Algo\x00\xa3Buf\xda") // type 9: {Algo: 0, Buf: of a length of 16 bits}
	b = binary.BigEndian.AppendUint16(b, uint16(packed.Len()))
	return append(b, packed.Bytes()...)
}

// allocated returns how many bytes the process allocates while f runs.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// Packets from a sender without the secret are not decompressed: twenty of them
// allocate less than one would expand to.
func TestBombsFromUnknownSendersAllocateLittle(t *testing.T) {
	packet := bomb(t)
	cfg := host{System, "127.0.0.1"}.config("a")
	cfg.Previous = []Secret{"b", "c"}
	victim := open(t, cfg)
	friend := open(t, host{System, "127.0.0.1"}.config("b"))
	forger, err := newSeals("not one of them")
	require.NoError(t, err)
	sealed := forger[0].Seal(nil, nil, packet, nil)
	socket, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	defer socket.Close()
	to, err := net.ResolveUDPAddr("udp", victim.Addr())
	require.NoError(t, err)
	for name, forged := range map[string][]byte{"as it is": packet, "sealed with another secret": sealed} {
		assert.Less(t, allocated(func() {
			for i := range 20 {
				_, err := socket.WriteTo(forged, to)
				require.NoError(t, err)
				_, err = friend.Gossip().WriteTo([]byte{byte(i)}, victim.Addr()) // when this arrives, the one before was read
				require.NoError(t, err)
				require.Equal(t, []byte{byte(i)}, (<-victim.Gossip().PacketCh()).Buf, name)
			}
		}), uint64(1<<20), name)
	}
}

// A bomb from a member is decompressed, which shows that the packet of the test above
// would expand.
func TestPacketFromMemberCanAllocateMegabytes(t *testing.T) {
	inMemory(t, func(t *testing.T, _ *memnet.Net, at func(int) host) {
		victim, friend := open(t, at(1).config("a")), open(t, at(2).config("a"))
		gossip(t, "victim", victim)
		packet := bomb(t)
		assert.Greater(t, allocated(func() {
			_, err := friend.Gossip().WriteTo(packet, victim.Addr())
			require.NoError(t, err)
			synctest.Wait()
		}), uint64(5<<20))
	})
}
