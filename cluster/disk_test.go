package cluster

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A damaged snapshot is an error: an older one lacks later grants. A snapshot that a crash
// left incomplete is ignored.
func TestNewestSnapshotMustBeIntact(t *testing.T) {
	meta := func(of func(meta string) string) func(t *testing.T, snapshot string) {
		return func(t *testing.T, snapshot string) {
			file := filepath.Join(snapshot, "meta.json")
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			changed := of(string(b))
			require.NotEqual(t, string(b), changed)
			require.NoError(t, os.WriteFile(file, []byte(changed), 0o600))
		}
	}
	for _, test := range []struct {
		name    string
		do      func(t *testing.T, snapshot string)
		damaged string // part of the error; empty: none
	}{
		{"intact", func(*testing.T, string) {}, ""},
		{"incomplete", func(t *testing.T, snapshot string) {
			require.NoError(t, os.Rename(snapshot, snapshot+".tmp"))
		}, ""},
		{"state changed", func(t *testing.T, snapshot string) {
			require.NoError(t, os.WriteFile(filepath.Join(snapshot, "state.bin"), []byte("10-10?"), 0o600))
		}, "CRC mismatch"},
		{"state missing", func(t *testing.T, snapshot string) {
			require.NoError(t, os.Remove(filepath.Join(snapshot, "state.bin")))
		}, "no such file"},
		{"meta truncated", meta(func(s string) string { return s[:len(s)/2] }), "unexpected EOF"},
		{"meta with another index", meta(func(s string) string {
			return strings.Replace(s, `"Index":10`, `"Index":1`, 1)
		}), "term 2, index 1"},
		{"meta with another version", meta(func(s string) string {
			return strings.Replace(s, `"Version":1`, `"Version":9`, 1)
		}), "version 9"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			store, err := raft.NewFileSnapshotStore(dir, keepSnaps, io.Discard)
			require.NoError(t, err)
			_, transport := raft.NewInmemTransport("")
			var newest string
			for _, index := range []uint64{9, 10} { // 9 sorts after 10 as a string
				sink, err := store.Create(raft.SnapshotVersionMax, index, 2, raft.Configuration{}, 1, transport)
				require.NoError(t, err)
				_, err = fmt.Fprintf(sink, "%d-%d", index, index)
				require.NoError(t, err)
				require.NoError(t, sink.Close())
				newest = sink.ID()
			}
			snapshots := filepath.Join(dir, "snapshots")
			test.do(t, filepath.Join(snapshots, newest))
			err = checkNewestSnapshot(snapshots, store)
			if test.damaged == "" {
				assert.NoError(t, err)
				return
			}
			assert.ErrorContains(t, err, "snapshot "+newest+" is damaged")
			assert.ErrorContains(t, err, test.damaged)
		})
	}
}

// A disk that fails while the cluster is being founded does not block Close. Raft alone
// would never answer the caller that bootstraps.
func TestDiskFailureDuringFoundingDoesNotHang(t *testing.T) {
	if os.Getenv("CHOKED_TEST_HANGS") == "" { // in a process of its own: if it hangs, the other tests end with it
		test := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
		test.Env = append(os.Environ(), "CHOKED_TEST_HANGS=1")
		assert.NoError(t, test.Run())
		return
	}
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		cfg := c.config(1)
		cfg.Dir = dir
		n := c.start(cfg)
		assert.NoError(t, n.raft.current().disk.bolt.Close())
		c.start(c.config(2)) // with it there is a majority of the seeds: worker 1 founds
		time.Sleep(10 * time.Second)
		assert.Error(t, n.Health())
		ended := make(chan struct{})
		delete(c.nodes, n.port.Addr())
		go func() {
			n.Close()
			close(ended)
		}()
		select {
		case <-ended:
		case <-time.After(time.Minute):
			t.Error("Close hangs")
		}
	})
}

// A voter whose disk has failed cannot make up for the vote of a leader that leaves, though
// it is still a member.
func TestLeaderLeavesWithAVoterWhoseDiskFailed(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		var nodes []*Node
		for i, dir := range dirs {
			cfg := c.config(i + 1)
			cfg.Dir = dir
			nodes = append(nodes, c.start(cfg))
		}
		c.await("three voters", func() bool { return c.voters() == 3 })
		leader := c.leader()
		others := besides(leader, nodes)
		assert.NoError(t, others[0].raft.current().disk.bolt.Close())
		_, err := leader.Lease(t.Context(), oneRequest("k", 1)) // which that voter has to write
		assert.NoError(t, err)
		c.await("the leader knows of the failed disk", func() bool {
			m, ok := leader.gossip.member(others[0].id)
			return ok && m.DiskFailed
		})
		delete(c.nodes, leader.port.Addr())
		assert.NoError(t, leader.Close())
		for i, n := range others {
			_, err := n.Lease(t.Context(), oneRequest("k", uint64(2+i)))
			assert.NoError(t, err, "the remaining nodes are served")
		}
	})
}

// A voter that was replaced while it was away restarts with a log by which it still votes.
// It learns that it does not.
func TestReplacedVoterAnnouncesNoVote(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		cfg := c.config(3)
		cfg.Dir = dir
		c.start(c.config(1))
		c.start(c.config(2))
		away := c.start(cfg)
		c.await("three voters", func() bool { return c.voters() == 3 })
		c.crash(away)
		c.await("a leader", func() bool { return c.leader() != nil })
		c.start(c.config(4))
		c.await("another voter replaces it", func() bool {
			if c.leader() == nil {
				return false
			}
			for _, s := range c.leader().raft.GetConfiguration().Configuration().Servers {
				if string(s.ID) == away.id {
					return false
				}
			}
			return c.voters() == 3
		})
		cfg = c.config(3)
		cfg.Dir = dir
		away = c.start(cfg)
		c.await("all members know the three voters", func() bool {
			for _, n := range c.nodes {
				votes := 0
				for _, m := range n.Members() {
					if m.Voter && m.ID != away.id {
						votes++
					}
					if m.Voter && m.ID == away.id {
						return false
					}
				}
				if votes != 3 {
					return false
				}
			}
			return true
		})
		time.Sleep(20 * time.Second)
		assert.False(t, away.gossip.announced().Voter, "and it stays so")
	})
}
