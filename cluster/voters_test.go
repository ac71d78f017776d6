package cluster

import (
	"context"
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// Who leads no more does not wait for a member that does not answer: not while
// it dials it, and not while it waits for what it says.
func TestManagingMembersEndsAtOnce(t *testing.T) {
	for name, after := range map[string]time.Duration{"it is dialled": 5 * time.Millisecond, "it is asked": 65 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, c *fleet) {
				nodes := c.startThree()
				m, ok := nodes[0].gossip.member(nodes[1].id)
				require.True(t, ok)
				c.net.Faults(10*time.Millisecond, 0, 0)
				ctx, cancel := context.WithCancel(t.Context())
				over := make(chan error, 1)
				go func() { over <- nodes[0].awaitLog(ctx, m, math.MaxUint64) }()
				time.Sleep(after)
				c.net.Split([]string{ip(1)}, []string{ip(2)})
				time.Sleep(300 * time.Millisecond) // now it is stuck
				synctest.Wait()
				assert.Empty(t, over)
				cancel()
				began := time.Now()
				assert.ErrorIs(t, <-over, context.Canceled)
				assert.Zero(t, time.Since(began))
			})
		})
	}
}
