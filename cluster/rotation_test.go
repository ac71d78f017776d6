package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
)

// One node after the other gets the new secret and accepts the old one; then one after
// the other drops the old one. Meanwhile all nodes admit calls, and none reports that
// there is no quorum. At the end a node with the old secret cannot join.
func TestSecretRotatesUnderLoad(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		limits := choked.MustLimits("requests 50/s")
		var adm admissions
		stops := make([]func(), 3)
		spend := func(i int, n *Node) {
			ctx, cancel := context.WithCancel(t.Context())
			stop := adm.spend(ctx, t, n, limits, 8)
			stops[i] = func() { cancel(); stop() }
		}
		nodes := c.startThree()
		cluster := nodes[0].cluster()
		for i, n := range nodes {
			spend(i, n)
		}
		for _, change := range []func(*Config){
			func(cfg *Config) { cfg.Secret, cfg.PreviousSecrets = "new", []string{"open sesame"} },
			func(cfg *Config) { cfg.Secret, cfg.PreviousSecrets = "new", nil },
		} {
			for i := range nodes {
				stops[i]()
				require.NoError(t, nodes[i].Close())
				cfg := c.config(i + 1)
				change(&cfg)
				nodes[i] = c.start(cfg)
				spend(i, nodes[i])
				c.await("three voters", func() bool { return c.voters() == 3 })
				time.Sleep(2 * time.Second)
				for _, n := range nodes {
					assert.NoError(t, n.Health())
					assert.Equal(t, cluster, n.cluster())
					assert.Len(t, n.Members(), 3)
				}
			}
		}
		outsider := c.start(c.config(4))
		time.Sleep(time.Minute)
		assert.ErrorContains(t, outsider.Health(), "no cluster found yet")
		assert.Len(t, outsider.Members(), 1)
		for i, stop := range stops {
			stop()
			assert.Len(t, nodes[i].Members(), 3)
		}
		by, gap := adm.check(t, limits.Requests[0])
		assert.Len(t, by, 3)
		assert.Less(t, gap, time.Second, "longest time without an admission")
		for _, a := range adm.all {
			if a.err != nil {
				assert.ErrorIs(t, a.err, context.Canceled, "of %s", a.worker)
			}
		}
	})
}
