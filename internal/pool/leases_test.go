package pool

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/choked/choked/bucket"
)

// Quota of a lease may be spent from the instant that whenAvailable returns, and
// not the instant before.
func TestWhenAvailableIsTheFirstInstant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h leases
		now := rapid.Int64Range(0, 1e9).Draw(t, "now")
		l := bucket.Lease{
			OK: true, ValidFor: time.Duration(rapid.Int64Range(1, 3e9).Draw(t, "valid")),
			Granted: drawCost(t, "granted"),
		}
		for _, u := range rapid.SliceOfN(rapid.SampledFrom([]bucket.Unit{bucket.Requests, bucket.Tokens, bucket.Input, bucket.Output, bucket.Spend}), 0, 3).Draw(t, "drips") {
			l.Drips = append(l.Drips, bucket.Drip{
				Unit: u, Ready: time.Duration(rapid.Int64Range(1, 2e9).Draw(t, "ready")),
				N: rapid.Int64Range(1, 99).Draw(t, "n"), Per: time.Duration(rapid.Int64Range(1, 1e9).Draw(t, "per")),
			})
		}
		h.add(l, now, now)
		cost := drawCost(t, "cost")
		if !h.left.Covers(cost) {
			return
		}
		at := h.whenAvailable(now, cost)
		require.GreaterOrEqual(t, at, now)
		if end := h.held[0].expires; at == end && !cost.IsZero() { // it never becomes available
			require.False(t, h.available(end-1).Covers(cost))
			return
		}
		require.True(t, h.available(at).Covers(cost))
		require.True(t, at == now || !h.available(at-1).Covers(cost), "%d is spendable before %d", at-1, at)
	})
}

// drawCost returns a cost of a few units of which some are zero.
func drawCost(t *rapid.T, name string) (c bucket.Cost) {
	for u := range bucket.NumUnits {
		c = c.With(u, rapid.Int64Range(0, 9).Draw(t, name))
	}
	return c
}

// Spending in place and by parts leaves the same sums, whatever is spent of which lease.
func TestLeasesKeepTheirSums(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var h leases
		var granted, spent bucket.Cost
		for seq := range uint64(rapid.IntRange(1, 3).Draw(t, "leases")) {
			l := bucket.Lease{ID: bucket.LeaseID{Seq: seq + 1}, Granted: drawCost(t, "granted"), ValidFor: time.Hour}
			h.add(l, 0, 0)
			granted = granted.Add(l.Granted)
		}
		for range rapid.IntRange(0, 9).Draw(t, "steps") {
			c := drawCost(t, "cost")
			lease, ok := h.spend(1, &c)
			require.Equal(t, granted.Sub(spent).Covers(c), ok)
			if !ok {
				continue
			}
			spent = spent.Add(c)
			if lease > 0 && rapid.Bool().Draw(t, "refund") {
				part, held := h.unspend(bucket.LeaseID{Seq: lease}, c)
				require.True(t, held)
				require.Equal(t, c, part)
				spent = spent.Sub(c)
			}
		}
		require.Equal(t, granted.Sub(spent), h.left)
		var settled bucket.Cost
		for _, s := range h.close("k", nil, func(*heldLease) bool { return true }) {
			settled = settled.Add(s.Spent)
		}
		require.Equal(t, spent, settled)
		require.True(t, h.left.IsZero())
	})
}
