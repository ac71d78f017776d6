package bucket

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

// A pace over time: of a window of 600 a minute, 10 a second, with a burst of 60.
func TestPaceOverTime(t *testing.T) {
	r := Rate{N: 600, Per: time.Minute, Burst: defaultPace(600)}
	var p pace
	for _, step := range []struct {
		at             float64 // seconds
		charge, credit int64
		level          int64
		need, room     int64
		ready          float64 // when need may be granted
		why            string
	}{
		{0, 0, 0, 60, 60, 60, 0, "a new pace is full"},
		{0, 0, 0, 60, 200, 200, 0, "a cost above the burst is granted when it is full"},
		{0, 200, 0, -140, 1, 0, 14.1, "and leaves it in debt"},
		{10, 0, 0, -40, 1, 0, 14.1, "which the refill pays"},
		{10, 0, 0, -40, 200, 0, 20, "the next one waits until it is full again"},
		{16, 0, 0, 20, 20, 20, 16, "below the burst a cost needs its own units"},
		{16, 0, 0, 20, 30, 20, 17, "and waits for these"},
		{16, 0, 30, 50, 50, 50, 16, "an unspent rest is credited"},
		{16, 0, 900, 60, 60, 60, 16, "up to the burst"},
		{16, 10, 0, 50, 60, 50, 17, "whatever was credited above it"},
	} {
		now := int64(step.at * float64(sec))
		if step.charge > 0 {
			p.charge(r, now, step.charge)
		}
		p.credit(r, step.credit)
		assert.Equalf(t, step.level, p.level(r, now), "level at %v s: %s", step.at, step.why)
		assert.Equalf(t, step.room, p.room(r, now, step.need), "room at %v s: %s", step.at, step.why)
		assert.Equalf(t, int64(step.ready*float64(sec)), p.ready(r, now, step.need), "%d ready at %v s: %s", step.need, step.at, step.why)
	}
}

func TestDefaultPaceIsATenthOfTheWindow(t *testing.T) {
	for n, want := range map[int64]int64{1: 1, 9: 1, 19: 1, 20: 2, 500: 50, MaxUnits: MaxUnits / 10} {
		assert.Equal(t, want, defaultPace(n), "%d", n)
	}
}

// A pace that replaces another begins with its debt: neither more calls at once by a
// change of the limit nor by a change back.
func TestReplacedPaceKeepsItsDebt(t *testing.T) {
	slow, fast := Rate{N: 600, Per: time.Minute, Burst: 60}, Rate{N: 6000, Per: time.Minute, Burst: 600}
	var p pace
	p.charge(slow, 0, 160)
	assert.Equal(t, int64(600-160), p.replaced(slow, fast, 0).level(fast, 0))
	assert.Equal(t, int64(60-160), p.replaced(slow, fast, 0).replaced(fast, slow, 0).level(slow, 0))
	wider := Rate{N: 600, Per: time.Minute, Burst: 100}
	assert.Equal(t, p, p.replaced(slow, wider, 1), "only the burst changed: nothing is rounded")
	assert.Equal(t, int64(600), p.replaced(slow, fast, 60*sec).level(fast, 60*sec), "a full pace")
}

// A pace never has more units than exact arithmetic gives, and lacks at most one unit
// and a nanosecond an operation. Ready is exact: the cost has room then and not 1 ns
// earlier.
func TestPaceAgreesWithExactArithmetic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRate().Draw(t, "rate")
		var p pace
		var now int64
		level := rat(r.Burst) // exact, as of now
		unit := refRate{Rate: r}.unitTime()
		length := rapid.IntRange(1, 40).Draw(t, "length")
		for range length {
			passed := rapid.Int64Range(0, min(r.span(2*r.Burst), int64(maxPer))).Draw(t, "passes")
			now += passed
			level = least(add(level, quo(rat(passed), unit)), rat(r.Burst))
			n := rapid.Int64Range(0, 2*r.Burst).Draw(t, "n")
			if rapid.Bool().Draw(t, "charge") {
				p.charge(r, now, n)
				level = sub(level, rat(n))
			} else {
				p.credit(r, n)
				level = least(add(level, rat(n)), rat(r.Burst))
			}
			if p.full >= MaxInstant {
				t.Skip("the end of time")
			}
			if err := checkInstant(p.full); err != nil {
				t.Fatal(err)
			}
			slack := add(rat(1), quo(rat(int64(length)), unit))
			if d := sub(level, rat(p.level(r, now))); d.Sign() < 0 || d.Cmp(slack) > 0 {
				t.Fatalf("%v: level %d, exact %s", r, p.level(r, now), level.FloatString(3))
			}
			paceReadyIsExact(t, p, r, now)
		}
	})
}

func paceReadyIsExact(t *rapid.T, p pace, r Rate, now int64) {
	need := rapid.Int64Range(1, 2*r.Burst).Draw(t, "need")
	at := p.ready(r, now, need)
	if p.room(r, at, need) < need {
		t.Fatalf("%v: %d units have no room when they are ready", r, need)
	}
	if at > now && p.room(r, at-1, need) >= need {
		t.Fatalf("%v: %d units have room 1 ns before they are ready", r, need)
	}
}
