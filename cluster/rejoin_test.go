package cluster

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
)

// smallDisk is a disk that has no room while full is set.
type smallDisk struct{ full atomic.Bool }

func (d *smallDisk) fault() error {
	if d.full.Load() {
		return &fs.PathError{Op: "write", Path: "raft.db", Err: refusals[0]}
	}
	return nil
}

// startSmall starts three workers on small disks, each of them a seed, and waits until
// all of them vote.
func (c *fleet) startSmall(dirs []string) (nodes []*Node, disks []*smallDisk) {
	c.t.Helper()
	c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
	for i, dir := range dirs {
		d := new(smallDisk)
		cfg := c.config(1 + i)
		cfg.Dir, cfg.diskFault = dir, d.fault
		nodes, disks = append(nodes, c.start(cfg)), append(disks, d)
	}
	c.await("three voters", func() bool { return c.voters() == 3 })
	return nodes, disks
}

func tempDirs(t *testing.T, n int) (dirs []string) {
	for range n {
		dirs = append(dirs, t.TempDir())
	}
	return dirs
}

// isWhole reports whether all nodes are healthy and know all of them as voters.
func isWhole(nodes []*Node) bool {
	for _, n := range nodes {
		votes := 0
		for _, m := range n.Members() {
			if m.Voter && !m.DiskFailed {
				votes++
			}
		}
		if n.Health() != nil || votes != len(nodes) {
			return false
		}
	}
	return true
}

// A node whose disk was full rejoins within 10 s once the disk has room again, as the
// voter that it was. It says meanwhile that its disk has failed, and is served.
func TestNodeRejoinsWhenItsDiskHasRoomAgain(t *testing.T) {
	tooSlowForRace(t)
	for name, choose := range map[string]func(c *fleet, nodes []*Node) *Node{
		"a follower": func(c *fleet, nodes []*Node) *Node { return besides(c.leader(), nodes)[0] },
		"the leader": func(c *fleet, _ []*Node) *Node { return c.leader() },
	} {
		t.Run(name, func(t *testing.T) {
			dirs := tempDirs(t, 3)
			inBubble(t, func(t *testing.T, c *fleet) {
				nodes, disks := c.startSmall(dirs)
				node := choose(c, nodes)
				ctx, cancel := context.WithCancel(t.Context())
				var adm admissions
				var stops []func()
				limits := choked.MustLimits("requests 50/s")
				for _, n := range nodes {
					stops = append(stops, adm.spend(ctx, t, n, limits, 4))
				}
				assert.Equal(t, 100, spendHour(t, nodes[0]))
				time.Sleep(2 * time.Second)
				for range 3 { // a run that replaced another is replaced like the first
					disk, id := disks[slices.Index(nodes, node)], node.ID()
					disk.full.Store(true)
					c.await("all know that the disk has failed", func() bool {
						return !slices.ContainsFunc(nodes, func(n *Node) bool {
							m, ok := n.gossip.member(id)
							return !ok || !m.DiskFailed || m.Voter
						})
					})
					assert.ErrorContains(t, node.Health(), "disk failed, this node takes no part in Raft until the disk works again")
					failed := time.Now()
					time.Sleep(20 * time.Second)
					assert.ErrorContains(t, node.Health(), "disk failed")
					assert.NotZero(t, adm.since(failed)[node.cfg.Name], "it is served by the others")
					disk.full.Store(false)
					freed := time.Now()
					c.await("the node has rejoined", func() bool { return isWhole(nodes) })
					assert.Less(t, time.Since(freed), 10*time.Second)
					assert.Equal(t, id, node.ID())
					assert.Equal(t, 3, c.voters())
				}
				cancel()
				for _, stop := range stops {
					stop()
				}
				adm.check(t, limits.Requests[0])
				c.await("all have the same state", func() bool {
					return !slices.ContainsFunc(nodes, func(n *Node) bool { return n.replica.Hash() != c.leader().replica.Hash() })
				})
			})
		})
	}
}

// Three nodes whose disks were full at once serve again within 15 s. All that was spent
// before is still spent.
func TestAllDisksFullAtOnce(t *testing.T) {
	dirs := tempDirs(t, 3)
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes, disks := c.startSmall(dirs)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var adm admissions
		var stops []func()
		limits := choked.MustLimits("requests 20/s burst 100")
		for _, n := range nodes {
			stops = append(stops, adm.spend(ctx, t, n, limits, 8))
		}
		time.Sleep(10 * time.Second)
		for _, d := range disks {
			d.full.Store(true)
		}
		c.await("a majority of the disks has failed", func() bool { // without it nothing more is written
			return len(slices.DeleteFunc(slices.Clone(nodes), func(n *Node) bool { return n.health.hasDisk() })) >= 2
		})
		time.Sleep(20 * time.Second)
		assert.Nil(t, c.leader())
		for _, n := range nodes {
			assert.Regexp(t, `^[23] of 3 voters gone since (1[5-9]|2[0-5])s; nothing is decided before (one|two) of them runs? again with (its|their) Dir, on a disk that works$`, n.Quorum())
		}
		for _, d := range disks {
			d.full.Store(false)
		}
		freed := time.Now()
		c.await("all are served", func() bool { return len(adm.since(freed)) == 3 })
		assert.Less(t, time.Since(freed), 15*time.Second)
		c.await("all are voters", func() bool { return isWhole(nodes) })
		time.Sleep(10 * time.Second)
		cancel()
		for _, stop := range stops {
			stop()
		}
		adm.check(t, limits.Requests[0])
	})
}

// A node whose directory was emptied while its disk was full does not rejoin: without
// its log it could vote twice in a term.
func TestNodeDoesNotRejoinWithAnEmptiedDir(t *testing.T) {
	dirs := tempDirs(t, 3)
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes, disks := c.startSmall(dirs)
		leader := c.leader()
		at := slices.Index(nodes, besides(leader, nodes)[0])
		disks[at].full.Store(true)
		_, err := leader.Lease(t.Context(), oneRequest("k", 1)) // which all voters write
		require.NoError(t, err)
		c.await("the disk has failed", func() bool { return !nodes[at].health.hasDisk() })
		entries, err := os.ReadDir(dirs[at])
		require.NoError(t, err)
		for _, e := range entries {
			require.NoError(t, os.RemoveAll(dirs[at]+"/"+e.Name()))
		}
		disks[at].full.Store(false)
		time.Sleep(30 * time.Second)
		assert.ErrorContains(t, nodes[at].Health(), "restart the node")
		entries, err = os.ReadDir(dirs[at])
		require.NoError(t, err)
		assert.Empty(t, entries)
	})
}

// A node closes while its disk is full, and while it opens the disk again.
func TestCloseWithAFullDisk(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Second, reopenEvery, reopenEvery + time.Millisecond} {
		dirs := tempDirs(t, 3)
		inBubble(t, func(t *testing.T, c *fleet) {
			nodes, disks := c.startSmall(dirs)
			leader := c.leader()
			at := slices.Index(nodes, leader)
			disks[at].full.Store(true)
			leader.Lease(t.Context(), oneRequest("k", 1)) //nolint:errcheck // another leader answers, or none in time
			c.await("the disk has failed", func() bool { return !leader.health.hasDisk() })
			disks[at].full.Store(false)
			time.Sleep(wait)
			c.leave(leader)
			c.await("another leads", func() bool { return c.leader() != nil })
		})
	}
}

func TestIsFull(t *testing.T) {
	for _, refusal := range refusals {
		assert.True(t, isFull(&fs.PathError{Op: "write", Path: "x", Err: refusal}))
		assert.True(t, isFull(errors.New("file resize error: truncate x: "+refusal.Error())), "as bbolt reports it")
	}
	assert.False(t, isFull(nil))
	assert.False(t, isFull(fs.ErrPermission))
	assert.False(t, isFull(errors.New("input/output error")))
}
