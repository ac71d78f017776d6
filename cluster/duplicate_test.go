package cluster

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster/internal/wire"
)

// For all pairs of hellos, exactly one of the two processes stays.
func TestOneOfTwoProcessesStays(t *testing.T) {
	for _, tt := range []struct {
		name     string
		one, two wire.Hello
		oneStays bool
	}{
		{name: "the older one", one: wire.Hello{Run: 9, Up: time.Hour}, two: wire.Hello{Run: 1, Up: time.Minute}, oneStays: true},
		{name: "the younger one", one: wire.Hello{Run: 1, Up: time.Second}, two: wire.Hello{Run: 9, Up: time.Minute}},
		{name: "alike, by number", one: wire.Hello{Run: 1, Up: 2 * time.Second}, two: wire.Hello{Run: 9, Up: 4 * time.Second}, oneStays: true},
		{name: "just not alike", one: wire.Hello{Run: 1, Up: 2 * time.Second}, two: wire.Hello{Run: 9, Up: 4*time.Second + 1}},
		{name: "at the same time", one: wire.Hello{Run: 9, Up: time.Second}, two: wire.Hello{Run: 1, Up: time.Second}},
		{name: "a process that has stepped out", one: wire.Hello{Run: 9, Up: time.Second}, two: wire.Hello{Run: 1, Up: time.Hour, SteppedOut: true}, oneStays: true},
	} {
		assert.Equal(t, tt.oneStays, staysOver(tt.one, tt.two), tt.name)
		assert.Equal(t, !tt.oneStays, staysOver(tt.two, tt.one), "%s, as the other one sees it", tt.name)
	}
}

// copyDir copies the directory of a node that does not run.
func copyDir(t *testing.T, from string) (to string) {
	t.Helper()
	to = t.TempDir()
	require.NoError(t, os.CopyFS(to, os.DirFS(from)))
	return to
}

// firstError has n grant small leases until one fails, and returns the error.
func firstError(t *testing.T, n *Node, within time.Duration) error {
	t.Helper()
	for seq := uint64(1); within > 0; seq++ {
		_, err := n.Lease(t.Context(), bucket.Ask{
			Key: "k", ID: bucket.LeaseID{Holder: uint64(n.began) + n.run, Seq: seq}, Limits: choked.MustLimits("requests 1000/s"),
			Need: choked.Cost{Requests: 1}, Want: choked.Cost{Requests: 1},
		})
		if err != nil {
			return err
		}
		time.Sleep(10 * time.Millisecond)
		within -= 10 * time.Millisecond
	}
	return nil
}

// The only node is killed, its directory is copied, and both are started. Both lead a
// cluster of their own until they reach each other.
func TestCopyOfTheOnlyNodeStepsOut(t *testing.T) {
	tooSlowForRace(t)
	for _, apart := range []time.Duration{0, 3 * time.Second, time.Minute} {
		for _, seeds := range [][]string{{ip(1) + ":7946"}, {ip(2) + ":7946"}, {ip(1) + ":7946", ip(2) + ":7946"}} {
			dir := t.TempDir()
			inBubble(t, func(t *testing.T, c *fleet) {
				first := c.startIn(1, dir)
				require.NoError(t, firstError(t, first, time.Second))
				c.crash(first)
				copied := copyDir(t, dir)

				c.seeds = seeds
				c.net.Split([]string{ip(1)}, []string{ip(2)})
				one := c.startIn(1, dir)
				time.Sleep(apart)
				two := c.startIn(2, copied)
				require.Equal(t, one.id, two.id)
				c.await("both lead", func() bool { return one.queue.Load() != nil && two.queue.Load() != nil })
				c.net.Join([]string{ip(1)}, []string{ip(2)})
				time.Sleep(5 * time.Second)

				stays, out := one, two
				if apart <= startedAlike && one.run > two.run {
					stays, out = two, one
				}
				assert.NoError(t, stays.Health())
				assert.NoError(t, firstError(t, stays, 30*time.Second))
				began := time.Now()
				err := firstError(t, out, time.Second)
				assert.ErrorIs(t, err, choked.ErrUnavailable)
				assert.Zero(t, time.Since(began), "it fails at once")
				assert.Equal(t, out.Health().Error(), strings.TrimPrefix(err.Error(), "store unavailable: "))
				for _, want := range []string{stays.Addr(), out.Addr(), "stepped out", out.id, out.cfg.Dir, "start this node with an empty one"} {
					assert.ErrorContains(t, out.Health(), want)
				}
				assert.Len(t, out.Members(), 1)
				assert.Len(t, stays.Members(), 1)
				_, leads := out.Leader()
				assert.False(t, leads)
				assert.Zero(t, out.Quorum())
				assert.NoError(t, stays.Health(), "as it was")
			})
		}
	}
}

// A copy of the directory of one of three voters is started as a fourth node. The
// cluster takes no notice of it, whichever node the copy reaches first.
func TestCopyOfAVoterStepsOut(t *testing.T) {
	for _, ofLeader := range []bool{false, true} {
		dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
		inBubble(t, func(t *testing.T, c *fleet) {
			var log lockedBuffer
			c.log = slog.New(slog.NewTextHandler(&log, nil))
			c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946", ip(4) + ":7946"} // all dial the copy
			var nodes []*Node
			for i, dir := range dirs {
				nodes = append(nodes, c.startIn(1+i, dir))
			}
			c.await("three voters", func() bool { return c.voters() == 3 })
			i := 0
			for j, n := range nodes {
				if (n == c.leader()) == ofLeader {
					i = j
				}
			}
			c.crash(nodes[i])
			copied := copyDir(t, dirs[i])
			nodes[i] = c.startIn(1+i, dirs[i])
			c.await("three voters", func() bool { return c.voters() == 3 && nodes[i].Health() == nil })
			time.Sleep(time.Minute)

			c.seeds = []string{ip(1+(i+1)%3) + ":7946"} // not the original
			leader := c.leader()
			fourth := c.startIn(4, copied)
			require.Equal(t, nodes[i].id, fourth.id)
			began := time.Now()
			c.await("the copy steps out", func() bool { return fourth.duplicate.err() != nil })
			assert.LessOrEqual(t, time.Since(began), 5*time.Second)
			for range 3000 {
				for _, n := range nodes {
					require.NoError(t, n.Health())
					m, ok := n.gossip.member(fourth.id)
					require.True(t, ok)
					require.Equal(t, nodes[i].Addr(), m.Addr, "its address does not change")
					require.Len(t, n.Members(), 3)
				}
				time.Sleep(10 * time.Millisecond)
			}
			assert.Same(t, leader, c.leader())
			assert.Equal(t, 3, c.voters())
			assert.ErrorContains(t, fourth.Health(), nodes[i].Addr())
			assert.Equal(t, 1, strings.Count(log.String(), "stepped out of the cluster"))
			assert.LessOrEqual(t, strings.Count(log.String(), "refused a copy of this node"), 2, "once a minute")

			// With an empty directory it is a member like any other.
			require.NoError(t, fourth.Close())
			delete(c.nodes, fourth.Addr())
			fifth := c.startIn(4, t.TempDir())
			c.await("it joins", func() bool { return fifth.Health() == nil && len(leader.Members()) == 4 })
		})
	}
}

// Voters crash and restart, and copies of their directories are started beside them.
// Callers on all nodes, the copies included, are never admitted above the bound.
func TestBoundHoldsWithCopies(t *testing.T) {
	tooSlowForRace(t)
	for seed := range uint64(4) {
		dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
		inBubble(t, func(t *testing.T, c *fleet) {
			c.log = slog.New(slog.DiscardHandler)
			rnd := rand.New(rand.NewPCG(seed, 1))
			var adm admissions
			limits := choked.MustLimits("requests " + []string{"10/s", "10/s burst 30"}[seed%2])
			spend := func(n *Node) (end func()) {
				ctx, cancel := context.WithCancel(t.Context())
				stop := adm.spend(ctx, t, n, limits, 2)
				return func() { cancel(); stop() }
			}
			nodes := c.startThreeIn(dirs)
			ends := make([]func(), len(nodes))
			for i, n := range nodes {
				ends[i] = spend(n)
			}
			for range 6 {
				i := rnd.IntN(len(nodes))
				c.crash(nodes[i])
				ends[i]()
				copied := copyDir(t, dirs[i])
				time.Sleep(time.Duration(rnd.Int64N(int64(5 * time.Second))))
				nodes[i] = c.startIn(1+i, dirs[i])
				ends[i] = spend(nodes[i])
				c.await("it is well", func() bool { return nodes[i].Health() == nil && c.voters() == 3 })
				time.Sleep(startedAlike + time.Duration(rnd.Int64N(int64(5*time.Second))))

				fourth := c.startIn(4, copied)
				end := spend(fourth)
				c.await("the copy steps out", func() bool { return fourth.duplicate.err() != nil })
				time.Sleep(time.Duration(rnd.Int64N(int64(5 * time.Second))))
				end()
				delete(c.nodes, fourth.Addr())
				require.NoError(t, fourth.Close())
			}
			for _, end := range ends {
				end()
			}
			by, _ := adm.check(t, limits.Requests[0])
			assert.Len(t, by, 3, "the copies admit none: %v", by)
		})
	}
}

// A copy that reaches the other members, but not its original, gets no vote.
func TestCopyThatDoesNotReachItsOriginalMayNotVote(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThreeIn(dirs)
		i := 0
		for c.leader() == nodes[i] {
			i++
		}
		c.crash(nodes[i])
		copied := copyDir(t, dirs[i])
		nodes[i] = c.startIn(1+i, dirs[i])
		c.await("three voters", func() bool { return c.voters() == 3 && nodes[i].Health() == nil })
		time.Sleep(time.Minute)
		c.net.Split([]string{ip(4)}, []string{ip(1 + i)})
		fourth := c.startIn(4, copied)
		time.Sleep(10 * time.Second)
		for _, n := range besides(nodes[i], nodes) {
			_, err := fourth.port.Dial(t.Context(), wire.Raft, n.Addr())
			assert.ErrorContains(t, err, "has a copy of its directory")
			assert.NoError(t, n.Health())
		}
		c.net.Join([]string{ip(4)}, []string{ip(1 + i)})
		c.await("the copy steps out", func() bool { return fourth.duplicate.err() != nil })
	})
}

// A node that reaches itself at another of its addresses is no copy.
func TestNodeThatReachesItselfIsNoCopy(t *testing.T) {
	n, err := Start(Config{Bind: "127.0.0.1:0"})
	require.NoError(t, err)
	defer n.Close()
	c, err := n.port.Dial(t.Context(), wire.RPC, n.Addr())
	require.NoError(t, err)
	defer c.Close()
	assert.True(t, c.Peer.IsProcess(n.port.Hello()))
	assert.NoError(t, n.duplicate.err())
}
