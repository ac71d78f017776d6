package cluster

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/fsm"
	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/ledger"
	"github.com/choked/choked/internal/waitqueue"
)

// spin lets a millisecond pass on the clock, in which another goroutine is to reach a
// lock. Otherwise the test passes without having tested anything.
func spin(clock *boottime.Clock) {
	for from := clock.Now(); clock.Since(from) < time.Millisecond; {
	}
}

// The leader's queue is blocked while an ask arrives. If the ask counted from before it
// was made, its lease would expire here earlier than at its holder.
func TestAsksCountFromAfterTheyWereMade(t *testing.T) {
	r := newReplica(boottime.New())
	a := newLeaderQueue(nil, r)
	begun, accepted := make(chan struct{}), make(chan int64)
	a.mu.Lock()
	go func() {
		close(begun)
		accepted <- a.accept()
	}()
	<-begun
	spin(r.clock)
	made := r.now()
	a.inbox = append(a.inbox, message{submit, &request{op: new(bucket.Ask)}, func(waitqueue.Answer) {}})
	a.mu.Unlock()
	assert.GreaterOrEqual(t, <-accepted, made, "it counts from after it was made")
}

// A node becomes leader just after a caller has seen that it does not lead. The caller
// learns of it.
func TestCallerLearnsThatItsOwnNodeLeads(t *testing.T) {
	var here atomic.Pointer[leaderQueue]
	r := &router{ctx: t.Context(), clock: boottime.New(), queue: &here, changed: make(chan struct{}), searching: true, unavailable: func() error { return nil }, health: func() error { return nil }}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	begun, found := make(chan struct{}), make(chan error)
	r.mu.Lock()
	go func() {
		close(begun)
		_, err := r.leader(ctx, r.clock.Now()+int64(time.Hour))
		found <- err
	}()
	<-begun
	spin(r.clock)
	here.Store(newLeaderQueue(nil, nil))
	close(r.changed) // as reroute does
	r.changed = make(chan struct{})
	r.mu.Unlock()
	require.NoError(t, <-found)
}

// A refusal is in no log entry. Its time is that of an entry all the same, which no later
// leader falls behind.
func TestTimeOfARefusalIsInTheLog(t *testing.T) {
	limits, err := bucket.ParseLimits("requests 1/h")
	require.NoError(t, err)
	ask := func(seq uint64) *bucket.Ask {
		one := bucket.Cost{Requests: 1}
		return &bucket.Ask{Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: seq}, Limits: limits, Need: one, Want: one}
	}
	r := newReplica(boottime.New())
	a := newLeaderQueue(nil, r)
	entry := fsm.Entry{At: r.now(), Ops: []ledger.Op{ask(1)}}
	r.Apply(&raft.Log{Index: 1, Term: 1, Data: entry.Encode()})
	spin(r.clock)
	answers := make(chan waitqueue.Answer, 1)
	a.submit(ask(2), func(answer waitqueue.Answer) { answers <- answer })
	a.decideAll(t, time.Minute)
	refused := (<-answers).Result
	require.NoError(t, refused.Err)
	require.False(t, refused.Grant.OK)
	assert.Equal(t, entry.At, refused.Grant.At)
}
