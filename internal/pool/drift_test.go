package pool

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/local"
)

// drifting returns a clock that is fast by so many thousandths, or slow if they are
// negative.
func drifting(thousandths int64) *boottime.Clock {
	return boottime.Distorted(func(ns int64) int64 { return ns + ns*thousandths/1000 })
}

// overAtOnce returns by how many units a burst can be exceeded at one instant, when
// all clocks are wrong by so many thousandths, each in the worst direction. The
// store's clock is fast: it expires a lease of the whole burst too early, and the
// bucket refills. The holder's clock is slow: it spends the lease at the last
// instant. Another holder, whose clock is fast, spends what was refilled meanwhile.
func overAtOnce(t *testing.T, limits bucket.Limits, thousandths int64) int64 {
	t.Helper()
	store := local.NewAt(drifting(thousandths))
	slow, fast := drifting(-thousandths), drifting(thousandths)
	all := limits.Limited(limits.Burst())

	var late, other leases
	take := func(h *leases, clock *boottime.Clock, holder uint64, need bucket.Cost) {
		sent := clock.Now()
		l, err := store.Lease(context.Background(), bucket.Ask{
			Key: "a", ID: bucket.LeaseID{Holder: holder, Seq: 1}, Limits: limits, Need: need, Want: all,
		})
		require.NoError(t, err)
		if l.OK {
			h.add(l, sent, clock.Now())
		}
	}
	take(&late, slow, 1, all)
	for { // asleep by one clock, it may be too early by another
		left := late.held[0].expires - 1 - slow.Now()
		if left <= 0 {
			break
		}
		time.Sleep(time.Duration(left))
	}
	take(&other, fast, 2, bucket.Cost{})
	spent := late.available(slow.Now()).Add(other.available(fast.Now()))
	require.NotZero(t, late.available(slow.Now()), "it may still be spent")
	return spent.Requests - all.Requests
}

// The margin of a lease covers clocks that are wrong by at most bucket.Drift. It is
// no wider than that: with clocks a thousandth worse the bound is exceeded.
func TestTheDriftThatBreaksTheBound(t *testing.T) {
	limits, err := bucket.ParseLimits("requests 10000/s")
	require.NoError(t, err)
	var first int64
	for thousandths := int64(0); first == 0; thousandths++ {
		synctest.Test(t, func(t *testing.T) {
			over := overAtOnce(t, limits, thousandths)
			if float64(thousandths)/1000 <= bucket.Drift {
				assert.LessOrEqual(t, over, int64(0), "units over the burst, when clocks are wrong by %d thousandths", thousandths)
			} else if over > 0 {
				first = thousandths
				t.Logf("figures: clocks that are wrong by %.1f%% let %d of %d units too many through", float64(thousandths)/10, over, limits.Burst().Requests)
			}
		})
		if t.Failed() || thousandths > 100 {
			break
		}
	}
	assert.Equal(t, int64(11), first, "thousandths by which clocks are wrong when the bound is first broken")
}

// By a slow clock a lease lives longer than by the store's, which refills what has
// expired. A process that was stopped, and so has returned nothing, must not spend
// the lease then.
func TestALeaseThatExpiredAtTheStoreIsNotSpent(t *testing.T) {
	limits, err := bucket.ParseLimits("requests 1000/s burst 100")
	require.NoError(t, err)
	synctest.Test(t, func(t *testing.T) {
		store := local.New()
		slow := boottime.Distorted(func(ns int64) int64 { return ns - ns*99/10000 })
		lease := func(holder uint64, n int64) (bucket.Lease, int64) {
			sent := slow.Now()
			l, err := store.Lease(t.Context(), bucket.Ask{
				Key: "k", ID: bucket.LeaseID{Holder: holder, Seq: 1}, Limits: limits,
				Need: bucket.Cost{Requests: n}, Want: bucket.Cost{Requests: n},
			})
			require.NoError(t, err)
			require.True(t, l.OK)
			return l, sent
		}
		var h leases
		l, sent := lease(1, 100)
		h.add(l, sent, slow.Now())
		time.Sleep(bucket.TTL + 10*time.Millisecond) // it was stopped
		lease(2, 10)
		_, ok := h.spend(slow.Now(), &bucket.Cost{Requests: 100})
		assert.False(t, ok, "110 requests at once are over a burst of 100")
		require.NoError(t, store.Close())
	})
}
