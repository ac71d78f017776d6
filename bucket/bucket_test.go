package bucket

import (
	"slices"
	"testing"
	"time"
)

// The timelines use 10/s with a burst of 10: a unit takes 100ms, a promise reaches
// 250ms ahead, a lease is valid for 2s once all of it is available.

func TestSpentQuotaRefills(t *testing.T) {
	play(t, "10/s", "", []step{
		{0 * s, "level", "", 10, 0},           // a new bucket is full
		{0 * s, "lease a 4", "4", 6, 4},       // leased: no longer in the level
		{0 * s, "settle a 4", "closed", 6, 0}, // spent: gone
		{99 * ms, "level", "", 6, 0},          // whole units only
		{100 * ms, "level", "", 7, 0},         // one unit every 100ms
		{400 * ms, "level", "", 10, 0},        // full
		{9 * s, "level", "", 10, 0},           // and never more than full
		{9 * s, "lease b 10", "10", 0, 10},    // a burst at once
		{9 * s, "settle b 10", "closed", 0, 0},
		{9450 * ms, "level", "", 4, 0}, // four and a half: four
	})
}

func TestPromises(t *testing.T) {
	play(t, "10/s", "", []step{
		{0 * s, "lease a 10", "10", 0, 10},
		{0 * s, "settle a 10", "closed", 0, 0},
		{0 * s, "lease b 2", "2 ready in 200ms", -2, 2},       // ahead of the refill, within the horizon
		{0 * s, "lease c 1", "retry in 50ms", -2, 2},          // 300ms ahead is too far
		{50 * ms, "lease c 1", "1 ready in 250ms", -3, 3},     // and 250ms is not
		{150 * ms, "lease d 5", "retry in 400ms", -2, 3},      // 800ms of refill at 1s, less the horizon
		{550 * ms, "lease d 5", "5 ready in 250ms", -3, 8},    // not served in part before
		{550 * ms, "settle d 0", "closed", 2, 3},              // an unused promise is returned
		{550 * ms, "lease e 2..9", "5 ready in 250ms", -3, 8}, // as much of the want as the horizon allows
		{2 * s, "level", "", 2, 8},                            // promised units count as leased, available or not
	})
}

// A lease is valid for its TTL once all of it is available, however far ahead it
// was promised.
func TestPromisedLeaseLivesLonger(t *testing.T) {
	play(t, "10/s", "", []step{
		{0 * s, "lease a 10", "10", 0, 10},
		{0 * s, "settle a 10", "closed", 0, 0},
		{0 * s, "lease b 2", "2 ready in 200ms", -2, 2},
		{2200*ms - 1, "level", "", 8, 2}, // its last nanosecond
		{2200 * ms, "level", "", 8, 0},   // 2s after it was all available
	})
}

func TestRefusalSpendsNothing(t *testing.T) {
	play(t, "10/s", "100/s", []step{
		{0 * s, "lease a 1+100", "1+100", Cost{Requests: 9, Tokens: 0}, Cost{Requests: 1, Tokens: 100}},
		{0 * s, "settle a 1+100", "closed", Cost{Requests: 9, Tokens: 0}, 0},
		{0 * s, "lease b 1+30", "retry in 50ms", Cost{Requests: 9, Tokens: 0}, 0}, // tokens are short: no requests either
		{50 * ms, "lease b 1+30", "1+30 ready in 250ms", Cost{Requests: 8, Tokens: -25}, Cost{Requests: 1, Tokens: 30}},
		{1 * s, "settle b 1+30", "closed", Cost{Requests: 9, Tokens: 70}, 0}, // leased units had held the refill back
		{1 * s, "lease c 9+1", "9+1", Cost{Requests: 0, Tokens: 69}, Cost{Requests: 9, Tokens: 1}},
		{1 * s, "settle c 9+1", "closed", Cost{Requests: 0, Tokens: 69}, 0},
		{1 * s, "lease d 4+1", "retry in 150ms", Cost{Requests: 0, Tokens: 69}, 0}, // requests are short: no tokens either
	})
}

// When one unit falls short, less is granted of the other in proportion: a request
// without its tokens is useless.
func TestUnitsAreLeasedInProportion(t *testing.T) {
	play(t, "10/s", "100/s", []step{
		{0 * s, "lease a 1+50", "1+50", Cost{Requests: 9, Tokens: 50}, Cost{Requests: 1, Tokens: 50}},
		{0 * s, "prefetch b 8+100", "4+50", Cost{Requests: 5, Tokens: 0}, Cost{Requests: 5, Tokens: 100}}, // half of the tokens, half of the requests
		{0 * s, "settle a 0", "closed", Cost{Requests: 6, Tokens: 50}, Cost{Requests: 4, Tokens: 50}},     //
		{0 * s, "prefetch c 10+10", "6+6", Cost{Requests: 0, Tokens: 44}, Cost{Requests: 10, Tokens: 56}}, // six tenths, both ways
	})
}

func TestSeveralRatesHoldAtOnce(t *testing.T) {
	play(t, "5/s,12/m", "", []step{
		{0 * s, "lease a 5", "5", 0, 5},       // the burst of the second
		{0 * s, "settle a 5", "closed", 0, 0}, //
		{1 * s, "lease b 5", "5", 0, 5},       // once more: the minute allows 12
		{1 * s, "settle b 5", "closed", 0, 0}, //
		{2 * s, "level", "", 2, 0},            // the second is full, the minute is not
		{2 * s, "lease c 5", "retry in 12s", 2, 0},
		{2 * s, "lease c 6", "error 6 requests asked, at most 5 fit", 2, 0}, // the least burst counts
		{14 * s, "lease c 5", "5 ready in 1s", -1, 5},                       // the minute promises one unit's time, at most 1s
	})
}

func TestSettle(t *testing.T) {
	play(t, "10/s", "", []step{
		{0 * s, "lease a 8", "8", 2, 8},
		{0 * s, "settle a 3", "closed", 7, 0},   // unspent units are returned
		{0 * s, "settle a 0", "unknown", 7, 0},  // settling twice changes nothing
		{0 * s, "settle z 0", "unknown", 7, 0},  // nor does an unknown lease
		{0 * s, "lease b 7", "7", 0, 7},         //
		{0 * s, "settle b 12", "closed", -5, 0}, // spent more than granted: a debt
		{0 * s, "lease c 1", "retry in 350ms", -5, 0},
		{600 * ms, "level", "", 1, 0},                    // that the refill pays off
		{600 * ms, "lease d 1", "1", 0, 1},               //
		{1600 * ms, "settle d 0", "closed", 10, 0},       // full: returned units do not overflow
		{1600 * ms, "lease e 10", "10", 0, 10},           //
		{1700 * ms, "lease f 1", "retry in 1.9s", 0, 10}, // all units are leased until e expires
		{1700 * ms, "settle e 0", "closed", 10, 0},       //
	})
}

// Leased units are still in the bucket: the level and the leased units never exceed
// the burst, and at most the burst is leased, promises included.
func TestLeasedUnitsTakeTheirRoom(t *testing.T) {
	play(t, "10/s", "", []step{
		{0 * s, "lease a 6", "6", 4, 6},
		{1 * s, "level", "", 4, 6},                 // unspent leased units hold the refill back
		{1 * s, "lease b 4", "4", 0, 10},           //
		{1 * s, "lease c 1", "retry in 1s", 0, 10}, // although a promise could be made
		{1 * s, "settle b 4", "closed", 0, 6},      // spent: room for the refill again
		{1100 * ms, "level", "", 1, 6},
		{1100 * ms, "lease c 4", "retry in 50ms", 1, 6},
		{1150 * ms, "lease c 4", "4 ready in 250ms", -3, 10},
	})
}

// RetryAfter is when the ask would be granted without other operations. It includes
// the effect of the expiries until then on the level.
func TestRetryLooksPastExpiries(t *testing.T) {
	play(t, "10/s", "", []step{
		{0 * s, "lease a 10", "10", 0, 10},
		{1 * s, "lease b 8", "retry in 1.55s", 0, 10},       // a expires at 2s and leaves level 0; 8 take 800ms, less the horizon
		{2 * s, "lease b 8", "retry in 550ms", 0, 0},        //
		{2550 * ms, "lease b 8", "8 ready in 250ms", -3, 8}, // as was said
	})
}

func TestExpiry(t *testing.T) {
	play(t, "10/s", "", []step{
		{0 * s, "lease a 6", "6", 4, 6},
		{500 * ms, "lease b 2", "2", 2, 8},     // a holds the level at 4
		{2*s - 1, "level", "", 2, 8},           // the last instant of a
		{2 * s, "level", "", 2, 2},             // it may have been spent: no units are returned
		{2 * s, "settle a 0", "unknown", 2, 2}, // not even when it is settled after all
		{2100 * ms, "level", "", 3, 2},         // the room that it leaves refills
		{2400 * ms, "level", "", 6, 2},         //
		{2500 * ms, "level", "", 7, 0},         // b expires, too
		{2800 * ms, "level", "", 10, 0},
	})
}

// Expiries count as of their instants, in the order of time, although the bucket
// processes them only at its next operation.
func TestExpiryCountsFromItsInstant(t *testing.T) {
	play(t, "10/s", "", []step{
		{0 * s, "lease a 6", "6", 4, 6},
		{500 * ms, "lease b 4", "4", 0, 10},
		// Untouched until now: at 2s the level was 0 and 6 left, at 2.5s it was
		// 5 and 4 left, so 200ms later it is 7.
		{2700 * ms, "lease c 3", "3", 4, 3},
	})
	play(t, "10/s", "", []step{
		{0 * s, "lease a 10", "10", 0, 10},
		{2100 * ms, "level", "", 1, 0}, // empty until 2s, not until this operation
		{2100 * ms, "lease b 1", "1", 0, 1},
	})
}

func TestSameIDSameLease(t *testing.T) {
	play(t, "10/s", "", []step{
		{0 * s, "lease a 8", "8", 2, 8},
		{0 * s, "lease a 8", "8", 2, 8},        // repeated after an unclear answer
		{0 * s, "lease a 3..5", "8", 2, 8},     // whatever the repeated ask wants
		{0 * s, "prefetch a 1", "8", 2, 8},     //
		{0 * s, "settle a 8", "closed", 2, 0},  // and it is one lease
		{0 * s, "settle a 8", "unknown", 2, 0}, //
		{0 * s, "lease b 4", "4 ready in 200ms", -2, 4},
		{150 * ms, "lease b 4", "4 ready in 50ms", -1, 4}, // the rest of its promise
		{250 * ms, "lease b 4", "4", 0, 4},
	})
}

func TestSameLeaseKeepsItsExpiry(t *testing.T) {
	b := New(&Limits{Requests: Rates{{N: 10, Per: s, Burst: 10}}}, 1)
	a := &Ask{ID: LeaseID{1, 1}, Need: Cost{Requests: 3, Tokens: 0}}
	first, _ := b.Lease(0, a)
	again, _ := b.Lease(int64(700*ms), a)
	if first.TTL != TTL || again.TTL != TTL-700*ms {
		t.Errorf("a lease lives %v, and 700ms later %v; want %v and %v", first.TTL, again.TTL, TTL, TTL-700*ms)
	}
}

// An ask without a need is ahead of its demand. It is granted available units, and
// no promise.
func TestPrefetch(t *testing.T) {
	play(t, "10/s", "", []step{
		{0 * s, "prefetch a 4", "4", 6, 4},
		{0 * s, "prefetch b 9", "6", 0, 10},              // the available units
		{0 * s, "settle b 6", "closed", 0, 4},            //
		{0 * s, "prefetch c 5", "retry in 100ms", 0, 4},  // none: until one unit is available
		{0 * s, "lease d 1", "1 ready in 100ms", -1, 5},  // a need would be promised it
		{200 * ms, "prefetch e 5", "1", 0, 6},            // promised units are not available to others
		{200 * ms, "prefetch f 0", "retry in 1ns", 0, 6}, // an ask for no units is refused
	})
}

// Where a unit does not take a whole number of nanoseconds, rounding may delay the
// last unit of a bucket by some nanoseconds, but not until the others expire.
func TestPrefetchOfOddRates(t *testing.T) {
	for _, requests := range []string{"3/s burst 1", "3/s", "7/s burst 10", "999983/s burst 17", "7/11ms burst 3"} {
		limits, _ := ParseLimits("requests " + requests)
		b := New(&limits, 1)
		now, burst := int64(0), limits.Burst().Requests
		for n := range burst {
			a := &Ask{ID: LeaseID{1, uint64(n)}, Want: Cost{Requests: 1, Tokens: 0}}
			g, _ := b.Lease(now, a)
			if !g.OK {
				now += int64(g.RetryAfter)
				g, _ = b.Lease(now, a)
			}
			if g.Granted.Requests != 1 || now > 100 {
				t.Errorf("%s: of a full bucket, prefetches get %d of %d units in %dns, then %+v", requests, n, burst, now, g)
				break
			}
		}
	}
}

func TestCostAboveBurst(t *testing.T) {
	play(t, "10/s,1000/h", "50/m", []step{
		{0 * s, "lease a 11", `error 11 requests asked, at most 10 fit in "10/s,1000/h"`, Cost{Requests: 10, Tokens: 50}, 0},
		{0 * s, "lease a 1+51", `error 51 tokens asked, at most 50 fit in "50/m"`, Cost{Requests: 10, Tokens: 50}, 0},
		{0 * s, "lease a 10..99", "10", Cost{Requests: 0, Tokens: 50}, 10}, // a want may be above it
	})
}

func TestAdjust(t *testing.T) {
	play(t, "10/s", "", []step{
		{0 * s, "lease a 10", "10", 0, 10},
		{0 * s, "settle a 10", "closed", 0, 0},
		{0 * s, "return 4", "", 4, 0},      // an estimate that was too high
		{0 * s, "charge 9", "", -5, 0},     // one that was too low: a debt
		{500 * ms, "level", "", 0, 0},      //
		{500 * ms, "return 99", "", 10, 0}, // never more than full
		{500 * ms, "lease b 3", "3", 7, 3}, //
		{500 * ms, "return 99", "", 7, 3},  // leased units keep their room
		{500 * ms, "charge 2", "", 5, 3},   //
		{500 * ms, "settle b 0", "closed", 8, 0},
	})
}

func TestEmpty(t *testing.T) {
	play(t, "10/s", "", []step{
		{0 * s, "lease a 3", "3", 7, 3},
		{0 * s, "empty 2s", "", -20, 3},         // the provider said: retry after 2s
		{0 * s, "settle a 1", "closed", -18, 0}, // returned units count all the same
		{0 * s, "empty 2s", "", -20, 0},         //
		{0 * s, "empty 1s", "", -20, 0},         // the later end counts
		{1800 * ms, "prefetch b 1", "retry in 300ms", -2, 0},
		{2100 * ms, "prefetch b 1", "1", 0, 1}, // after it, the refill
	})
}

func TestRedefine(t *testing.T) {
	play(t, "10/s", "", []step{
		{0 * s, "lease a 10", "10", 0, 10},
		{0 * s, "settle a 13", "closed", -3, 0},
		{0 * s, "define 2 20/s", "", 7, 0},          // 13 below full, as before
		{0 * s, "define 3 5/s", "", -8, 0},          //
		{0 * s, "define 1 99/s", "", -8, 0},         // an older definition is ignored
		{0 * s, "define 4 5/s", "", -8, 0},          // the same limits change nothing
		{0 * s, "define 3 99/s", "", -8, 0},         // but the later definition counts
		{0 * s, "define 5 5/s,3/m", "", -8, 0},      // a new rate begins with the shortfall, at most empty
		{2 * s, "level", "", 0, 0},                  // the second is at 2, the minute still at 0.1
		{20 * s, "level", "", 1, 0},                 //
		{20 * s, "define 6 5/s", "", 5, 0},          // without the minute
		{20 * s, "lease b 5", "5", 0, 5},            //
		{20 * s, "define 7 5/s burst 2", "", -3, 5}, // leased units stay leased
		{20 * s, "settle b 0", "closed", 2, 0},      // and are returned to a smaller bucket
	})
}

// Of two definitions of the same instant the same one is in force in the end,
// whatever their order.
func TestRedefineTie(t *testing.T) {
	texts := []string{"10/s", "9/s", "10/s burst 3", "7/m,3/s"}
	for i, first := range texts {
		for _, second := range texts[i+1:] {
			a, _ := ParseLimits("requests " + first)
			b, _ := ParseLimits("requests " + second)
			one, two := New(&a, 5), New(&b, 5)
			one.Redefine(0, &b, 5)
			two.Redefine(0, &a, 5)
			if !one.Limits().Equal(two.Limits()) {
				t.Errorf("%q then %q: %q is in force; in the other order %q", first, second, one.Limits(), two.Limits())
			}
		}
	}
}

// A full bucket without leases behaves like a new one.
func TestIdleIsAbsent(t *testing.T) {
	limits := Limits{Requests: Rates{{N: 10, Per: s, Burst: 10}}}
	b := New(&limits, 1)
	idle := func(at time.Duration, want bool, why string) {
		t.Helper()
		if got := b.Idle(int64(at)); got != want {
			t.Errorf("at %v: Idle is %v: %s", at, got, why)
		}
	}
	idle(0, true, "it is new")
	if _, err := b.Lease(0, &Ask{ID: LeaseID{1, 1}, Need: Cost{Requests: 2, Tokens: 0}}); err != nil {
		t.Fatal(err)
	}
	idle(0, false, "2 are leased")
	idle(2*s, false, "the lease has expired and 2 are missing")
	idle(2200*ms-1, false, "they are not restored yet")
	idle(2200*ms, true, "they are restored")
	now := int64(3 * s)
	fresh := New(&limits, 1)
	for _, line := range []string{"lease a 4", "return 3", "settle a 1", "charge 2", "lease b 7", "empty 1s"} {
		if got, want := do(t, b, now, line), do(t, fresh, now, line); got != want || b.Level(now) != fresh.Level(now) {
			t.Errorf("%s: an idle bucket says %q, level %v; a new one %q, level %v", line, got, b.Level(now), want, fresh.Level(now))
		}
	}
}

func TestHolders(t *testing.T) {
	b := New(&Limits{Requests: Rates{{N: 10, Per: s, Burst: 10}}}, 1)
	for _, id := range []LeaseID{{7, 1}, {8, 1}, {7, 2}} {
		if _, err := b.Lease(0, &Ask{ID: id, Need: Cost{Requests: 1, Tokens: 0}}); err != nil {
			t.Fatal(err)
		}
	}
	var got []uint64
	b.Holders(func(h uint64) { got = append(got, h) })
	slices.Sort(got)
	if want := []uint64{7, 7, 8}; !slices.Equal(got, want) {
		t.Errorf("holders of three leases: %v, want %v", got, want)
	}
}
