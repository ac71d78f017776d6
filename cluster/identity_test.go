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

// A voter that comes back without its log, at the address that it had, is
// another node: it has no vote, or it would help one who lacks what it had
// voted for to lead.
func TestANodeThatLostItsLogDoesNotVoteForItsFormerSelf(t *testing.T) {
	for i := range 6 { // who stands for election first is a matter of chance
		t.Run(fmt.Sprint(i), func(t *testing.T) { inBubble(t, formerSelf) })
	}
}

func formerSelf(t *testing.T, c *fleet) {
	c.startThree()
	ask := func(n *Node, seq uint64) (bucket.Lease, error) {
		return n.Lease(t.Context(), bucket.Ask{
			Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: seq}, Limits: choked.MustLimits("60/h", ""),
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

	// b loses its log, a is cut off: of those who know of the lease nobody
	// is left who could tell, so nobody may decide.
	c.net.Split([]string{host(a)}, []string{host(b)})
	c.net.Join([]string{host(behind)}, []string{host(b)})
	c.crash(b)
	c.start(c.config(2))
	time.Sleep(10 * time.Second)
	l, err = ask(behind, 2)
	assert.ErrorIs(t, err, choked.ErrNoQuorum)
	assert.False(t, l.OK, "60 an hour, twice in a minute")
}

// One at a time may crash and lose its log, for as long as the two others have
// time to take it in anew.
func TestVotersInMemoryAreReplacedOneByOne(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.startThree()
		for i := range 9 {
			addr := ip(1+i%3) + ":7946"
			c.crash(c.nodes[addr])
			time.Sleep(time.Duration(i) * 300 * time.Millisecond)
			c.start(c.config(1 + i%3))
			c.await("a leader and three voters, all of them there", func() bool {
				n := c.leader()
				if n == nil {
					return false
				}
				there := 0
				for _, s := range n.raft.GetConfiguration().Configuration().Servers {
					for _, m := range c.nodes {
						if string(s.ID) == m.id && s.Suffrage == 0 {
							there++
						}
					}
				}
				return there == 3
			})
		}
	})
}

// As where a volume follows a worker that was lost to another machine: it comes
// back soon, is the same one, and is somewhere else.
func TestAVoterComesBackAtAnotherAddress(t *testing.T) {
	for _, away := range []time.Duration{0, 2 * time.Second, 8 * time.Second} {
		dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
		inBubble(t, func(t *testing.T, c *fleet) {
			nodes := c.startThreeIn(dirs)
			i := slices.IndexFunc(nodes, func(n *Node) bool { return n != c.leader() })
			c.crash(nodes[i])
			time.Sleep(away)
			came := time.Now()
			again := c.startIn(10+i, dirs[i])
			require.Equal(t, nodes[i].id, again.id)
			c.await("the leader reaches it", func() bool { return again.raft.LastContact().After(came) })
			assert.LessOrEqual(t, time.Since(came), 10*time.Second, "after it was away for %v", away)
			assert.Equal(t, 3, c.voters())
		})
	}
}
