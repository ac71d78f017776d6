package bucket

import (
	"testing"
	"time"
)

// sec is a second in nanoseconds of the store's time.
const sec = int64(time.Second)

// ruleHistories are histories under 10 units a minute, in slots of a second. In each
// of them the limit holds by all rules, and does not hold if the one rule is broken.
var ruleHistories = []struct {
	name   string
	broken brokenRule
	play   func(m *windowModel)
}{
	{"a unit counts for Per from the end of its slot", countFromSlotStart, func(m *windowModel) {
		m.at(0.9).use(10)
		m.at(60).use(10) // 59.1 s later
	}},
	{"a leased unit counts", ignoreLeased, func(m *windowModel) {
		a := m.at(0).lease(10, 2*sec, exactClock)
		m.use(10)
		m.spend(a, 10)
	}},
	{"a grant needs room for all of it", grantOverLimit, func(m *windowModel) {
		m.at(0).use(9)
		m.use(10)
	}},
	{"a unit is booked no earlier than it was spent", bookAtGrant, func(m *windowModel) {
		a := m.at(0).lease(10, 20*sec, exactClock)
		m.at(5).spend(a, 10)
		m.settle(a, 0)
		m.at(61).use(10) // 56 s later
	}},
	{"an age is shortened by the error of the clocks", trustAges, func(m *windowModel) {
		a := m.at(0).lease(10, 60*sec, fastClock)
		m.at(10.2).spend(a, 10)
		m.at(40.2).settle(a, 0) // 30 s later, by the fast clock 30.6 s: slot 9
		m.at(70).use(10)        // 59.8 s later
	}},
	{"no unit is booked before its grant", trustLongAges, func(m *windowModel) {
		a := m.at(50).lease(10, 20*sec, clock{60, 1}) // a clock that no margin covers
		m.spend(a, 10)
		m.at(50.8).settle(a, 0) // 48 s by this clock
		m.at(65).use(10)
	}},
	{"an expired lease is booked", creditExpired, func(m *windowModel) {
		a := m.at(0).lease(10, 2*sec, exactClock)
		m.at(1.9).spend(a, 10)
		m.at(2).use(10)
	}},
	{"a refund takes from the earliest slot", refundLatest, func(m *windowModel) {
		a := m.at(0).use(5)
		m.at(30).use(5)
		m.at(31).refund(a, 5) // not from the slot of the other call
		m.at(61).use(10)      // 31 s after it
	}},
	{"a refund is worth nothing after its slot has returned", refundReturned, func(m *windowModel) {
		a := m.at(0).use(10)
		m.at(61).use(10)
		m.at(62).refund(a, 10)
		m.use(10)
	}},
	{"the age of a refund is lengthened by the error of the clocks", trustRefundAges, func(m *windowModel) {
		a := m.at(0.5).useBy(slowClock, 10)
		m.at(61).use(10)
		m.at(61.2).refund(a, 10) // 60.7 s later, by the slow clock 59.5 s: slot 1
		m.use(10)
	}},
	{"a refund before the settlement of its lease is part of it", refundBeforeSettlement, func(m *windowModel) {
		a := m.at(0).lease(5, 60*sec, exactClock)
		c := m.spend(a, 5)
		m.at(30).use(5)
		m.at(31).refund(c, 5) // not from the slot of the other call, which is the only one with units
		m.at(32).settle(a, 0)
		m.at(61).use(10) // 31 s after the other call
	}},
}

// at moves the time to so many seconds.
func (m *windowModel) at(seconds float64) *windowModel {
	m.advance(int64(seconds * float64(sec)))
	return m
}

// use leases, spends and settles n units at once, if there is room for them.
func (m *windowModel) use(n int64) *windowCall { return m.useBy(exactClock, n) }

// useBy is use by a holder with such a clock.
func (m *windowModel) useBy(c clock, n int64) *windowCall {
	l := m.lease(n, 2*sec, c)
	if l == nil {
		return nil
	}
	call := m.spend(l, n)
	m.settle(l, 0)
	return call
}

// newRealWindow returns the window that the library uses.
func newRealWindow(r windowRate) unitCounter { return &realWindow{r: r} }

// Each rule of a window is needed, and the library follows it: in each history more
// than 10 units are spent in a minute only if its rule is broken.
func TestWindowRulesAreNeededAndFollowed(t *testing.T) {
	rate := windowRate{10, 60 * sec}
	for _, tt := range ruleHistories {
		t.Run(tt.name, func(t *testing.T) {
			play := func(c unitCounter, broken brokenRule) int64 {
				m := &windowModel{r: rate, broken: broken, unitCounter: c}
				tt.play(m)
				return m.excess()
			}
			if over := play(newRealWindow(rate), 0); over > 0 {
				t.Errorf("the window is %d units over its limit", over)
			}
			if over := play(newSlowWindow(rate, 0), 0); over > 0 {
				t.Errorf("the reference is %d units over its limit", over)
			}
			if over := play(newSlowWindow(rate, tt.broken), tt.broken); over <= 0 {
				t.Errorf("with the rule broken the limit holds by %d units: the history does not show the rule", -over)
			}
		})
	}
}

// Every rule that a model can break has a history.
func TestEveryWindowRuleHasAHistory(t *testing.T) {
	var all brokenRule
	for _, tt := range ruleHistories {
		all |= tt.broken
	}
	if want := refundBeforeSettlement<<1 - 1; all != want {
		t.Errorf("histories for the rules %b, want %b", all, want)
	}
}

// In random histories no stretch of Per has more than N units, and in some of them it
// has all N.
func TestWindowHoldsInRandomHistories(t *testing.T) {
	full := 0
	for seed := range uint64(1500) {
		over := windowHistory(seed, newRealWindow, 0).excess()
		if over > 0 {
			t.Fatalf("history %d: %d units over the limit", seed, over)
		}
		if over == 0 {
			full++
		}
	}
	if full < 500 {
		t.Errorf("the limit was reached in %d of 1,500 histories: they are too weak", full)
	}
}
