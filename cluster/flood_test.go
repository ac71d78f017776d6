package cluster

import (
	"context"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Strangers take all their places on the ports of three nodes, from twenty addresses.
// The death of the leader is noticed and mended as soon as without them.
func TestFloodOfStrangersDoesNotDelayAnElection(t *testing.T) {
	decidedAfter := func(strangers int) (after time.Duration) {
		inBubble(t, func(t *testing.T, c *fleet) {
			nodes := c.startThree()
			client := c.start(c.config(4))
			c.await("the client has joined", func() bool { return client.Health() == nil })
			ctx, stop := context.WithCancel(t.Context())
			var flood sync.WaitGroup
			defer flood.Wait()
			defer stop()
			for i := range strangers {
				from := c.net.Host(ip(100 + i))
				for _, n := range nodes {
					for range 64 {
						flood.Go(func() {
							for ctx.Err() == nil {
								raw, err := from.Dial(ctx, n.Addr())
								if err == nil {
									raw.Read(make([]byte, 1)) //nolint:errcheck // until the node closes it
									raw.Close()
								}
								time.Sleep(100 * time.Millisecond)
							}
						})
					}
				}
			}
			time.Sleep(3 * time.Second)
			for _, n := range nodes {
				assert.True(t, n.isMember(netip.MustParseAddr(host(client))))
				assert.False(t, n.isMember(netip.MustParseAddr(ip(100))))
			}
			c.crash(c.leader())
			began := time.Now()
			lease, err := client.Lease(t.Context(), oneRequest("k", 1))
			require.NoError(t, err)
			require.True(t, lease.OK)
			after = time.Since(began)
		})
		return after
	}
	calm := decidedAfter(0)
	flooded := decidedAfter(20)
	t.Logf("decided after %v, under the flood after %v", calm, flooded)
	assert.Less(t, flooded, 3*time.Second)
}
