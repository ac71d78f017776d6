package choked

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
)

// drifting is a clock that is fast by so many thousandths, or slow.
func drifting(thousandths int64) *boottime.Clock {
	return boottime.Distorted(func(ns int64) int64 { return ns + ns*thousandths/1000 })
}

// overAtOnce is by how many units a burst can be exceeded at one instant, when
// all clocks are wrong by so many thousandths, each in the worst direction. The
// store's is fast: it takes a lease of the whole burst for lost too early, and the
// bucket refills. The holder's is slow: it spends the lease at the last instant.
// Another one spends what has come meanwhile, and sees it ripen early.
func overAtOnce(t *testing.T, limits Limits, thousandths int64) int64 {
	t.Helper()
	store := NewLocal()
	store.clock = drifting(thousandths)
	slow, fast := drifting(-thousandths), drifting(thousandths)
	all := limits.Limited(limits.Burst())

	var late, other hand
	take := func(h *hand, clock *boottime.Clock, holder uint64, need Cost) {
		sent := clock.Now()
		l, err := store.Lease(context.Background(), Ask{
			Key: "a", ID: bucket.LeaseID{Holder: holder, Seq: 1}, Limits: limits, Need: need, Want: all,
		})
		require.NoError(t, err)
		if l.OK {
			h.add(l, sent, clock.Now())
		}
	}
	take(&late, slow, 1, all)
	for { // asleep by one clock, it may be too early by another
		left := late.leases[0].expires - 1 - slow.Now()
		if left <= 0 {
			break
		}
		time.Sleep(time.Duration(left))
	}
	take(&other, fast, 2, Cost{})
	spent := late.usable(slow.Now()).Add(other.usable(fast.Now()))
	require.NotZero(t, late.usable(slow.Now()), "it may still be spent")
	return spent.Requests - all.Requests
}

// The margin of a lease is for clocks that are wrong by less than bucket.Drift. It
// is no wider than that: soon after, the promise breaks.
func TestTheDriftThatBreaksTheBound(t *testing.T) {
	limits := MustLimits("10000/s", "")
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
