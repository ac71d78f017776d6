package ports

import (
	"net"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFreePortsAreFreeForBothAndDiffer(t *testing.T) {
	addrs, err := Free(20)
	require.NoError(t, err)
	seen := make(map[string]bool)
	for _, addr := range addrs {
		assert.False(t, seen[addr], "%s twice", addr)
		seen[addr] = true
		tcp, err := net.Listen("tcp", addr)
		require.NoError(t, err)
		tcp.Close()
		udp, err := net.ListenPacket("udp", addr)
		require.NoError(t, err)
		udp.Close()
	}
	assert.Len(t, seen, 20)
}
