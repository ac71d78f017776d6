package bucket

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// define puts other limits in force.
func (a *account) define(limits string) {
	l, err := ParseLimits(limits)
	require.NoError(a.t, err)
	a.b.Redefine(a.now, &l, a.b.Defined()+1)
	a.stamp()
}

// No change of the limits gives units out, and none takes more than the counted ones.
func TestRedefinitionKeepsWhatIsCounted(t *testing.T) {
	for _, tt := range []struct {
		name   string
		before string
		play   func(a *account)
		after  string
		want   int64 // level at once
		at     float64
		later  int64 // level then
	}{
		{"a window of the same length keeps its slots", "requests 10/3s window",
			func(a *account) { a.at(0).use("a", 6); a.at(1) }, "requests 20/3s window", 14, 3.05, 20},
		{"a lower limit is exceeded at once", "requests 10/3s window",
			func(a *account) { a.at(0).use("a", 6); a.at(1) }, "requests 5/3s window", -1, 3.05, 5},
		{"a pace changes no slots", "requests 10/3s window",
			func(a *account) { a.at(0).use("a", 6) }, "requests 10/3s window pace 2", 4, 3.05, 10},
		{"a shorter window takes over the slots, each as of its end", "requests 10/6s window", // slots of 100 ms
			func(a *account) { a.at(0.02).use("a", 6); a.at(1) }, "requests 10/3s window", 4, 3.15, 10},
		{"a longer window also counts what the other has forgotten", "requests 10/3s window",
			func(a *account) { a.at(9).use("a", 6); a.at(10) }, "requests 20/6s window", 4, 13.2, 14},
		{"a window that replaces a bucket begins with its debt", "requests 10/s burst 10",
			func(a *account) { a.at(0).use("a", 6) }, "requests 10/3s window", 4, 3.05, 10},
		{"leased units count once", "requests 10/s burst 10",
			func(a *account) { a.at(0).use("a", 3); a.lease("b", 4) }, "requests 10/3s window", 3, 5.05, 10},
		{"a bucket that replaces a window begins with what it counts", "requests 10/3s window",
			func(a *account) { a.at(0).use("a", 3); a.lease("b", 4) }, "requests 10/s burst 10", 3, 1, 6},
		{"a cooldown outlasts the window", "requests 10/3s window",
			func(a *account) { a.at(0).b.Adjust(0, &Adjustment{Empty: 2 * s}) }, "requests 10/s burst 10", -20, 3, 10},
		{"a cooldown outlasts the bucket", "requests 10/s burst 10",
			func(a *account) { a.at(0).b.Adjust(0, &Adjustment{Empty: 2 * s}) }, "requests 10/3s window", 0, 3.05, 10},
		{"and stays with windows", "requests 10/3s window",
			func(a *account) { a.at(0).b.Adjust(0, &Adjustment{Empty: 2 * s}) }, "requests 20/6s window", 0, 6.2, 20},
		{"a calendar with the same resets goes on", "requests 10/d reset UTC",
			func(a *account) { a.at(0).use("a", 6) }, "requests 20/d reset UTC", 14, 86401, 20},
		{"another one begins with the largest debt", "requests 10/d reset UTC,30/m window",
			func(a *account) { a.at(0).use("a", 6) }, "requests 20/d reset Asia/Tokyo", 14, 3 * 86400, 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a := newAccount(t, tt.before)
			a.start = midnight
			tt.play(a)
			a.define(tt.after)
			assert.Equal(t, tt.want, a.level())
			assert.Equal(t, tt.later, a.at(tt.at).level())
		})
	}
}

// A window and a calendar that are dropped and come back count what was spent meanwhile.
func TestFormerWindowsGoOnCounting(t *testing.T) {
	const both = "requests 10/3s window,20/d reset UTC"
	a := newAccount(t, both)
	a.start = midnight
	a.at(0).use("a", 4)
	a.lease("b", 2)
	a.define("requests 100/s")
	a.at(1).settle("b", 2)
	a.use("c", 3)
	a.at(2).define(both)
	assert.Equal(t, int64(1), a.level())
	assert.Equal(t, int64(10), a.at(4.1).level())
	a.define("tokens 5/s")
	a.at(20).define(both)
	assert.Equal(t, int64(1), a.level(), "the window was forgotten and begins with the largest debt, the 9 of the day")
	assert.True(t, a.at(24).use("d", 10))
	assert.Equal(t, int64(1), a.at(28).level(), "by the day, of which 19 were spent")
}

// Units that were charged before a change of the limits are not taken back: the slots may
// be those of other rates.
func TestRefundsBeforeARedefinitionAreVoid(t *testing.T) {
	a := newAccount(t, "requests 10/3s window")
	a.at(0).use("a", 5)
	a.define("requests 11/3s window")
	a.at(1).refund("a", 5)
	assert.Equal(t, int64(6), a.level())
	a.at(1.1).use("b", 5)
	a.refund("b", 5)
	assert.Equal(t, int64(6), a.level())
}

// A lease that is older than the windows of its bucket is booked no earlier than they are.
func TestLeasesBeforeAWindowAreBookedSafely(t *testing.T) {
	a := newAccount(t, "requests 10/s burst 10")
	a.at(0).lease("a", 5)
	a.at(1).define("requests 10/3s window")
	a.at(1.5).settle("a", 5, "5@9s")
	assert.Equal(t, int64(5), a.at(4).level())
	assert.Equal(t, int64(10), a.at(4.05).level())
}

// A new pace begins with the debt of the one that it replaces.
func TestANewPaceKeepsTheDebt(t *testing.T) {
	a := newAccount(t, "requests 600/m window pace 60")
	a.at(0).use("a", 60)
	a.define("requests 1200/m window pace 60") // 20 a second
	assert.Zero(t, a.b.Room(a.now).Requests)
	assert.Equal(t, int64(20), a.at(1).b.Room(a.now).Requests)
}
