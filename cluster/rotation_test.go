package cluster

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// One worker after the other gets the new secret, with the old one for those
// that have no other yet; then the old one is dropped, one after the other. The
// cluster decides all along, and at the end the old secret is worth nothing.
func TestSecretRotatesWorkerByWorker(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		of := nodes[0].cluster()
		seq := uint64(0)
		for _, change := range []func(*Config){
			func(cfg *Config) { cfg.Secret, cfg.PreviousSecrets = "new", []string{"open sesame"} },
			func(cfg *Config) { cfg.Secret, cfg.PreviousSecrets = "new", nil },
		} {
			for i := range nodes {
				require.NoError(t, nodes[i].Close())
				cfg := c.config(i + 1)
				change(&cfg)
				nodes[i] = c.start(cfg)
				c.await("three voters", func() bool { return c.voters() == 3 })
				for _, n := range nodes {
					assert.NoError(t, n.Health())
					assert.Equal(t, of, n.cluster())
					seq++
					_, err := n.Lease(t.Context(), oneRequest("k", seq))
					assert.NoError(t, err)
				}
			}
		}
		late := c.start(c.config(4))
		time.Sleep(time.Minute)
		assert.ErrorContains(t, late.Health(), "no cluster found yet")
	})
}
