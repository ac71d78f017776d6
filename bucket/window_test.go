package bucket

import (
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

// A window over time: 10 units a minute, in slots of a second.
func TestWindowOverTime(t *testing.T) {
	rate := windowRate{10, 60 * sec}
	var w window
	for _, step := range []struct {
		at           float64 // seconds
		book, refund int64
		level        int64
		why          string
	}{
		{0.5, 0, 0, 10, "a new window is empty"},
		{0.5, 4, 0, 6, "a unit counts at once"},
		{0.9, 1, 0, 5, "units of one slot add up"},
		{2.0, 7, 0, -2, "a charge is booked above the limit"},
		{3.0, 0, 2, 0, "a refund takes from slot 0, the earliest"},
		{60.999, 0, 0, 0, "slot 0 counts until its end plus Per"},
		{61.0, 0, 0, 3, "slot 0 has returned, slot 2 has not"},
		{63.0, 0, 0, 10, "slot 2 has returned"},
		{63.0, 0, 1, 10, "an empty window has nothing to give back"},
	} {
		now := int64(step.at * float64(sec))
		w.book(rate, now, now, step.book)
		if step.refund > 0 {
			w.refund(rate, now, now, step.refund)
		}
		assert.Equalf(t, step.level, w.level(rate, now, 0), "at %v s: %s", step.at, step.why)
	}
}

// Level, room and the instant of readiness count leased units.
func TestWindowLeavesRoomForLeases(t *testing.T) {
	rate := windowRate{10, 60 * sec}
	var w window
	w.book(rate, 0, 0, 3)
	w.book(rate, 5*sec, 5*sec, 3)
	for _, tt := range []struct {
		leased, n int64
		room      int64
		ready     int64 // seconds; below zero: not before leases end
	}{
		{0, 4, 4, 5},
		{0, 5, 4, 61},
		{0, 8, 4, 66},
		{0, 10, 4, 66},
		{0, 11, 4, -1},
		{3, 1, 1, 5},
		{3, 2, 1, 61},
		{6, 4, 0, 61 + 5},
		{6, 5, 0, -1},
	} {
		now := 5 * sec
		assert.Equalf(t, tt.room, w.room(rate, now, tt.leased), "room beside %d leased", tt.leased)
		at, ok := w.ready(rate, now, tt.leased, tt.n)
		assert.Equalf(t, tt.ready >= 0, ok, "%d units beside %d leased are ever ready", tt.n, tt.leased)
		if ok {
			assert.Equalf(t, tt.ready*sec, at, "%d units beside %d leased are ready", tt.n, tt.leased)
		}
	}
}

// anyWindowRate draws rates of all lengths; half of them are not a whole number of slots.
func anyWindowRate() *rapid.Generator[windowRate] {
	return rapid.Custom(func(t *rapid.T) windowRate {
		return windowRate{
			n:   rapid.OneOf(rapid.Int64Range(1, 20), rapid.Int64Range(1, MaxUnits)).Draw(t, "n"),
			per: rapid.OneOf(rapid.Just(60*sec), rapid.Int64Range(int64(minPer), int64(maxPer))).Draw(t, "per"),
		}
	})
}

// A window and the slow reference agree on everything after all operations, its bytes
// decode to its slots, and a clone is not changed by later operations.
func TestWindowAgreesWithTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := anyWindowRate().Draw(t, "rate")
		real, slow := &realWindow{r: rate}, newSlowWindow(rate, 0)
		now := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, MaxInstant/2)).Draw(t, "start")
		for range rapid.IntRange(1, 150).Draw(t, "length") {
			now += rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(0, 2*rate.width()), rapid.Int64Range(0, rate.per)).Draw(t, "passes")
			clone, before := real.w.clone(), slices.Collect(real.w.slots())
			at := max(now-rapid.Int64Range(0, 2*rate.per).Draw(t, "age"), 0)
			n := rapid.OneOf(rapid.Int64Range(0, 20), rapid.Int64Range(0, MaxUnits)).Draw(t, "units")
			if rapid.IntRange(0, 3).Draw(t, "op") > 0 {
				real.book(now, at, n)
				slow.book(now, at, n)
			} else if got, want := real.refund(now, at, n), slow.refund(now, at, n); got != want {
				t.Fatalf("refund of %d took %d, want %d", n, got, want)
			}
			sameWindow(t, real, slow, now)
			if after := slices.Collect(clone.slots()); !slices.Equal(after, before) {
				t.Fatalf("a clone was %v and is %v", before, after)
			}
		}
	})
}

func sameWindow(t *rapid.T, real *realWindow, slow *slowWindow, now int64) {
	if got, want := real.counted(now), slow.counted(now); got != want {
		t.Fatalf("counted %d, want %d", got, want)
	}
	got := make(map[int64]int64)
	last := int64(-1)
	var total int64
	kept := 0
	for s := range real.w.slots() {
		kept++
		if s.n <= 0 || s.index <= last {
			t.Fatalf("slot %+v after slot %d", s, last)
		}
		total += s.n
		if last = s.index; !slow.returned(s.index, now) {
			got[s.index] = s.n
		}
	}
	if !maps.Equal(got, slow.slots) || total != real.w.total {
		t.Fatalf("slots %v with %d units, want %v", got, real.w.total, slow.slots)
	}
	if kept > windowSlots+1 {
		t.Fatalf("%d slots are kept, want at most %d", kept, windowSlots+1)
	}
}

// Ready is exact: n units fit at that instant and not a nanosecond earlier.
func TestWindowIsReadyAtTheExactInstant(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := anyWindowRate().Draw(t, "rate")
		var w window
		var now int64
		for range rapid.IntRange(0, 80).Draw(t, "bookings") {
			now += rapid.Int64Range(0, 3*rate.width()).Draw(t, "passes")
			w.book(rate, now, now, rapid.Int64Range(1, rate.n/10+1).Draw(t, "units"))
		}
		now += rapid.Int64Range(0, rate.per).Draw(t, "passes")
		n := rapid.Int64Range(1, rate.n).Draw(t, "n")
		leased := rapid.Int64Range(0, rate.n).Draw(t, "leased")
		at, ok := w.ready(rate, now, leased, n)
		switch fits := func(at int64) bool { return w.room(rate, at, leased) >= n }; {
		case ok != (leased+n <= rate.n):
			t.Fatalf("ever ready: %v, with %d leased of %d and %d asked", ok, leased, rate.n, n)
		case !ok:
		case !fits(at):
			t.Fatalf("%d units do not fit when they are ready, at %d", n, at)
		case at > now && fits(at-1):
			t.Fatalf("%d units are ready at %d and fit 1 ns earlier", n, at)
		}
	})
}

// Debts of any size are counted without overflow, and the window is blocked until they
// have returned.
func TestWindowCountsHugeDebts(t *testing.T) {
	rate := windowRate{MaxUnits, 60 * sec}
	var w window
	now := 60 * sec
	for range 3 {
		for i := range int64(61) {
			w.book(rate, now, i*sec, math.MaxInt64/2)
		}
		w.book(rate, now, now, math.MaxInt64/2)
	}
	assert.Equal(t, int64(61*maxBooked), w.counted(rate, now))
	assert.Negative(t, w.level(rate, now, MaxUnits))
	at, ok := w.ready(rate, now, 0, 1)
	assert.True(t, ok)
	assert.Equal(t, 121*sec, at)
	assert.True(t, w.idle(rate, at))
}

// Units that have returned, or that no clock can have booked, are not booked; a charge
// that a refund names in the future is one of a lost store.
func TestWindowIgnoresImpossibleInstants(t *testing.T) {
	rate := windowRate{10, 60 * sec}
	var w window
	w.book(rate, 100*sec, 39*sec, 5) // slot 39 has returned
	assert.Empty(t, slices.Collect(w.slots()))
	w.book(rate, 100*sec, 200*sec, 5) // as of now
	assert.Equal(t, int64(5), w.counted(rate, 160*sec))
	assert.Zero(t, w.counted(rate, 161*sec))
	assert.Zero(t, w.refund(rate, 100*sec, 101*sec, 5))
}

// The memory for the slots of a window that is busy all the time, and of one that is
// used now and then. The struct itself has 56 bytes.
func TestWindowIsSmall(t *testing.T) {
	for _, tt := range []struct {
		name     string
		n        int64
		every    time.Duration
		maxBytes int
	}{
		{"500/m, busy", 500, time.Second, 80},
		{"200,000/m, busy", 200_000, time.Second, 144},
		{"10,000,000/m, busy", 10_000_000, time.Second, 208},
		{"10,000,000/m, every other second", 10_000_000, 2 * time.Second, 176},
		{"500/m, two calls a minute", 15_000, 30 * time.Second, 16},
		{"500/m, once in two minutes", 60_000, 2 * time.Minute, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rate := windowRate{tt.n, 60 * sec}
			var w window
			most := 0
			for now := int64(0); now < 600*sec; now += int64(tt.every) {
				w.book(rate, now, now, tt.n*int64(tt.every)/rate.per)
				most = max(most, cap(w.older))
			}
			assert.LessOrEqual(t, most, tt.maxBytes)
		})
	}
}

// A window that was busy once does not keep its memory.
func TestWindowReleasesMemory(t *testing.T) {
	rate := windowRate{1000, 60 * sec}
	var w window
	for i := range int64(61) {
		w.book(rate, i*sec, i*sec, 10)
	}
	w.book(rate, 118*sec, 118*sec, 10)
	assert.LessOrEqual(t, cap(w.older), 16)
}

// The ages of a settlement are shortened by the error of the clocks, those of a refund
// are lengthened, and neither leaves the time in which it can lie.
func TestAgesAreBoundedByTheErrorOfTheClocks(t *testing.T) {
	for _, tt := range []struct{ now, age, granted, spentAt, chargedSince int64 }{
		{1000, 0, 900, 1000, 1000},
		{1000, 101, 800, 901, 896}, // 101·99/101 = 99, 101·101/99 = 103.04
		{1000, 101, 950, 950, 896}, // not before the grant
		{1000, 990, 0, 30, 0},      // not before the store's time began
		{1000, -50, 900, 1000, 1000},
	} {
		assert.Equal(t, tt.spentAt, spentAt(tt.now, time.Duration(tt.age), tt.granted), "%+v", tt)
		assert.Equal(t, tt.chargedSince, chargedSince(tt.now, time.Duration(tt.age)), "%+v", tt)
	}
}

// Once its slot is open, a window is read and booked without allocation.
func TestWindowDoesNotAllocateWithinASlot(t *testing.T) {
	rate := windowRate{1000, 60 * sec}
	var w window
	for i := range int64(61) {
		w.book(rate, i*sec, i*sec, 10)
	}
	assert.Zero(t, testing.AllocsPerRun(100, func() {
		w.book(rate, 60*sec, 60*sec, 1)
		w.ready(rate, 60*sec, 5, 1000)
		w.room(rate, 61*sec, 5)
	}))
}
