package bucket

import (
	"math"
	"reflect"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// anyKindLimits draws limits of all kinds.
func anyKindLimits() *rapid.Generator[Limits] {
	calendar := rapid.Custom(func(t *rapid.T) Rate {
		return Rate{
			N: rapid.Int64Range(1, 100).Draw(t, "n"), Kind: Calendar, Zone: rapid.SampledFrom([]string{"UTC", "America/Los_Angeles"}).Draw(t, "zone"),
			Per: 0, Every: rapid.SampledFrom([]Period{Daily, Weekly, Monthly}).Draw(t, "every"),
		}
	})
	return limitsOf(rapid.OneOf(anyRate(), windowOfAnySize(), windowOfAnySize(), calendar))
}

// stampAny tells b the wall clock, mostly.
func (o *ops) stampAny(t *rapid.T, b *Bucket, start int64) {
	if rapid.IntRange(0, 5).Draw(t, "stamp") > 0 {
		b.Stamp(o.now, StampsAt(start+o.now+rapid.Int64Range(-sec, sec).Draw(t, "off"), b.limits, b.former))
	}
}

// A restored bucket behaves as the one whose state it has: it decides alike, and later
// states are equal, as of the same instant or a later one.
func TestRestoredBucketBehavesAlike(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOps(anyKindLimits().Draw(t, "limits"))
		limits := o.limits // o changes its own
		b := New(&limits, 1)
		start := midnight - rapid.Int64Range(0, int64(day)).Draw(t, "start")
		length := rapid.IntRange(1, 25).Draw(t, "length")
		for range length {
			op := o.next(t, true)
			o.stampAny(t, b, start)
			c := restored(t, b)
			g, _ := o.apply(b, op)
			h, _ := o.apply(c, op)
			if !reflect.DeepEqual(g, h) {
				t.Fatalf("%v: %T %+v is answered by %+v, and after a restore by %+v", o.limits, op, op, g, h)
			}
			later := o.now + o.step().Draw(t, "later")
			if x, y := b.StateAt(later), c.StateAt(later); !reflect.DeepEqual(x, y) {
				t.Fatalf("%v: after %T %+v the state is\n%+v %+v\nand after a restore\n%+v %+v", o.limits, op, op, x, x.Counters, y, y.Counters)
			}
			wakes(t, b, o)
		}
	})
}

// wakes checks what can be read of any bucket.
func wakes(t *rapid.T, b *Bucket, o *ops) {
	need := b.limits.Limited(one)
	if w, r := b.Wait(o.now, need), b.Refill(o.now, need, false); w < 0 || r < 0 {
		t.Fatalf("%v: a wait of %v, a refill in %v", b.limits, w, r)
	}
	if room := b.RoomFor(o.now, need); room.IsNegative() {
		t.Fatalf("%v: room for %v", b.limits, room)
	}
	if info := b.Info("k", o.now); info.Full < 0 || b.Idle(o.now) && info.Full > 0 && b.counters == nil {
		t.Fatalf("%v: full in %v, idle %v", b.limits, info.Full, b.Idle(o.now))
	}
}

// Restore refuses a state that no bucket has, and names what is wrong.
func TestRestoreRefusesCounters(t *testing.T) {
	const window, day = 0, 1 // of the rates
	for want, spoil := range map[string]func(s *State){
		"windows or calendars without counters":                    func(s *State) { s.Counters = nil },
		"1 counters: want one for each of 2 rates":                 func(s *State) { s.Counters.Rates = s.Counters.Rates[:1] },
		"instant -1: want 0 to 4611686018427387903":                func(s *State) { s.Counters.Since = -1 },
		"instant -2: want 0 to 4611686018427387903":                func(s *State) { s.Counters.Shut[Spend] = -2 },
		"a calendar with slots":                                    func(s *State) { s.Counters.Rates[day].Slots = []Slot{{1, 1}} },
		"a window with a day":                                      func(s *State) { s.Counters.Rates[window].Day.Today = 1 },
		"arrival time 7 without a pace: want 0":                    func(s *State) { s.TATs[window] = 7 },
		"63 slots: want at most 62":                                func(s *State) { s.Counters.Rates[window].Slots = make([]Slot, 63) },
		"slot of 0 units: want 1 to 72057594037927936":             func(s *State) { s.Counters.Rates[window].Slots = []Slot{{1, 0}} },
		"slot -1: want 0 to the end of time":                       func(s *State) { s.Counters.Rates[window].Slots = []Slot{{-1, 1}} },
		"slot 9223372036854775807: want 0 to the end of time":      func(s *State) { s.Counters.Rates[window].Slots = []Slot{{math.MaxInt64, 1}} },
		"slot 3 after slot 3: want the order of time":              func(s *State) { s.Counters.Rates[window].Slots = []Slot{{3, 1}, {3, 1}} },
		"instant -3: want 0 to 4611686018427387903":                func(s *State) { s.Counters.Rates[day].Day.Wall = -3 },
		"-5 units in a day: want 0 to 1152921504606846976":         func(s *State) { s.Counters.Rates[day].Day.Pending = -5 },
		"9 units of tomorrow: want at most the 4 of today":         func(s *State) { s.Counters.Rates[day].Day.Tomorrow = 9 },
		"a day that ends before it begins":                         func(s *State) { s.Counters.Rates[day].Day.From = s.Counters.Rates[day].Day.Reset + 1 },
		"a day without a stamp":                                    func(s *State) { s.Counters.Rates[day].Day.Wall = 0 },
		"instants of lease 1-1: instant -9: want 0 to 46116860184": func(s *State) { s.Leases[0].At = -9 },
	} {
		a := newAccount(t, "requests 10/m window,10/d reset UTC")
		a.start = midnight
		a.at(1).use("a", 4)
		_, err := a.b.Lease(a.now, &Ask{ID: LeaseID{1, 1}, Need: Cost{Requests: 1}})
		require.NoError(t, err)
		s := clone(a.b).State()
		spoil(&s)
		_, err = Restore(s)
		assert.ErrorContains(t, err, want)
	}
	l, err := ParseLimits("requests 10/m")
	require.NoError(t, err)
	s := New(&l, 1).State()
	s.Counters = &Counters{}
	_, err = Restore(s)
	assert.EqualError(t, err, "counters of token buckets: want none")
}

// Whatever the counters, Restore returns an error or a bucket that works.
func TestRestoreOfHostileCountersNeverPanics(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := newOps(anyKindLimits().Draw(t, "limits"))
		s := New(&o.limits, 1).State()
		number := rapid.OneOf(rapid.Int64Range(0, 100), rapid.Int64Range(0, MaxInstant), rapid.Int64(), rapid.Just(int64(maxBooked)), rapid.Just(int64(maxDay)))
		if s.Counters == nil {
			s.Counters = &Counters{Rates: make([]Counter, len(s.TATs))}
		}
		s.Counters.Since = number.Draw(t, "since")
		s.Counters.Shut[Requests] = number.Draw(t, "shut")
		for i := range s.Counters.Rates {
			c := &s.Counters.Rates[i]
			if rapid.Bool().Draw(t, "window") {
				index := int64(0)
				for range rapid.IntRange(0, 63).Draw(t, "slots") {
					index += rapid.Int64Range(1, 100).Draw(t, "index")
					c.Slots = append(c.Slots, Slot{index, number.Draw(t, "n")})
				}
			} else if rapid.Bool().Draw(t, "calendar") {
				v := reflect.ValueOf(&c.Day).Elem()
				for k := range v.NumField() {
					v.Field(k).SetInt(number.Draw(t, "field"))
				}
			}
		}
		b, err := Restore(s)
		if err != nil {
			return
		}
		start := midnight - rapid.Int64Range(0, int64(day)).Draw(t, "start")
		for range 5 {
			op := o.next(t, true)
			o.stampAny(t, b, start)
			_, _ = o.apply(b, op)
			wakes(t, b, o)
			restored(t, b)
		}
	})
}

// Settlements that no holder can send are refused.
func TestSettlementCheckNamesBadParts(t *testing.T) {
	part := func(age time.Duration, n int64) []Spending { return []Spending{{age, Cost{Requests: n}}} }
	for want, parts := range map[string][]Spending{
		"":                          part(time.Second, 5),
		"65 parts: want at most 64": make([]Spending, 65),
		"-1ns before":               part(-1, 1),
		"24h0m0.000000001s before their settlement: want 0 to 24h0m0s": part(day+1, 1),
		"cost of -1 requests": part(0, -1),
		"parts of 6 requests: want at most the 5 requests of their settlement": part(0, 6),
	} {
		s := Settlement{Key: "k", Spent: Cost{Requests: 5}, Parts: parts}
		if err := s.Check(); want == "" {
			assert.NoError(t, err)
		} else {
			assert.ErrorContains(t, err, want)
		}
	}
}
