package cluster

import (
	"bufio"
	"context"
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
	"github.com/choked/choked/internal/waitqueue"
)

// Answers arrive in any order, also after their asks were given up. A grant that is taken
// for that of a later ask would be valid for too long.
func TestAnswersAreMatchedToTheirAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		l := newRPCClient(here, "leader")
		go l.run(bufio.NewReader(here))
		leader := newRPCServerConn(there, nil, "member")
		done := make(chan struct{})
		go leader.write(done)
		seqs := make(map[string]uint64) // as sent, by key
		go func() {
			r := bufio.NewReader(there)
			for buf := []byte(nil); ; {
				kind, body, err := readFrame(r, &buf)
				if err != nil {
					return
				}
				for kind == frameOps && len(body) > 0 {
					n, op, _ := parseSeq(body)
					var ask ledger.Op
					ask, body, _ = ledger.ParseOp(op)
					seqs[ask.(*bucket.Ask).Key] = n
				}
			}
		}()
		granted := make(map[string]int64)
		for i, key := range []string{"a", "b", "c", "d"} {
			go func() {
				a, err := l.do(t.Context(), &bucket.Ask{Key: key, Need: bucket.Cost{Requests: int64(i)}})
				assert.NoError(t, err)
				granted[key] = a.Grant.Granted.Requests
			}()
			synctest.Wait()
		}
		answer := func(key string, n int64) {
			leader.answer(seqs[key], waitqueue.Answer{Result: ledger.Result{Grant: bucket.Grant{OK: true, Granted: bucket.Cost{Requests: n}}}})
			synctest.Wait()
		}
		answer("c", 3)
		leader.send(frameAnswers, append(binary.AppendUvarint(nil, 77), fateNotLeader)) // of an ask that was given up
		answer("a", 1)
		answer("d", 4)
		answer("b", 2)
		require.Equal(t, map[string]int64{"a": 1, "b": 2, "c": 3, "d": 4}, granted, "each has the grant that it asked for")
		close(done)
		here.Close()
		there.Close()
	})
}

// Quota that is returned twice would be granted twice. So an adjustment is sent only
// once, also if the leader does not answer for long, as when its disk hangs: it may still
// be applied.
func TestAdjustmentIsSentOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		a := c.start(c.config(1))
		c.await("a leader", func() bool { return a.queue.Load() != nil })
		hangs := newLeaderQueue(a.raft.current(), a.replica)
		leads := a.queue.Swap(hangs)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		one := bucket.Adjustment{Key: "k", Limits: choked.MustLimits("requests 1/s"), Return: choked.Cost{Requests: 1}}
		assert.ErrorIs(t, a.Adjust(ctx, one), errUnclear)
		assert.Len(t, hangs.receive(), 1)
		a.queue.Store(leads)
		require.NoError(t, a.Adjust(ctx, one))
	})
}

// An attempt on a lost connection may reach the leader after the attempt that replaced it.
// The caller, which waits for the later one, gets no error: the ask is repeated.
func TestLateEarlierAttemptIsNoError(t *testing.T) {
	inBubble(t, func(t *testing.T, c *fleet) {
		a := c.start(c.config(1))
		c.await("a leader", func() bool { return a.queue.Load() != nil })
		limits := choked.MustLimits("requests 1/s")
		ask := bucket.Ask{Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: 1}, Limits: limits, Need: choked.Cost{Requests: 1}, MaxWait: time.Minute}
		first, err := a.Lease(t.Context(), ask)
		require.NoError(t, err)
		require.NoError(t, a.Settle(t.Context(), []bucket.Settlement{{Key: "k", ID: first.ID, Spent: ask.Need}}))
		require.NoError(t, a.Adjust(t.Context(), bucket.Adjustment{Key: "k", Limits: limits, Charge: choked.Cost{Requests: 5}}))

		ask.ID.Seq = 2
		var lease choked.Lease
		var waited sync.WaitGroup
		waited.Go(func() { lease, err = a.Lease(t.Context(), ask) })
		synctest.Wait()
		late := ask
		a.queue.Load().submit(&late, func(waitqueue.Answer) {})
		waited.Wait()
		require.NoError(t, err)
		require.True(t, lease.OK)
	})
}
