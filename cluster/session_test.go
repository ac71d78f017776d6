package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
)

// A caller that gives up while the grant is on its way to it leaves no trace:
// what it was granted goes back, as the cancel and the grant cross each other.
func TestACancelThatCrossesTheGrant(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		leader := c.leader()
		client := nodes[0]
		if client == leader {
			client = nodes[1]
		}
		ask := bucket.Ask{
			Key: "k", ID: bucket.LeaseID{Holder: 7, Seq: 1}, Limits: choked.MustLimits("1000/h", ""),
			Need: choked.Cost{Requests: 1}, Want: choked.Cost{Requests: 1},
		}
		c.net.Faults(20*time.Millisecond, 0, 0)
		for seq := uint64(2); seq < 12; seq++ {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Duration(40+seq*8)*time.Millisecond, cancel)
			ask.ID.Seq, ask.Need.Requests, ask.Want.Requests = seq, 10, 10
			ask.MaxWait = time.Second
			l, err := client.Lease(ctx, ask)
			if err == nil && l.OK {
				require.NoError(t, client.Settle(t.Context(), []bucket.Settlement{{Key: "k", ID: ask.ID}}))
			}
			cancel()
			time.Sleep(500 * time.Millisecond) // a lease lives for two seconds
			var leased choked.Cost
			leader.replica.View(func(t *bucket.Table) {
				if b := t.Get("k"); b != nil {
					leased = b.Leased(t.Now())
				}
			})
			assert.Zero(t, leased, "still leased, cancelled after %d ms", 40+seq*8)
		}
	})
}
