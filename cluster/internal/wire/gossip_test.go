package wire

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/cluster/internal/memnet"
)

// A packet opens for those who hold the secret that sealed it, whole and as it
// was, and for nobody else.
func TestSealedPacketOpensForItsHolders(t *testing.T) {
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
		b, ok := to.open(packet)
		assert.Equal(t, tt.opens, ok)
		if ok {
			assert.Equal(t, "gossip", string(b))
		}
		for i := range packet {
			packet[i] ^= 1
			_, ok := to.open(packet)
			assert.False(t, ok, "byte %d was changed", i)
			_, ok = to.open(packet[:i])
			assert.False(t, ok, "cut off at %d", i)
			packet[i] ^= 1
		}
	}
}

// While the secret changes, a packet reaches who holds either: it is sent once
// for each, and who holds both may have it twice, as packets may come twice.
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
