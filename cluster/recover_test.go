package cluster

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
)

// startRecovering starts worker i in a directory, with Recover.
func (c *fleet) startRecovering(i int, dir string) (*Node, error) {
	cfg := c.config(i)
	cfg.Dir, cfg.Recover = dir, true
	n, err := Start(cfg)
	if err == nil {
		c.nodes[n.port.Addr()] = n
	}
	return n, err
}

// wipe empties a directory.
func wipe(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		require.NoError(t, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
}

// loseTwo crashes three workers in directories and empties those of the first two, which
// it returns as they were.
func loseTwo(t *testing.T, c *fleet, nodes []*Node, dirs []string) (lost []string) {
	t.Helper()
	for i, n := range nodes {
		c.crash(n)
		if i < 2 {
			kept := t.TempDir()
			require.NoError(t, os.CopyFS(kept, os.DirFS(dirs[i])))
			lost = append(lost, kept)
			wipe(t, dirs[i])
		}
	}
	return lost
}

// spendHour spends an hour's limit of 100 on a node, and returns how much it got.
func spendHour(t *testing.T, n *Node) (got int) {
	t.Helper()
	c := choked.New(n)
	l, err := c.Limiter("hour", choked.MustLimits("requests 100/h"), nil)
	require.NoError(t, err)
	for {
		verdict, err := l.Allow(t.Context(), choked.Cost{Requests: 1})
		require.NoError(t, err)
		if !verdict.OK {
			break
		}
		got++
	}
	require.NoError(t, c.Close())
	return got
}

// Two of three directories are lost. All members say which one keeps the cluster, and
// that one recovers it: all are served, and what was spent stays spent.
func TestRecoverKeepsWhatWasSpent(t *testing.T) {
	dirs := tempDirs(t, 3)
	var log lockedBuffer
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThreeIn(dirs)
		require.Equal(t, 100, spendHour(t, nodes[0]))
		c.await("all have the state", func() bool { return nodes[0].replica.Hash() == nodes[2].replica.Hash() })
		c.log = slog.New(slog.NewTextHandler(&log, nil))
		id, old := nodes[2].ID(), nodes[2].cluster()
		lost := loseTwo(t, c, nodes, dirs)

		nodes = nil
		for i, dir := range dirs {
			nodes = append(nodes, c.startIn(1+i, dir))
		}
		time.Sleep(7 * time.Second)
		assert.Equal(t, 2, strings.Count(log.String(), `msg="found no cluster, retrying"`), "on both nodes without a log, the first seed among them")
		assert.Equal(t, 2, strings.Count(log.String(), `reason="worker-3 at 10.0.0.3:7946 keeps cluster`))
		for _, n := range nodes[:2] {
			assert.EqualError(t, n.Health(), `no cluster found yet: worker-3 at 10.0.0.3:7946 keeps cluster "`+old+`", which has no leader as its other voters are gone: if they are gone for good, empty its Dir or start it with Recover`)
		}
		assert.Regexp(t, `^no leader for 7s: a majority of the voters must run, each with its Dir: worker-3 keeps cluster "`+old+`", and 2 of its 3 voters are gone: if they are gone for good, empty its Dir or start it with Recover: 2 of 3 voters gone since [0-9]+s; nothing is decided before one of them runs again with its Dir \(.+; .+\)$`, nodes[2].Health().Error())

		for _, n := range nodes {
			_, err := n.Lease(t.Context(), oneRequest("k", 1))
			assert.ErrorIs(t, err, choked.ErrNoQuorum)
			assert.ErrorContains(t, err, "empty its Dir or start it with Recover")
		}
		c.crash(nodes[2])
		time.Sleep(10 * time.Second)
		for _, n := range nodes[:2] {
			assert.Regexp(t, `^no cluster found yet: waits for worker-3 at 10.0.0.3:7946, which kept cluster "`+old+`" and stopped [0-9]+s ago: start it again; if it is gone for good, restart this node$`, n.Health().Error())
		}
		n, err := c.startRecovering(3, dirs[2])
		require.NoError(t, err)
		assert.Equal(t, id, n.ID())
		assert.NotEqual(t, old, n.cluster())
		c.await("three voters of the new cluster", func() bool { return c.voters() == 3 && isWhole([]*Node{nodes[0], nodes[1], n}) })
		for _, x := range []*Node{nodes[0], nodes[1], n} {
			assert.Equal(t, n.cluster(), x.cluster())
			assert.Zero(t, spendHour(t, x), "the hour's limit was spent before")
		}

		// A voter that was lost is refused if it returns after all.
		recovered := n.cluster()
		c.crash(nodes[0])
		back := c.startIn(1, lost[0])
		time.Sleep(7 * time.Second)
		assert.Regexp(t, `two clusters do not merge: this node is of cluster "`+old+`", which has no leader, and .+ is of "`+recovered+`": if that one has a leader, empty the directory .+ of this node and restart it`, back.Health())
		for range 10 {
			for _, x := range []*Node{nodes[1], n} {
				assert.NoError(t, x.Health(), "the cluster that has a leader is well")
			}
			time.Sleep(200 * time.Millisecond)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err = back.Lease(ctx, oneRequest("k", 1))
		assert.ErrorIs(t, err, choked.ErrNoQuorum)
		c.crash(back)

		// Recover that is still set has no effect, also if all members restart.
		c.crash(nodes[1])
		c.crash(n)
		n, err = c.startRecovering(3, dirs[2])
		require.NoError(t, err)
		time.Sleep(20 * time.Second)
		assert.Equal(t, recovered, n.cluster())
		assert.ErrorContains(t, n.Health(), "start it with Recover, which had its effect before: start it once without, then with it again")
		c.startIn(1, dirs[0])
		c.startIn(2, dirs[1])
		c.await("all have returned", func() bool { return c.voters() == 3 })
		assert.Zero(t, spendHour(t, c.leader()))
	})
}

// After a second loss the survivor recovers again, once it was started without Recover.
func TestRecoverAgain(t *testing.T) {
	dirs := tempDirs(t, 3)
	inBubble(t, func(t *testing.T, c *fleet) {
		loseTwo(t, c, c.startThreeIn(dirs), dirs)
		n, err := c.startRecovering(3, dirs[2])
		require.NoError(t, err)
		first := n.cluster()
		nodes := []*Node{c.startIn(1, dirs[0]), c.startIn(2, dirs[1]), n}
		c.await("three voters", func() bool { return c.voters() == 3 && isWhole(nodes) })
		loseTwo(t, c, nodes, dirs)

		c.crash(c.startIn(3, dirs[2])) // without Recover
		n, err = c.startRecovering(3, dirs[2])
		require.NoError(t, err)
		c.await("it leads", func() bool { return n.Health() == nil })
		assert.NotEqual(t, first, n.cluster())
	})
}

// A node that a leader of its cluster can reach does not recover: it takes its part.
func TestRecoverDoesNothingInAClusterWithALeader(t *testing.T) {
	dirs := tempDirs(t, 3)
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThreeIn(dirs)
		old := nodes[0].cluster()
		c.crash(nodes[2])
		began := time.Now()
		n, err := c.startRecovering(3, dirs[2])
		require.NoError(t, err)
		assert.Less(t, time.Since(began), recoverAfter)
		assert.Equal(t, old, n.cluster())
		c.await("three voters", func() bool { return c.voters() == 3 && isWhole([]*Node{nodes[0], nodes[1], n}) })

		c.crash(nodes[0])
		c.crash(nodes[1])
		c.await("it says what to do", func() bool {
			err := n.Health()
			return err != nil && strings.Contains(err.Error(), "start it with Recover")
		})
		assert.NotContains(t, n.Health().Error(), "had its effect before")
	})
}

// Two survivors of five cannot both found a cluster of their own.
func TestRecoverRefusesBesideAnotherSurvivor(t *testing.T) {
	dirs := tempDirs(t, 5)
	inBubble(t, func(t *testing.T, c *fleet) {
		for i := range 5 {
			c.seeds = append(c.seeds, ip(1+i)+":7946")
		}
		var nodes []*Node
		for i, dir := range dirs {
			cfg := c.config(1 + i)
			cfg.Dir, cfg.Voters = dir, 5
			nodes = append(nodes, c.start(cfg))
		}
		c.await("five voters", func() bool { return c.voters() == 5 })
		old := nodes[4].cluster()
		for _, n := range nodes {
			c.crash(n)
		}
		other := c.startIn(4, dirs[3])
		_, err := c.startRecovering(5, dirs[4])
		require.EqualError(t, err, `cluster: recover dir "`+dirs[4]+`": worker-4 at 10.0.0.4:7946 keeps cluster "`+old+`", too: stop one of the two and empty its Dir first`)
		c.crash(other)
		n, err := c.startRecovering(5, dirs[4])
		require.NoError(t, err)
		c.await("it leads", func() bool { return c.leader() == n })
	})
}

func TestRecoverNeedsTheStateOfAVoter(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		_, err := c.startRecovering(1, "")
		assert.EqualError(t, err, "cluster: recover without a dir: want the Dir of a voter")
	})
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, c *fleet) {
		_, err := c.startRecovering(1, dir)
		assert.EqualError(t, err, `cluster: recover dir "`+dir+`": it keeps no cluster: start this node without Recover, and with Recover the node that keeps one`)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		assert.Empty(t, entries, "nothing was founded")
	})
}

// A process that ends while it recovers goes on at its next start, also without Recover.
func TestInterruptedRecoveryIsFinished(t *testing.T) {
	dirs := tempDirs(t, 3)
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThreeIn(dirs)
		require.Equal(t, 100, spendHour(t, nodes[0]))
		c.await("all have the state", func() bool { return nodes[0].replica.Hash() == nodes[2].replica.Hash() })
		id := identity{Node: nodes[2].ID(), Cluster: "new", Recovers: nodes[2].cluster()}
		loseTwo(t, c, nodes, dirs)
		require.NoError(t, writeIdentity(dirs[2], id))
		n := c.startIn(3, dirs[2])
		c.await("it leads", func() bool { return c.leader() == n })
		assert.Equal(t, "new", n.cluster())
		assert.Zero(t, spendHour(t, n))
		c.crash(n)
		saved, _, err := readIdentity(dirs[2])
		require.NoError(t, err)
		assert.Equal(t, identity{Node: id.Node, Cluster: "new", Recovered: id.Recovers}, saved)
		c.startIn(3, dirs[2])
		saved, _, err = readIdentity(dirs[2])
		require.NoError(t, err)
		assert.Equal(t, identity{Node: id.Node, Cluster: "new"}, saved, "a start without Recover makes Recover effective again")
	})
}

// The node that keeps the cluster stops, as when its machine reboots. The nodes without a
// log found no other cluster meanwhile, until it has been away for long or has lost its Dir.
func TestEmptyNodesWaitForTheOneThatKeepsTheCluster(t *testing.T) {
	for _, tt := range []struct {
		name string
		then func(c *fleet, nodes []*Node, dirs []string)
		same bool // no other cluster is founded
	}{
		{"it returns", func(c *fleet, nodes []*Node, dirs []string) {
			time.Sleep(2 * time.Minute)
			c.startIn(3, dirs[2])
		}, true},
		{"it is gone for good", func(*fleet, []*Node, []string) { time.Sleep(keptFor - 5*time.Second) }, false},
		{"its Dir is emptied", func(c *fleet, nodes []*Node, dirs []string) {
			wipe(c.t, dirs[2])
			c.startIn(3, dirs[2])
		}, false},
		{"another node is restarted", func(c *fleet, nodes []*Node, dirs []string) {
			c.crash(nodes[0])
			c.startIn(1, dirs[0])
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dirs := tempDirs(t, 3)
			inBubble(t, func(t *testing.T, c *fleet) {
				nodes := c.startThreeIn(dirs)
				loseTwo(t, c, nodes, dirs)
				for i, dir := range dirs {
					nodes[i] = c.startIn(1+i, dir)
				}
				time.Sleep(7 * time.Second)
				c.leave(nodes[2])
				tt.then(c, nodes, dirs)
				if tt.same {
					time.Sleep(10 * time.Second)
					assert.ErrorContains(t, nodes[0].Health(), "worker-3 at 10.0.0.3:7946 keeps cluster")
					return
				}
				c.within(10*time.Second, "a new cluster", func() bool { return c.isOneCluster(len(c.nodes)) })
			})
		})
	}
}

// Two voters are killed and start again at once with empty directories, while the third
// asks for their votes. They do not join its cluster, which has no leader, and say what to
// do about it.
func TestRequestForAVoteDrawsNoOtherNodeIntoTheCluster(t *testing.T) {
	dirs := tempDirs(t, 3)
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThreeIn(dirs)
		require.Equal(t, 100, spendHour(t, nodes[2]))
		time.Sleep(time.Second)
		for i := range 2 {
			c.crash(nodes[i])
		}
		time.Sleep(time.Second)
		for i := range 2 {
			wipe(t, dirs[i])
			nodes[i] = c.startIn(1+i, dirs[i])
		}
		time.Sleep(8 * time.Second)
		for _, n := range nodes[:2] {
			assert.ErrorContains(t, n.Health(), "worker-3 at 10.0.0.3:7946 keeps cluster")
		}
		c.leave(nodes[2])
		n, err := c.startRecovering(3, dirs[2])
		require.NoError(t, err)
		c.within(10*time.Second, "one cluster", func() bool { return c.isOneCluster(3) })
		assert.Zero(t, spendHour(t, n))
	})
}

// Two members have a Dir, and the directory of the only voter is lost. The other one has no
// log to recover: a restart of it suffices, as both say.
func TestMemberWithoutALogIsRestarted(t *testing.T) {
	dirs := tempDirs(t, 2)
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946"}
		voter, client := c.startIn(1, dirs[0]), c.startIn(2, dirs[1])
		c.await("a cluster", func() bool { return c.isOneCluster(2) })
		time.Sleep(10 * time.Second)
		lost := client.cluster()
		c.crash(voter)
		time.Sleep(time.Second)
		wipe(t, dirs[0])
		voter = c.startIn(1, dirs[0])
		time.Sleep(15 * time.Second)
		assert.ErrorContains(t, voter.Health(), `worker-2 at 10.0.0.2:7946 is of cluster "`+lost+`", which has no leader: a majority of its voters must run, each with its Dir; if they are gone for good, restart the nodes of that cluster that are left`)
		assert.ErrorContains(t, client.Health(), "none of them is known to run: if all are gone for good, restart this node")

		c.crash(client)
		c.crash(voter)
		_, err := c.startRecovering(2, dirs[1])
		assert.EqualError(t, err, `cluster: recover dir "`+dirs[1]+`": this node is no voter of cluster "`+lost+`": start it without Recover, and with Recover a node that is one`)
		c.startIn(1, dirs[0])
		c.startIn(2, dirs[1])
		c.within(10*time.Second, "a new cluster", func() bool { return c.isOneCluster(2) })
	})
}
