package bucket

import (
	"testing"
	"time"
)

// Where a unit takes no whole number of nanoseconds, rounding is never in the
// holder's favour, and at the most a few nanoseconds against it: every way to
// lease, settle and charge under some awkward rates.
func TestRoundingFavoursTheLimit(t *testing.T) {
	seen := 0
	for _, n := range []int64{3, 7, 11} {
		for burst := int64(1); burst <= 12; burst++ {
			r := Rate{n, time.Second, burst}
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
		t.Error("nothing was ever promised")
	}
}

// promised leases, settles and charges at one instant, and checks when what is
// then needed is ripe. It returns how many promises it saw.
func promised(t *testing.T, r Rate, leased, spent, charged, need int64) int {
	b := New(&Limits{Requests: Rates{r}}, 1)
	id := LeaseID{1, 1}
	if g, err := b.Lease(0, &Ask{ID: id, Need: Cost{leased, 0}}); err != nil || !g.OK {
		t.Fatalf("%v: %d of a full bucket: %+v, %v", r, leased, g, err)
	}
	b.Settle(0, id, Cost{spent, 0})
	b.Adjust(0, &Adjustment{Charge: Cost{charged, 0}})
	g, err := b.Lease(0, &Ask{ID: LeaseID{1, 2}, Need: Cost{need, 0}})
	if err != nil {
		t.Fatalf("%v: %d: %v", r, need, err)
	}
	over := spent + charged + need - r.Burst // promised from the future
	if !g.OK || over <= 0 {
		return 0
	}
	var ready time.Duration
	if len(g.Drips) > 0 {
		ready = g.Drips[0].Ready
	}
	// ready ≥ over·Per/N, and no more than 4ns later, in whole numbers.
	if late := int64(ready)*r.N - over*int64(r.Per); late < 0 || late > 4*r.N {
		t.Fatalf("%v: leased %d, spent %d, charged %d, then %d: ready in %dns, %d/%d ns from when it is there",
			r, leased, spent, charged, need, ready, late, r.N)
	}
	return 1
}
