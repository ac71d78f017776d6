package cluster

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"math"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// A lease whose grant and whose cancel cross each other on the network is returned.
func TestCancelThatCrossesTheGrant(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		leader := c.leader()
		client := nodes[0]
		if client == leader {
			client = nodes[1]
		}
		ask := bucket.Ask{
			Key: "k", ID: bucket.LeaseID{Holder: 7, Seq: 1}, Limits: choked.MustLimits("requests 1000/h"),
			Need: choked.Cost{Requests: 1}, Want: choked.Cost{Requests: 1},
		}
		c.net.Faults(20*time.Millisecond, 0, 0)
		for seq := uint64(2); seq < 12; seq++ {
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Duration(40+seq*8)*time.Millisecond, cancel)
			ask.ID.Seq, ask.Need.Requests, ask.Want.Requests = seq, 10, 10
			ask.MaxWait = time.Second
			l, err := client.Lease(ctx, ask)
			if err == nil && l.OK {
				require.NoError(t, client.Settle(t.Context(), []bucket.Settlement{{Key: "k", ID: ask.ID}}))
			}
			cancel()
			time.Sleep(500 * time.Millisecond) // a lease lives for two seconds
			var leased choked.Cost
			leader.replica.View(func(t *ledger.Table) {
				if b := t.Get("k"); b != nil {
					leased = b.Leased(t.Now())
				}
			})
			assert.Zero(t, leased, "still leased, cancelled after %d ms", 40+seq*8)
		}
	})
}

// A caller gives up after its leader was cut off from it, and cannot know whether its
// ask was granted. The lease is returned as soon as the leader can be reached.
func TestUnansweredLeaseIsReturned(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		leader := c.leader()
		client := nodes[0]
		if client == leader {
			client = nodes[1]
		}
		leased := func() (sum choked.Cost) {
			leader.replica.View(func(t *ledger.Table) {
				if b := t.Get("k"); b != nil {
					sum = b.Leased(leader.replica.now())
				}
			})
			return sum
		}
		hosts := func(n *Node) []string { return []string{host(n)} }
		ask := oneRequest("k", 1)
		ask.Limits, ask.MaxWait = choked.MustLimits("requests 1/s"), time.Minute
		l, err := client.Lease(t.Context(), ask)
		require.NoError(t, err)
		require.NoError(t, client.Settle(t.Context(), []bucket.Settlement{{Key: "k", ID: l.ID, Spent: l.Granted}}))
		ask.ID.Seq++ // its quota is promised, so that its lease lives for three seconds
		c.net.Faults(20*time.Millisecond, 0, 0)

		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 1300*time.Millisecond)
		defer cancel()
		time.AfterFunc(30*time.Millisecond, func() { c.net.Split(hosts(leader), hosts(client)) }) // after the ask has arrived, before the answer does
		_, err = client.Lease(ctx, ask)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 1300*time.Millisecond, time.Since(began))
		require.Same(t, leader, c.leader(), "it leads with the vote of the third node")
		require.Equal(t, choked.Cost{Requests: 1}, leased())

		c.net.Join(hosts(leader), hosts(client))
		time.Sleep(time.Second)
		assert.Less(t, time.Since(began), bucket.TTL+800*time.Millisecond, "it has not expired")
		assert.Zero(t, leased())
		assert.Empty(t, client.returnSlots)
	})
}

// A caller gives up while its lease is on the way, and the leader transfers leadership
// before the cancel arrives. The lease is returned.
func TestLeaseCancelledDuringATransferIsReturned(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		c.startThree()
		client := c.start(c.config(4))
		c.await("a cluster", func() bool { return client.Health() == nil })
		_, err := client.Lease(t.Context(), oneRequest("another", 1)) // opens a connection
		require.NoError(t, err)
		old := c.leader()
		c.net.Faults(20*time.Millisecond, 0, 0)

		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 70*time.Millisecond)
		defer cancel()
		left := make(chan struct{})
		time.AfterFunc(65*time.Millisecond, func() { // granted after 60
			defer close(left)
			assert.NoError(t, old.Close())
		})
		_, err = client.Lease(ctx, oneRequest("k", 1))
		require.ErrorIs(t, err, context.DeadlineExceeded)
		<-left
		delete(c.nodes, old.Addr())
		leases := func() (n int) {
			for _, b := range c.leader().Buckets() {
				if b.Key == "k" {
					n = b.Leases
				}
			}
			return n
		}
		c.await("another leader", func() bool { return c.leader() != nil })
		c.await("the lease is returned", func() bool { return leases() == 0 })
		assert.Less(t, time.Since(began), bucket.TTL, "it has not expired")
	})
}

// The number of leases that are being returned is bounded, and so is the time it takes.
func TestReturnsAreBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		client := nodes[0]
		for _, n := range nodes[1:] {
			c.crash(n)
		}
		time.Sleep(10 * time.Second)
		for seq := range uint64(2 * maxReturns) {
			ask := oneRequest("k", seq)
			client.returnLease(unanswered{ask: &ask})
		}
		assert.Len(t, client.returnSlots, maxReturns)
		time.Sleep(bucket.TTL)
		synctest.Wait()
		assert.Empty(t, client.returnSlots)
		for seq := range uint64(maxReturns) {
			ask := oneRequest("k", seq)
			client.returnLease(unanswered{ask: &ask})
		}
		delete(c.nodes, client.Addr())
		assert.NoError(t, client.Close(), "Close ends them")
		assert.Empty(t, client.returnSlots)
		client.returnLease(unanswered{ask: &bucket.Ask{}})
		assert.Empty(t, client.returnSlots)
	})
}

// The largest valid ask fits into a frame.
func TestLargestAskFitsIntoAFrame(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		nodes := c.startThree()
		client := nodes[0]
		if client == c.leader() {
			client = nodes[1]
		}
		ask := oneRequest(strings.Repeat("k", bucket.MaxKey), 1)
		ask.Done = slices.Repeat([]bucket.Settlement{{
			Key: ask.Key, ID: bucket.LeaseID{Holder: math.MaxUint64, Seq: math.MaxUint64}, Spent: choked.Cost{Requests: bucket.MaxUnits, Tokens: bucket.MaxUnits},
		}}, 1024)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		l, err := client.Lease(ctx, ask)
		require.NoError(t, err)
		assert.True(t, l.OK)
		ask.Done = append(ask.Done, ask.Done[0])
		_, err = client.Lease(ctx, ask)
		assert.ErrorContains(t, err, "1025 settlements with an ask: want at most 1024")
	})
}

// A client that waits for long repeats its ask with the same id. Each repetition takes the
// place of the one before, for which the connection keeps no memory.
func TestRepeatedAsksKeepNoMemory(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		cfg := c.config(1)
		cfg.Join = nil
		n := c.start(cfg)
		c.await("it leads", func() bool { return c.leader() != nil })
		ask := oneRequest("k", 1)
		ask.Need.Requests, ask.Want.Requests, ask.MaxWait = 10, 10, time.Hour
		_, err := n.Lease(t.Context(), ask) // the whole burst
		require.NoError(t, err)

		client, conn := net.Pipe()
		s := newRPCServerConn(conn, n.queue.Load(), "member")
		var both sync.WaitGroup
		both.Go(func() { s.serve(n.server.answer) })
		both.Go(func() { io.Copy(io.Discard, client) })
		inUse := func() int64 {
			synctest.Wait()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return int64(m.HeapAlloc)
		}
		before := inUse()
		const times = 5000
		ask.ID.Seq++
		w := bufio.NewWriter(client)
		for i := range uint64(times) {
			require.NoError(t, writeFrame(w, frameOps, ledger.AppendOp(binary.AppendUvarint(nil, i), &ask)))
			require.NoError(t, w.Flush())
			synctest.Wait()
		}
		assert.Less(t, inUse()-before, int64(100*times), "bytes")
		require.NoError(t, client.Close())
		both.Wait()
	})
}

// A member gives up a silent connection and repeats its ask on a new one. It has settled
// the lease when the ask that it had sent first arrives, as a lost packet is sent again a
// second later. That ask leases nothing. Streams of other members, and streams that were
// not used, do not matter.
func TestLateAskOnAnOldStreamLeasesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		cfg := c.config(1)
		cfg.Join = nil
		n := c.start(cfg)
		c.await("it leads", func() bool { return c.leader() != nil })
		a := n.queue.Load()
		var all sync.WaitGroup
		var clients []net.Conn
		leave := func() {
			for _, client := range clients {
				client.Close()
			}
			all.Wait()
		}
		defer leave()
		stream := func(member string) net.Conn {
			client, conn := net.Pipe()
			clients = append(clients, client)
			s := newRPCServerConn(conn, a, member)
			all.Go(func() {
				s.serve(n.server.answer)
				conn.Close()
			})
			all.Go(func() { io.Copy(io.Discard, client) })
			return client
		}
		say := func(client net.Conn, op ledger.Op) {
			w := bufio.NewWriter(client)
			require.NoError(t, writeFrame(w, frameOps, ledger.AppendOp(binary.AppendUvarint(nil, 1), op)))
			require.NoError(t, w.Flush())
			synctest.Wait()
		}
		leased := func() (sum choked.Cost) {
			n.replica.View(func(t *ledger.Table) { sum = t.Get("k").Leased(t.Now()) })
			return sum
		}
		ends := func(client net.Conn) bool {
			synctest.Wait()
			_, err := client.Write([]byte{0})
			return err != nil
		}
		ask := oneRequest("k", 1)

		old, used := stream("a"), stream("a")
		stream("a") // which is never used
		other := stream("b")
		say(used, &ask)
		require.Equal(t, ask.Need, leased())
		say(used, &bucket.Settlement{Key: "k", ID: ask.ID, Spent: ask.Need})
		require.Zero(t, leased())

		say(old, &ask)
		assert.Zero(t, leased(), "the late ask leases nothing")
		assert.True(t, ends(old), "the old stream is closed")

		ask.ID.Seq++
		say(used, &ask)
		assert.Equal(t, ask.Need, leased(), "on the newest stream that was used")
		ask.ID.Holder++
		say(other, &ask)
		assert.Equal(t, ask.Need.Add(ask.Need), leased(), "on a stream of another member")

		leave()
		assert.Empty(t, a.members, "members without a stream are forgotten")
	})
}
