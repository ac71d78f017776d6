package cluster

import (
	"bytes"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/fsm"
	"github.com/choked/choked/internal/boottime"
)

// drain stamps an entry of a settlement: an entry without operations changes no
// table's time.
func drain(term uint64, at int64) *raft.Log {
	op := &bucket.Settlement{Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: 1}}
	return &raft.Log{Term: term, Data: (&fsm.Entry{At: at, Ops: []bucket.Op{op}}).Encode()}
}

type sink struct{ bytes.Buffer }

func (*sink) ID() string    { return "one" }
func (*sink) Cancel() error { return nil }
func (*sink) Close() error  { return nil }

// A log that ends with a snapshot brings no entry to tell the time by.
func TestTheTimeGoesOnFromASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := newReplica(boottime.New())
		time.Sleep(time.Hour)
		old.lead(true)
		old.Apply(drain(1, old.now()))
		snapshot, err := old.Snapshot()
		require.NoError(t, err)
		var file sink
		require.NoError(t, snapshot.Persist(&file))

		restarted := newReplica(boottime.New())
		require.NoError(t, restarted.Restore(io.NopCloser(&file)))
		restarted.lead(true)
		time.Sleep(time.Second)
		assert.Equal(t, int64(time.Hour+time.Second), restarted.now(), "it goes on where the snapshot was taken")
	})
}

// The same as the workers see it: a quota of an hour ago that never refills
// would be lost for as long as the cluster had been up.
func TestQuotaRefillsAfterARestartFromASnapshot(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, c *fleet) {
		cfg := c.config(1)
		cfg.Dir = dir
		lease := func(n *Node, seq uint64) {
			l, err := n.Lease(t.Context(), bucket.Ask{
				Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: seq}, Limits: choked.MustLimits("10/s", ""),
				Need: choked.Cost{Requests: 10}, Want: choked.Cost{Requests: 10}, MaxWait: 10 * time.Second,
			})
			require.NoError(t, err)
			require.True(t, l.OK, "refused for %v", l.RetryAfter)
		}
		n := c.start(cfg)
		time.Sleep(time.Hour)
		lease(n, 1)
		require.NoError(t, n.raft.Snapshot().Error())
		c.crash(n)
		cfg.network = c.net.Host(ip(1))
		n = c.start(cfg)
		time.Sleep(5 * time.Second)
		lease(n, 2)
	})
}
