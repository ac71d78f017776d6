package bucket

import (
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Where a unit does not take a whole number of nanoseconds, rounding never favours the
// holder and costs it at most a few nanoseconds: all ways to lease, settle and charge
// under some such rates.
func TestRoundingFavoursTheLimit(t *testing.T) {
	seen := 0
	for _, n := range []int64{3, 7, 11} {
		for burst := int64(1); burst <= 12; burst++ {
			r := Rate{N: n, Per: time.Second, Burst: burst}
			for leased := int64(1); leased <= burst; leased++ {
				for spent := int64(0); spent <= leased; spent++ {
					for charged := int64(0); charged <= 4; charged++ {
						for need := int64(1); need <= burst; need++ {
							seen += promised(t, r, leased, spent, charged, need)
						}
					}
				}
			}
		}
	}
	if seen == 0 {
		t.Error("no lease was promised ahead")
	}
}

// promised leases, settles and charges at one instant, and checks when need units are
// available then. It returns the number of promises: 0 or 1.
func promised(t *testing.T, r Rate, leased, spent, charged, need int64) int {
	b := New(&Limits{Requests: Rates{r}}, 1)
	id := LeaseID{1, 1}
	if g, err := b.Lease(0, &Ask{ID: id, Need: Cost{Requests: leased, Tokens: 0}}); err != nil || !g.OK {
		t.Fatalf("%v: %d of a full bucket: %+v, %v", r, leased, g, err)
	}
	b.Settle(0, id, Cost{Requests: spent, Tokens: 0})
	b.Adjust(0, &Adjustment{Charge: Cost{Requests: charged, Tokens: 0}})
	g, err := b.Lease(0, &Ask{ID: LeaseID{1, 2}, Need: Cost{Requests: need, Tokens: 0}})
	if err != nil {
		t.Fatalf("%v: %d: %v", r, need, err)
	}
	over := spent + charged + need - r.Burst // units promised ahead
	if !g.OK || over <= 0 {
		return 0
	}
	var ready time.Duration
	if len(g.Drips) > 0 {
		ready = g.Drips[0].Ready
	}
	// ready ≥ over·Per/N, and less than 4ns later: the lease, its settlement, the
	// charge and the promise round once each.
	if late := int64(ready)*r.N - over*int64(r.Per); late < 0 || late >= 4*r.N {
		t.Fatalf("%v: leased %d, spent %d, charged %d, then %d: ready in %dns, %d/%d ns late",
			r, leased, spent, charged, need, ready, late, r.N)
	}
	return 1
}

// A whole burst of a full bucket is available at once: rounding takes nothing from
// it, whatever the rate, and in whichever unit. The bucket is new, or was used, and
// its leases are settled.
func TestFullBucketGrantsAWholeBurstAtOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOps(anyLimits().Draw(t, "limits"))
		b := New(&o.limits, 1)
		for range rapid.IntRange(0, 10).Draw(t, "length") {
			o.apply(b, o.next(t, false))
		}
		for id := range o.grants {
			b.Settle(o.now, id, o.grants[id])
		}
		for _, tat := range b.tats {
			o.now = max(o.now, tat)
		}
		if o.now >= MaxInstant {
			t.Skip("the bucket is never full again")
		}
		all := o.limits.Limited(o.limits.Burst())
		if d := b.Refill(o.now, all, false); d != 0 {
			t.Fatalf("%v: Refill of a whole burst of a full bucket is %v, want 0", o.limits, d)
		}
		g, err := b.Lease(o.now, &Ask{ID: LeaseID{2, 1}, Need: all})
		if err != nil || !g.OK || g.Granted != all || len(g.Drips) > 0 || g.TTL != TTL {
			t.Fatalf("%v: a whole burst of a full bucket: %+v, %v, want %v at once", o.limits, g, err, all)
		}
	})
}

// A bucket that lost its state, or was emptied, has no unit before the refill has
// brought it, to the nanosecond.
func TestEmptyBucketHasNoUnitEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limits := Limits{Requests: Rates{anyRate().Draw(t, "rate")}}
		r := limits.Requests[0]
		n := rapid.Int64Range(1, r.Burst).Draw(t, "n")
		emptied := New(&limits, 1)
		emptied.Adjust(0, &Adjustment{Empty: time.Second})
		for _, tt := range []struct {
			b  *Bucket
			at int64
		}{{NewEmpty(&limits, 1, int64(time.Second)), int64(time.Second)}, {emptied, int64(time.Second)}} {
			available := int64(tt.b.Refill(0, Cost{Requests: n, Tokens: 0}, false)) - tt.at
			// available ≥ n·Per/N, and less than 2ns later, in whole numbers.
			late := new(big.Rat).Sub(rat(available), mul(rat(n), refRate{Rate: r}.unitTime()))
			if late.Sign() < 0 || late.Cmp(rat(2)) >= 0 {
				t.Fatalf("%v: %d units of an empty bucket are available after %dns, %vns late", r, n, available, late.FloatString(3))
			}
		}
	})
}
