package cluster

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
)

// A voter that restarts without its log, at the same address, is another node and has
// no vote. With one, it could elect a leader that lacks an entry to whose majority the
// former voter belonged.
func TestNodeWithoutItsLogIsAnotherVoter(t *testing.T) {
	for i := range 6 { // which node is the first candidate is random
		t.Run(fmt.Sprint(i), func(t *testing.T) { inBubble(t, loseLog) })
	}
}

func loseLog(t *testing.T, c *fleet) {
	c.startThree()
	ask := func(n *Node, seq uint64) (bucket.Lease, error) {
		return n.Lease(t.Context(), bucket.Ask{
			Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: seq}, Limits: choked.MustLimits("requests 60/h"),
			Need: choked.Cost{Requests: 60}, Want: choked.Cost{Requests: 60},
		})
	}
	a, b, behind := c.nodes[ip(1)+":7946"], c.nodes[ip(2)+":7946"], c.nodes[ip(3)+":7946"]
	require.Same(t, a, c.leader())
	host := func(n *Node) string { return n.cfg.Bind[:len(n.cfg.Bind)-len(":7946")] }

	c.net.Split([]string{host(behind)}, []string{host(a), host(b)})
	l, err := ask(a, 1)
	require.NoError(t, err)
	require.True(t, l.OK, "committed by a and b")

	// b loses its log and a is unreachable: no other node knows of the lease, so there
	// must be no leader.
	c.net.Split([]string{host(a)}, []string{host(b)})
	c.net.Join([]string{host(behind)}, []string{host(b)})
	c.crash(b)
	c.start(c.config(2))
	time.Sleep(10 * time.Second)
	l, err = ask(behind, 2)
	assert.ErrorIs(t, err, choked.ErrNoQuorum)
	assert.False(t, l.OK, "60 an hour were granted twice within a minute")
}

// Each voter in turn may crash and lose its log, if the others have the time to promote
// a replacement in between.
func TestVotersInMemoryAreReplacedOneByOne(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.startThree()
		for i := range 9 {
			addr := ip(1+i%3) + ":7946"
			c.crash(c.nodes[addr])
			time.Sleep(time.Duration(i) * 300 * time.Millisecond)
			c.start(c.config(1 + i%3))
			c.await("a leader and three voters, all of them running", func() bool {
				n := c.leader()
				if n == nil {
					return false
				}
				running := 0
				for _, s := range n.raft.GetConfiguration().Configuration().Servers {
					for _, m := range c.nodes {
						if string(s.ID) == m.id && s.Suffrage == 0 {
							running++
						}
					}
				}
				return running == 3
			})
		}
	})
}

// As when a volume moves to another machine with its worker: the node soon runs again,
// with the same id, at another address.
func TestVoterReturnsAtAnotherAddress(t *testing.T) {
	for _, away := range []time.Duration{0, 2 * time.Second, 8 * time.Second} {
		dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
		inBubble(t, func(t *testing.T, c *fleet) {
			nodes := c.startThreeIn(dirs)
			i := slices.IndexFunc(nodes, func(n *Node) bool { return n != c.leader() })
			c.crash(nodes[i])
			time.Sleep(away)
			restarted := time.Now()
			again := c.startIn(10+i, dirs[i])
			require.Equal(t, nodes[i].id, again.id)
			c.await("the leader reaches it", func() bool { return again.raft.current().LastContact().After(restarted) })
			assert.LessOrEqual(t, time.Since(restarted), 10*time.Second, "after it was away for %v", away)
			assert.Equal(t, 3, c.voters())
		})
	}
}
