package cluster

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// An isolated leader keeps sending entries. When the answers arrive, another node leads.
// Close of the former leader must not wait for any of these entries.
func TestReplacedLeaderCloses(t *testing.T) {
	for range 5 { // the state of its goroutines is random then
		inBubble(t, func(t *testing.T, c *fleet) {
			nodes := c.startThree()
			leader := c.leader()
			at := 1 + slices.Index(nodes, leader)
			alone, others := []string{ip(at)}, []string{ip(1 + at%3), ip(1 + (at+1)%3)}
			c.net.Split(alone, others)
			for range 4 {
				time.Sleep(100 * time.Millisecond)
				leader.raft.current().Raft.Apply(nil, 0)
			}
			c.await("another leads", func() bool { n := c.leader(); return n != nil && n != leader })
			c.net.Join(alone, others)
			time.Sleep(10 * time.Second)
			c.leave(leader)
		})
	}
}

// Close waits for each part of a node, but not for ever.
func TestWithTimeoutNamesTheUnfinishedPart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		assert.NoError(t, withTimeout(time.Second, "raft", func() error { return nil }))
		failed := errors.New("failed")
		assert.Same(t, failed, withTimeout(time.Second, "raft", func() error { time.Sleep(time.Second / 2); return failed }))

		ended := make(chan struct{})
		began := time.Now()
		err := withTimeout(time.Second, "raft", func() error { <-ended; return nil })
		require.EqualError(t, err, "raft has not ended within 1s")
		assert.Equal(t, time.Second, time.Since(began))
		close(ended)
	})
}
