package cluster

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
)

// calls has each of a node's operations, for the key "chat".
var calls = map[string]func(ctx context.Context, n *Node) error{
	"lease": func(ctx context.Context, n *Node) error {
		_, err := n.Lease(ctx, oneRequest("chat", 1))
		return err
	},
	"settle": func(ctx context.Context, n *Node) error {
		return n.Settle(ctx, []bucket.Settlement{{Key: "chat", ID: bucket.LeaseID{Holder: 9, Seq: 1}}})
	},
	"adjust": func(ctx context.Context, n *Node) error {
		return n.Adjust(ctx, bucket.Adjustment{Key: "chat", Limits: choked.MustLimits("requests 10/h"), Charge: choked.Cost{Requests: 1}})
	},
}

// The error of an operation without a decision tells a caller whether to retry, and
// names the cause. It is bucket.ErrUnavailable only if the operation was not applied.
func TestErrorsOfOperations(t *testing.T) {
	// follower starts three nodes. It returns a follower with a connection to the
	// leader, the leader, and the other follower.
	follower := func(t *testing.T, c *fleet) (node, leader, third *Node) {
		nodes := c.startThree()
		leader = c.leader()
		others := besides(leader, nodes)
		_, err := others[0].Lease(t.Context(), oneRequest("other", 1))
		require.NoError(t, err)
		return others[0], leader, others[1]
	}
	type want struct {
		err  error
		says string
	}
	lunch := errors.New("lunch")
	for _, tt := range []struct {
		name   string
		fails  func(t *testing.T, c *fleet) (context.Context, *Node) // returns with what to call whom
		want   want
		adjust want // if it differs for an adjustment
	}{
		{
			name: "no cluster",
			fails: func(t *testing.T, c *fleet) (context.Context, *Node) {
				c.seeds = []string{ip(9) + ":7946"}
				return t.Context(), c.start(c.config(1))
			},
			want: want{bucket.ErrNoQuorum, "store unavailable: no quorum: no cluster found yet"},
		},
		{
			name: "follower cut off from the others",
			fails: func(t *testing.T, c *fleet) (context.Context, *Node) {
				node, leader, third := follower(t, c)
				c.net.Split([]string{host(node)}, []string{host(leader), host(third)})
				_, err := node.Lease(t.Context(), oneRequest("other", 2)) // notices that the connection is dead
				require.Error(t, err)
				return t.Context(), node
			},
			want: want{bucket.ErrNoQuorum, "store unavailable: no quorum: "},
		},
		{
			name: "leader cut off from the others",
			fails: func(t *testing.T, c *fleet) (context.Context, *Node) {
				node, leader, third := follower(t, c)
				c.net.Split([]string{host(leader)}, []string{host(node), host(third)})
				time.Sleep(10 * time.Second)
				return t.Context(), leader
			},
			want: want{bucket.ErrNoQuorum, "store unavailable: no quorum: "},
		},
		{
			name: "leader lost before it answers",
			fails: func(t *testing.T, c *fleet) (context.Context, *Node) {
				node, leader, third := follower(t, c)
				c.net.Faults(20*time.Millisecond, 0, 0)
				time.AfterFunc(10*time.Millisecond, func() {
					c.net.Split([]string{host(node)}, []string{host(leader), host(third)})
				})
				return t.Context(), node
			},
			want:   want{bucket.ErrNoQuorum, "store unavailable: no quorum: "},
			adjust: want{errUnclear, "lost: silent for "},
		},
		{
			name: "deadline of the caller",
			fails: func(t *testing.T, c *fleet) (context.Context, *Node) {
				node, leader, _ := follower(t, c)
				c.net.Split([]string{host(node)}, []string{host(leader)})
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				t.Cleanup(cancel)
				return ctx, node
			},
			want: want{context.DeadlineExceeded, "context deadline exceeded"},
		},
		{
			name: "caller gave up before",
			fails: func(t *testing.T, c *fleet) (context.Context, *Node) {
				node, _, _ := follower(t, c)
				ctx, cancel := context.WithCancelCause(t.Context())
				cancel(lunch)
				return ctx, node
			},
			want: want{lunch, "lunch"},
		},
		{
			name: "node closed",
			fails: func(t *testing.T, c *fleet) (context.Context, *Node) {
				node, _, _ := follower(t, c)
				c.leave(node)
				return t.Context(), node
			},
			want: want{bucket.ErrClosed, "closed"},
		},
	} {
		for name, call := range calls {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				inBubble(t, func(t *testing.T, c *fleet) {
					want := tt.want
					if name == "adjust" && tt.adjust.err != nil {
						want = tt.adjust
					}
					ctx, node := tt.fails(t, c)
					err := call(ctx, node)
					require.ErrorIs(t, err, want.err)
					assert.ErrorContains(t, err, want.says)
					assert.Equal(t, want.err == bucket.ErrNoQuorum, errors.Is(err, bucket.ErrUnavailable), "is ErrUnavailable: %v", err)
					assert.NotContains(t, err.Error(), "choked:", "the caller adds that")
					keys := 0 // the caller names the key
					if name == "settle" {
						keys = 1 // which of many settlements failed, the caller does not know
					}
					assert.Equal(t, keys, strings.Count(err.Error(), "chat"), "keys in %q", err)
				})
			})
		}
	}
}
