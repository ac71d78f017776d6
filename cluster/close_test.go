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

// A leader that is cut off goes on to send what it is to decide. Another one leads
// when the answers come: it is not to wait for any of them when it is closed.
func TestALeaderThatWasReplacedEnds(t *testing.T) {
	for range 5 { // where its goroutines stand then is not decided
		inBubble(t, func(t *testing.T, c *fleet) {
			nodes := c.startThree()
			leader := c.leader()
			at := 1 + slices.Index(nodes, leader)
			alone, others := []string{ip(at)}, []string{ip(1 + at%3), ip(1 + (at+1)%3)}
			c.net.Split(alone, others)
			for range 4 {
				time.Sleep(100 * time.Millisecond)
				leader.raft.Raft.Apply(nil, 0)
			}
			c.await("another leads", func() bool { n := c.leader(); return n != nil && n != leader })
			c.net.Join(alone, others)
			time.Sleep(10 * time.Second)
			c.leave(leader)
		})
	}
}

// Close waits for what has to end, but not for ever.
func TestWhatDoesNotEndIsNamed(t *testing.T) {
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
