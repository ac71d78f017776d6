package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
)

// One worker after the other gets the new secret, with the old one for those
// that have no other yet; then the old one is dropped, one after the other. All
// along the workers spend, and none of them is told that there is no quorum. At
// the end the old secret is worth nothing.
func TestSecretRotatesUnderLoad(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		limits := choked.MustLimits("50/s", "")
		var adm admissions
		stops := make([]func(), 3)
		spend := func(i int, n *Node) {
			ctx, cancel := context.WithCancel(t.Context())
			stop := adm.spend(ctx, t, n, limits, 8)
			stops[i] = func() { cancel(); stop() }
		}
		nodes := c.startThree()
		of := nodes[0].cluster()
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
					assert.Equal(t, of, n.cluster())
					assert.Len(t, n.Members(), 3)
				}
			}
		}
		late := c.start(c.config(4))
		time.Sleep(time.Minute)
		assert.ErrorContains(t, late.Health(), "no cluster found yet")
		assert.Len(t, late.Members(), 1)
		for i, stop := range stops {
			stop()
			assert.Len(t, nodes[i].Members(), 3)
		}
		by, gap := adm.check(t, limits.Requests[0])
		assert.Len(t, by, 3)
		assert.Less(t, gap, time.Second, "nobody was admitted for so long")
		for _, a := range adm.all {
			if a.err != nil {
				assert.ErrorIs(t, a.err, context.Canceled, "of %s", a.worker)
			}
		}
	})
}
