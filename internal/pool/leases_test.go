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
			Granted: bucket.Cost{Requests: rapid.Int64Range(0, 9).Draw(t, "requests"), Tokens: rapid.Int64Range(0, 99).Draw(t, "tokens")},
		}
		for _, u := range rapid.SliceOfN(rapid.SampledFrom([]bucket.Unit{bucket.Requests, bucket.Tokens}), 0, 3).Draw(t, "drips") {
			l.Drips = append(l.Drips, bucket.Drip{
				Unit: u, Ready: time.Duration(rapid.Int64Range(1, 2e9).Draw(t, "ready")),
				N: rapid.Int64Range(1, 99).Draw(t, "n"), Per: time.Duration(rapid.Int64Range(1, 1e9).Draw(t, "per")),
			})
		}
		h.add(l, now, now)
		cost := bucket.Cost{Requests: rapid.Int64Range(0, 9).Draw(t, "cost"), Tokens: rapid.Int64Range(0, 99).Draw(t, "cost")}
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
