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
	"github.com/choked/choked/internal/ledger"
)

// clockLog returns a log entry with a time. It holds a settlement, since an entry
// without operations does not change the time of a table.
func clockLog(term uint64, at int64) *raft.Log {
	op := &bucket.Settlement{Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: 1}}
	return &raft.Log{Term: term, Data: (&fsm.Entry{At: at, Ops: []ledger.Op{op}}).Encode()}
}

// sink is a [raft.SnapshotSink] in memory.
type sink struct{ bytes.Buffer }

func (*sink) ID() string    { return "one" }
func (*sink) Cancel() error { return nil }
func (*sink) Close() error  { return nil }

// The time continues from a snapshot, even if no entry follows it in the log.
func TestTimeContinuesFromASnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old := newReplica(boottime.New())
		time.Sleep(time.Hour)
		old.lead(1)
		old.Apply(clockLog(1, old.now()))
		snapshot, err := old.Snapshot()
		require.NoError(t, err)
		var file sink
		require.NoError(t, snapshot.Persist(&file))

		restarted := newReplica(boottime.New())
		require.NoError(t, restarted.Restore(io.NopCloser(&file)))
		restarted.lead(2)
		time.Sleep(time.Second)
		assert.Equal(t, int64(time.Hour+time.Second), restarted.now(), "it continues from the time of the snapshot")
	})
}

// The same for workers: otherwise quota that was spent before the restart would refill only
// after as long as the cluster had been up.
func TestQuotaRefillsAfterARestartFromASnapshot(t *testing.T) {
	dir := t.TempDir()
	inBubble(t, func(t *testing.T, c *fleet) {
		cfg := c.config(1)
		cfg.Dir = dir
		lease := func(n *Node, seq uint64) {
			l, err := n.Lease(t.Context(), bucket.Ask{
				Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: seq}, Limits: choked.MustLimits("requests 10/s"),
				Need: choked.Cost{Requests: 10}, Want: choked.Cost{Requests: 10}, MaxWait: 10 * time.Second,
			})
			require.NoError(t, err)
			require.True(t, l.OK, "refused for %v", l.RetryAfter)
		}
		n := c.start(cfg)
		time.Sleep(time.Hour)
		lease(n, 1)
		require.NoError(t, n.raft.current().Snapshot().Error())
		c.crash(n)
		cfg.network = c.net.Host(ip(1))
		n = c.start(cfg)
		time.Sleep(5 * time.Second)
		lease(n, 2)
	})
}

// A leader that received the last entry late is a little behind. The next leader continues
// from there: if it made up the lost time at once, the window in which it does would have
// more than its refill.
func TestLostTimeStaysLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newReplica(boottime.New())
		first.lead(1)
		entry := clockLog(1, first.now())
		first.Apply(entry)
		time.Sleep(time.Minute)
		second := newReplica(boottime.New()) // restarted, without a newer entry
		second.Apply(entry)
		first.follow()
		second.lead(2)
		stamped := second.now()
		entry = clockLog(2, stamped)
		second.Apply(entry)
		first.Apply(entry)
		second.follow()
		first.lead(3)
		time.Sleep(time.Second)
		assert.Equal(t, time.Second, time.Duration(first.now()-stamped), "as much as has elapsed since")
	})
}

// The drift of two clocks is not made up at once either, when one takes over from the
// other.
func TestDriftDoesNotAddUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := boottime.Distorted(func(ns int64) int64 { return ns - ns/100 })
		fast := boottime.Distorted(func(ns int64) int64 { return ns + ns/100 })
		first, second := newReplica(slow), newReplica(fast)
		first.lead(1)
		second.Apply(clockLog(1, first.now())) // this one arrives at once, the later ones are delayed
		var last, stamped int64
		for range 400 {
			time.Sleep(90 * time.Millisecond)
			stamped, last = first.now(), slow.Now()
			entry := clockLog(1, stamped)
			time.Sleep(10 * time.Millisecond)
			second.Apply(entry)
		}
		second.lead(2)
		assert.LessOrEqual(t, float64(second.now()-stamped), 1.03*float64(slow.Now()-last))
	})
}

// Workers that wait for the founder have run for a while when it founds the cluster. The
// founder's time is that of the cluster, not theirs.
func TestClusterTimeBeginsWithTheFounder(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.seeds = []string{ip(1) + ":7946", ip(2) + ":7946", ip(3) + ":7946"}
		c.start(c.config(2))
		c.start(c.config(3))
		time.Sleep(time.Minute)
		founder := c.start(c.config(1))
		c.await("three voters", func() bool { return c.voters() == 3 })
		take := func(n *Node, seq uint64, want bool) {
			l, err := n.Lease(t.Context(), bucket.Ask{
				Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: seq}, Limits: choked.MustLimits("requests 60/m"),
				Need: choked.Cost{Requests: 60}, Want: choked.Cost{Requests: 60}, MaxWait: time.Second,
			})
			require.NoError(t, err)
			require.Equal(t, want, l.OK)
		}
		take(founder, 1, true)
		time.Sleep(time.Second)
		c.crash(founder)
		take(c.nodes[ip(2)+":7946"], 2, false)
	})
}

// The quota of a key for three minutes was spent, and nothing was decided since. A node that
// leads after three minutes grants it again, though it received the log just before.
func TestTimeContinuesWhileNothingIsDecided(t *testing.T) {
	const window = 3 * time.Minute
	const before = window - 10*time.Second // 50 s after the leader's last clock entry
	spend := func(t *testing.T, n *Node, seq uint64) {
		all := choked.Cost{Requests: 60}
		l, err := n.Lease(t.Context(), bucket.Ask{
			Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: seq}, Limits: choked.MustLimits("requests 60/3m"),
			Need: all, Want: all, MaxWait: time.Second,
		})
		require.NoError(t, err)
		require.True(t, l.OK, "refused for %v", l.RetryAfter)
	}
	leads := func(t *testing.T, c *fleet, begin time.Time, old *Node) {
		time.Sleep(time.Until(begin.Add(window - 2*time.Second)))
		require.Same(t, old, c.leader())
		c.crash(old)
		time.Sleep(10 * time.Second)
		spend(t, c.leader(), 2)
	}
	t.Run("member that joined meanwhile", func(t *testing.T) {
		inBubble(t, func(t *testing.T, c *fleet) {
			c.seeds = []string{ip(1) + ":7946"}
			first := c.start(c.config(1))
			spend(t, first, 1)
			begin := time.Now()
			time.Sleep(before)
			c.start(c.config(2))
			c.start(c.config(3))
			c.await("three voters", func() bool { return c.voters() == 3 })
			leads(t, c, begin, first)
		})
	})
	t.Run("voter that was killed and restarted", func(t *testing.T) {
		dirs := []string{t.TempDir(), t.TempDir(), t.TempDir()}
		inBubble(t, func(t *testing.T, c *fleet) {
			nodes := c.startThreeIn(dirs)
			old := c.leader()
			spend(t, old, 1)
			begin := time.Now()
			time.Sleep(before)
			for i, n := range nodes {
				if n != old {
					c.crash(n)
					c.startIn(1+i, dirs[i])
					time.Sleep(2 * time.Second)
				}
			}
			leads(t, c, begin, old)
		})
	})
	t.Run("only node, restarted: all but a minute", func(t *testing.T) {
		dir := t.TempDir()
		inBubble(t, func(t *testing.T, c *fleet) {
			n := c.startIn(1, dir)
			spend(t, n, 1)
			time.Sleep(window + time.Minute + 5*time.Second)
			c.crash(n)
			spend(t, c.startIn(1, dir), 2)
		})
	})
}

// The clock of an idle cluster costs one entry a minute.
func TestIdleClusterWritesOneEntryAMinute(t *testing.T) {
	tooSlowForRace(t)
	inBubble(t, func(t *testing.T, c *fleet) {
		c.startThree()
		time.Sleep(time.Minute)
		before := c.leader().raft.LastIndex()
		time.Sleep(10 * time.Minute)
		assert.Equal(t, uint64(10), c.leader().raft.LastIndex()-before)
	})
}
