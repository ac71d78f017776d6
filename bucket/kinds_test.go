package bucket

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// account is a bucket with its holders, for timelines of windows and calendars.
type account struct {
	t      *testing.T
	b      *Bucket
	now    int64
	start  int64 // the wall clock at the instant zero; 0: no stamps
	grants map[string]int64
}

func newAccount(t *testing.T, limits string) *account {
	l, err := ParseLimits(limits)
	require.NoError(t, err)
	return &account{t: t, b: New(&l, 1), grants: make(map[string]int64)}
}

// at moves the time to so many seconds.
func (a *account) at(seconds float64) *account {
	a.now = int64(seconds * float64(sec))
	a.stamp()
	return a
}

func (a *account) stamp() {
	if a.start != 0 {
		limits := a.b.Limits()
		a.b.Stamp(a.now, StampsAt(a.start+a.now, &limits, a.b.former))
	}
}

// lease asks for n requests under the id of a name, and returns whether it is granted.
func (a *account) lease(name string, n int64) bool {
	g, err := a.b.Lease(a.now, &Ask{ID: idOf(name), Need: Cost{Requests: n}, Want: Cost{Requests: n}})
	require.NoError(a.t, err)
	if g.OK {
		a.grants[name] = a.now
	}
	return g.OK
}

// settle closes a lease with its units spent. An age after an @ dates units, as in
// "5@1.5s".
func (a *account) settle(name string, spent int64, parts ...string) {
	var list []Spending
	for _, p := range parts {
		n, age, _ := strings.Cut(p, "@")
		units, err := strconv.ParseInt(n, 10, 64)
		require.NoError(a.t, err)
		d, err := time.ParseDuration(age)
		require.NoError(a.t, err)
		list = append(list, Spending{d, Cost{Requests: units}})
	}
	assert.True(a.t, a.b.Settle(a.now, idOf(name), Cost{Requests: spent}, list...), "settle %s", name)
}

// use leases n requests and settles them as spent, and returns whether they are granted.
func (a *account) use(name string, n int64) bool {
	ok := a.lease(name, n)
	if ok {
		a.settle(name, n)
	}
	return ok
}

// refund takes back n requests that were charged on the lease of a name.
func (a *account) refund(name string, n int64) {
	a.b.Adjust(a.now, &Adjustment{Return: Cost{Requests: n}, Lease: idOf(name), Since: a.grants[name]})
}

func (a *account) level() int64 { return a.b.Level(a.now).Requests }

// Each rule of a window holds in a bucket. In each history more than 10 requests would
// be spent in 3 s if the bucket broke the rule. Slots last 50 ms.
func TestWindowRulesHoldInABucket(t *testing.T) {
	for _, tt := range []struct {
		name string
		play func(t *testing.T, a *account)
	}{
		{"1: a unit counts for Per from the end of its slot", func(t *testing.T, a *account) {
			a.at(0.045).use("a", 10)
			assert.False(t, a.at(3).use("b", 1), "2.955 s later")
			assert.False(t, a.at(3.0499).use("c", 1), "the slot ended at 0.05 s")
			assert.True(t, a.at(3.05).use("d", 10))
		}},
		{"1: a leased unit counts", func(t *testing.T, a *account) {
			a.at(0).lease("a", 6)
			assert.False(t, a.lease("b", 5))
			assert.True(t, a.lease("c", 4))
			assert.Zero(t, a.level())
		}},
		{"2: a grant needs room for all of it, and is not promised ahead", func(t *testing.T, a *account) {
			a.at(0).use("a", 9)
			assert.False(t, a.at(3.0499).lease("b", 2), "0.1 ms before the slot returns")
			assert.True(t, a.lease("c", 1))
		}},
		{"3: a unit is booked as of the arrival of its settlement", func(t *testing.T, a *account) {
			a.at(0).lease("a", 10)
			a.at(1.5).settle("a", 10) // spent at 1.4 s
			assert.False(t, a.at(3.1).use("b", 1))
			assert.True(t, a.at(4.55).use("c", 10))
		}},
		{"3: or as of its spending, with the age shortened by the error of the clocks", func(t *testing.T, a *account) {
			a.at(0).lease("a", 10)                 // spent at 0.21 s
			a.at(1.9).settle("a", 10, "10@1.724s") // 1.69 s ago, by a fast clock
			assert.False(t, a.at(3.2).use("b", 1), "2.99 s later")
			assert.True(t, a.at(3.3).use("c", 10))
		}},
		{"3: but not before its grant", func(t *testing.T, a *account) {
			a.at(1).lease("a", 10)
			a.at(1.1).settle("a", 10, "10@6s") // a clock that no margin covers
			assert.False(t, a.at(3.5).use("b", 1))
			assert.True(t, a.at(4.05).use("c", 10))
		}},
		{"3: the unspent rest is free at once, and parts date no more than was spent", func(t *testing.T, a *account) {
			a.at(0).lease("a", 10)
			a.at(1).settle("a", 6, "4@900ms", "9@500ms")
			assert.Equal(t, int64(4), a.level())
			assert.Equal(t, int64(8), a.at(3.2).level(), "4 of 6 were spent at 0.1 s")
			assert.Equal(t, int64(10), a.at(3.6).level())
		}},
		{"3: more than was granted is booked, too", func(t *testing.T, a *account) {
			a.at(0).lease("a", 5)
			a.settle("a", 12)
			assert.Equal(t, int64(-2), a.level())
		}},
		{"4: an expired lease is booked whole, as of its expiry", func(t *testing.T, a *account) {
			a.at(0).lease("a", 10)
			assert.False(t, a.at(2.5).use("b", 1))
			assert.False(t, a.at(5.0499).use("c", 1), "it may have been spent until 2 s")
			assert.True(t, a.at(5.05).use("d", 10))
		}},
		{"5: a refund takes from the earliest slot", func(t *testing.T, a *account) {
			a.at(0).use("a", 5)
			a.at(1.5).use("b", 5)
			a.at(1.6).refund("a", 5)
			assert.Equal(t, int64(5), a.level(), "it is worth its full amount")
			assert.Equal(t, int64(5), a.at(3.1).level(), "the other call counts until 4.55 s")
		}},
		{"5: a refund is worth nothing after its slot has returned", func(t *testing.T, a *account) {
			a.at(0).use("a", 10)
			a.at(3.1).use("b", 10)
			a.refund("a", 10)
			assert.Zero(t, a.level())
		}},
		{"5: a refund while its lease is open is void", func(t *testing.T, a *account) {
			a.at(0).lease("a", 5)
			a.at(1).use("b", 5)
			a.refund("a", 5)
			assert.Zero(t, a.level())
			a.settle("a", 5, "5@1s")
			assert.Equal(t, int64(5), a.at(3.1).level(), "the other call counts until 4.05 s")
		}},
		{"5: a refund that names no lease is void", func(t *testing.T, a *account) {
			a.at(0).use("a", 5)
			a.b.Adjust(a.now, &Adjustment{Return: Cost{Requests: 5}})
			assert.Equal(t, int64(5), a.level())
		}},
		{"5: a refund of the time of a lost store is void", func(t *testing.T, a *account) {
			a.at(0).use("a", 5)
			a.b.Adjust(a.now, &Adjustment{Return: Cost{Requests: 5}, Lease: idOf("x"), Since: a.now + 1})
			assert.Equal(t, int64(5), a.level())
		}},
		{"6: a charge is booked at its arrival, also above the limit", func(t *testing.T, a *account) {
			a.at(0).use("a", 8)
			a.at(1).b.Adjust(a.now, &Adjustment{Charge: Cost{Requests: 7}})
			assert.Equal(t, int64(-5), a.level())
			assert.Equal(t, int64(3), a.at(3.05).level())
		}},
		{"6: a cooldown grants nothing and books nothing, and the later end holds", func(t *testing.T, a *account) {
			a.at(0).b.Adjust(a.now, &Adjustment{Empty: 2 * s})
			a.b.Adjust(a.now, &Adjustment{Empty: s})
			assert.False(t, a.at(1.9999).use("a", 1))
			assert.Zero(t, a.level())
			assert.True(t, a.at(2).use("b", 10))
		}},
		{"6: RetryAfter is when enough slots have returned", func(t *testing.T, a *account) {
			a.at(0).use("a", 4)
			a.at(1).use("b", 4)
			a.at(1.2).lease("c", 2) // may return at 6.25 s
			for need, at := range map[int64]float64{1: 3.05, 4: 3.05, 5: 4.05, 8: 4.05, 9: 6.25, 10: 6.25} {
				assert.Equal(t, int64(at*float64(sec))-a.now, int64(a.b.Wait(a.now, Cost{Requests: need})), "%d requests", need)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.play(t, newAccount(t, "requests 10/3s window")) })
	}
}

// A window of 10 s or more ignores when units were spent: it books them at the arrival.
func TestLongWindowsBookAtArrival(t *testing.T) {
	a := newAccount(t, "requests 10/10s window,20/9s window")
	a.at(0).lease("a", 10)
	a.at(1.9).settle("a", 10, "10@1900ms")
	short, long := a.b.counters.of[1].window, a.b.counters.of[0].window
	assert.Zero(t, short.newest.index)
	assert.Equal(t, windowRate{10, 10 * sec}.slotOf(19*sec/10), long.newest.index)
}

// A pace beside a window is charged at the grant and credited with the rest. Open leases
// do not hold it down, and a cost above its burst goes when it is full.
func TestPaceInABucket(t *testing.T) {
	a := newAccount(t, "requests 600/m window pace 60") // 10 a second
	assert.True(t, a.at(0).lease("a", 60))
	assert.False(t, a.lease("b", 1), "the pace is empty")
	assert.Equal(t, int64(540), a.level(), "the pace is no limit")
	assert.Equal(t, 100*ms, a.b.Wait(a.now, Cost{Requests: 1}))
	a.at(1).settle("a", 30)
	assert.Equal(t, int64(40), a.b.Room(a.now).Requests, "10 refilled and 30 credited")
	assert.Equal(t, int64(40), a.b.RoomFor(a.now, Cost{Requests: 100}).Requests)
	assert.Equal(t, 2*s, a.b.Wait(a.now, Cost{Requests: 100}), "when the pace is full")
	assert.Equal(t, int64(100), a.at(3).b.RoomFor(a.now, Cost{Requests: 100}).Requests)
	assert.True(t, a.use("c", 100))
	assert.False(t, a.at(6.999).use("d", 1), "the pace is in debt for 4 s")
	assert.True(t, a.at(7.1).use("e", 1))
	assert.NoError(t, a.b.limits.Fits(Cost{Requests: 600}))
}

// A calendar counts from one reset to the next, by the stamps of the operations.
func TestCalendarInABucket(t *testing.T) {
	a := newAccount(t, "requests 10/d reset UTC")
	a.start = midnight - int64(10*s)
	assert.True(t, a.at(0).use("a", 6))
	assert.False(t, a.use("b", 5))
	assert.Equal(t, 11*s, a.b.Wait(a.now, Cost{Requests: 5}), "a second after midnight")
	assert.True(t, a.at(9).use("c", 3), "close to midnight: it counts in both days")
	a.at(9.5).refund("a", 4)
	assert.Equal(t, int64(5), a.level())
	assert.Equal(t, int64(7), a.at(11).level(), "the refund entered the day of its charge")
	assert.False(t, a.b.Idle(a.now))
	assert.False(t, a.b.Idle(a.now+int64(day)-1), "the day may not be over")
	assert.True(t, a.at(11+86400).b.Idle(a.now))
}

// What is spent without a stamp counts in the days of the next one.
func TestUnitsWithoutAStampCountInBothDays(t *testing.T) {
	a := newAccount(t, "requests 10/d reset UTC")
	assert.True(t, a.at(0).use("a", 4))
	assert.Equal(t, int64(6), a.level())
	a.start = midnight - int64(2*day)
	assert.Equal(t, int64(6), a.at(1).level())
	assert.True(t, a.use("b", 5))
	assert.Equal(t, int64(6), a.at(86402).level(), "of the day before only the units without a stamp")
	assert.Equal(t, int64(10), a.at(2*86402).level())
	a.use("c", 4)
	a.at(3*86400 - 5)
	tomorrow := a.start + a.now + int64(day)
	a.b.Stamp(a.now, &Stamps{tomorrow, []ZoneStamp{{"UTC", Daily, tomorrow + 1, tomorrow + 2}}}) // not around the wall clock
	a.b.Stamp(a.now, &Stamps{Wall: -5})
	assert.Equal(t, int64(6), a.level())
}

// Stamps are those of the calendars that the limits have, each once.
func TestStampsAt(t *testing.T) {
	l, err := ParseLimits("requests 5/s,10/d reset UTC,9/week reset UTC; spend $5/d reset UTC")
	require.NoError(t, err)
	m, err := ParseLimits("requests 5/d reset America/Los_Angeles")
	require.NoError(t, err)
	want := &Stamps{midnight, []ZoneStamp{
		{"UTC", Daily, midnight, midnight + int64(day)},
		{"UTC", Weekly, midnight - int64(2*day), midnight + int64(5*day)}, // a Wednesday
		{"America/Los_Angeles", Daily, midnight - int64(17*time.Hour), midnight + int64(7*time.Hour)},
	}}
	assert.Equal(t, want, StampsAt(midnight, &l, nil, &m))
	none, err := ParseLimits("requests 5/s,5/m window")
	require.NoError(t, err)
	assert.Nil(t, StampsAt(midnight, &none))
}

// Rates of all kinds hold together, and a call is granted when each of them has room.
func TestAllKindsHoldTogether(t *testing.T) {
	a := newAccount(t, "requests 10/s burst 5,20/m window,25/d reset UTC")
	a.start = midnight - int64(day)/2
	granted := 0
	for i := range 400 {
		if a.at(float64(i)/2).use(fmt.Sprint(i), 1) {
			granted++
		}
		if want, ok := map[int]int64{0: 4, 18: 1, 19: 0}[i]; ok { // by the burst, then by the window
			assert.Equal(t, want, a.level(), "after %d", i)
		}
	}
	assert.Equal(t, 25, granted, "by the day")
	assert.Equal(t, int64(5), a.at(86400/2+2).level(), "a new day")
}
