package providertest

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// epoch is a Monday at noon.
var epoch = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

const (
	s = time.Second
	m = time.Minute
	h = time.Hour
)

// A step asks a counter for room for n units and, if there is some, counts them.
type step struct {
	at     time.Duration // after epoch
	n      int64
	wait   time.Duration
	before int64 // units that count
	why    string
}

func play(t *testing.T, c counter, steps []step) {
	t.Helper()
	for i, st := range steps {
		now := epoch.Add(st.at)
		assert.Equal(t, st.before, c.counted(now), "step %d at %v: counted: %s", i, st.at, st.why)
		wait := c.wait(now, st.n)
		assert.Equal(t, st.wait, wait, "step %d at %v: wait for %d: %s", i, st.at, st.n, st.why)
		if wait == 0 {
			c.add(now, st.n)
		}
	}
}

func TestRollingWindowEdges(t *testing.T) {
	play(t, &rolling{n: 10, per: m}, []step{
		{0, 10, 0, 0, "the whole limit at the first instant"},
		{0, 1, m, 10, "and no more"},
		{m - 1, 1, 1, 10, "a nanosecond before the minute is over"},
		{m, 4, 0, 0, "a unit counts for less than a minute"},
		{90 * s, 6, 0, 4, ""},
		{110 * s, 4, 10 * s, 10, "the charge of 60 s is enough"},
		{110 * s, 5, 40 * s, 10, "it is not: the charge of 90 s has to return, too"},
		{110 * s, 11, never, 10, "more than the limit"},
	})
}

func TestFixedWindowEdges(t *testing.T) {
	play(t, &fixed{n: 10, next: everyPer(m)}, []step{
		{59 * s, 10, 0, 0, "the whole limit in the last second of a minute"},
		{m - 1, 1, 1, 10, ""},
		{m, 10, 0, 0, "and again in the first instant of the next: twice the limit in a second"},
		{m, 1, m, 10, ""},
		{m, 11, never, 10, "more than the limit"},
		{5 * m, 3, 0, 0, "minutes without a call"},
	})
}

func TestTokenBucketEdges(t *testing.T) {
	play(t, &bucket{n: 60, burst: 10, per: m}, []step{
		{0, 10, 0, 0, "a new bucket is full"},
		{0, 1, s, 10, "one unit a second"},
		{s - 1, 1, 1, 10, "a nanosecond before the unit is restored"},
		{s, 1, 0, 9, ""},
		{s, 11, never, 10, "more than the burst"},
		{6500 * time.Millisecond, 5, 0, 5, "five and a half units are restored"},
		{6500 * time.Millisecond, 1, 500 * time.Millisecond, 10, "the half is kept"},
		{h, 10, 0, 0, "never more than the burst"},
	})
	third := &bucket{n: 3, burst: 1, per: s}
	play(t, third, []step{
		{0, 1, 0, 0, ""},
		{0, 1, 333_333_334, 1, "the wait is rounded up"},
		{333_333_333, 1, 1, 1, ""},
		{333_333_334, 1, 0, 0, ""},
	})
}

func TestDayIsThatOfTheZone(t *testing.T) {
	for _, tt := range []struct {
		from string
		want time.Duration
	}{
		{"2026-06-01T12:00:00Z", 19 * h}, // midnight in Los Angeles is 07:00 UTC in summer
		{"2026-06-01T06:59:59Z", s},
		{"2026-06-01T07:00:00Z", 24 * h},
		{"2026-03-08T08:00:00Z", 23 * h}, // summer time begins at 2 o'clock
		{"2026-11-01T07:00:00Z", 25 * h}, // and ends
		{"2026-12-31T20:00:00Z", 12 * h},
	} {
		now, err := time.Parse(time.RFC3339, tt.from)
		require.NoError(t, err)
		day := &fixed{n: 1, next: everyDay(pacific())}
		day.add(now, 1)
		assert.Equal(t, tt.want, day.wait(now, 1), "from %s", tt.from)
		assert.NotZero(t, day.wait(now.Add(tt.want-1), 1), "from %s: before midnight", tt.from)
		assert.Zero(t, day.wait(now.Add(tt.want), 1), "from %s: at midnight", tt.from)
	}
}

func TestMinutesBeforeTheEpochAreFixed(t *testing.T) {
	assert.Equal(t, time.Unix(-60, 0), everyPer(m)(time.Unix(-61, 0)))
	assert.Equal(t, time.Unix(0, 0), everyPer(m)(time.Unix(-60, 0)))
}

func TestCallsInFlightEdges(t *testing.T) {
	f := &inFlight{n: 2}
	at := func(d time.Duration) time.Time { return epoch.Add(d) }
	f.add(at(0), 1)
	assert.Zero(t, f.wait(at(0), 1))
	f.add(at(0), 1)
	assert.Equal(t, unknown, f.wait(at(h), 1), "calls end when they end")
	assert.Equal(t, unknown, f.reset(at(h)))
	f.add(at(h+s), -1) // noticed a second late
	assert.Equal(t, int64(2), f.counted(at(h+s-1)))
	assert.Zero(t, f.wait(at(h+s), 1))
	f.add(at(h+s), -1)
	assert.Zero(t, f.reset(at(h+s)))
}

// A charge is an entry of the history from which the brute-force counters count.
type charge struct {
	asOf, added time.Time
	n           int64
}

// brute counts the units of a history at an instant, the slow and obvious way.
type brute func(history []charge, t time.Time) int64

func bruteRolling(per time.Duration) brute {
	return func(history []charge, t time.Time) (sum int64) {
		for _, c := range history {
			if t.Sub(c.asOf) < per {
				sum += c.n
			}
		}
		return sum
	}
}

func bruteFixed(number func(time.Time) int) brute {
	return func(history []charge, t time.Time) (sum int64) {
		for _, c := range history {
			if number(c.asOf) == number(t) {
				sum += c.n
			}
		}
		return sum
	}
}

// bruteBucket computes the missing units as fractions. A correction has its effect when
// it is made.
func bruteBucket(n int64, per time.Duration) brute {
	return func(history []charge, t time.Time) int64 {
		missing, asOf := new(big.Rat), epoch
		restore := func(until time.Time) {
			missing.Sub(missing, new(big.Rat).Mul(big.NewRat(n, int64(per)), new(big.Rat).SetInt64(int64(until.Sub(asOf)))))
			if missing.Sign() < 0 {
				missing.SetInt64(0)
			}
			asOf = until
		}
		for _, c := range history {
			restore(c.added)
			if missing.Add(missing, new(big.Rat).SetInt64(c.n)); missing.Sign() < 0 {
				missing.SetInt64(0)
			}
		}
		restore(t)
		up := new(big.Int).Add(missing.Num(), new(big.Int).Sub(missing.Denom(), big.NewInt(1)))
		return up.Div(up, missing.Denom()).Int64()
	}
}

func TestCountersAgreeWithBruteForce(t *testing.T) {
	const n, per = 20, 10 * s
	zone := pacific()
	// The offsets in the histories are below a minute; the day's are a million times that.
	for _, tt := range []struct {
		name  string
		scale time.Duration
		size  int64
		make  func() counter
		count brute
	}{
		{"rolling window", 1, n, func() counter { return &rolling{n: n, per: per} }, bruteRolling(per)},
		{"fixed window", 1, n, func() counter { return &fixed{n: n, next: everyPer(per)} },
			bruteFixed(func(t time.Time) int { return int(t.Unix() / 10) })},
		{"day", 10_000, n, func() counter { return &fixed{n: n, next: everyDay(zone)} },
			bruteFixed(func(t time.Time) int { return t.In(zone).YearDay() })},
		{"token bucket", 1, 7, func() counter { return &bucket{n: n, burst: 7, per: per} }, bruteBucket(n, per)},
		{"token bucket of thirds", 1, n, func() counter { return &bucket{n: 3, burst: n, per: per} }, bruteBucket(3, per)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for seed := range uint64(150) {
				if !agree(t, tt.make(), tt.count, tt.size, tt.scale, rand.New(rand.NewPCG(seed, 0))) {
					t.Fatalf("seed %d", seed)
				}
			}
		})
	}
}

// agree plays a random history of calls, refused calls that count, and corrections.
func agree(t *testing.T, c counter, count brute, size int64, scale time.Duration, r *rand.Rand) bool {
	var history []charge
	now := epoch
	add := func(asOf time.Time, n int64) {
		c.add(asOf, n)
		history = append(history, charge{asOf, now, n})
	}
	fits := func(t time.Time, n int64) bool { return count(history, t)+n <= size }
	for range 60 {
		if r.IntN(3) > 0 {
			now = now.Add(scale * time.Duration(r.Int64N(int64(2*s))))
		}
		if r.IntN(20) == 0 {
			now = now.Truncate(scale * 10 * s).Add(scale * 10 * s)
		}
		n := 1 + r.Int64N(size+size/4)
		if !assert.Equal(t, count(history, now), c.counted(now), "counted after %v", now.Sub(epoch)) {
			return false
		}
		wait, ok := c.wait(now, n), true
		switch {
		case wait == never:
			ok = assert.Greater(t, n, size, "never")
		case wait == 0:
			ok = assert.True(t, fits(now, n), "%d units fit", n)
		default:
			ok = assert.True(t, fits(now.Add(wait), n), "%d units fit after %v", n, wait) &&
				assert.False(t, fits(now.Add(wait-1), n), "%d units fit before %v", n, wait)
		}
		if reset := c.reset(now); ok && reset > 0 {
			ok = assert.Zero(t, count(history, now.Add(reset)), "reset") &&
				assert.NotZero(t, count(history, now.Add(reset-1)), "before the reset")
		}
		if !ok {
			return false
		}
		if wait == 0 || r.IntN(8) == 0 { // a refused call counts now and then
			add(now, n)
		}
		if len(history) > 0 && r.IntN(4) == 0 {
			c := history[r.IntN(len(history))]
			if c.n > 0 && slices.IndexFunc(history, func(o charge) bool { return o.asOf.Equal(c.asOf) && o.n < 0 }) < 0 {
				add(c.asOf, -1-r.Int64N(c.n))
			}
		}
	}
	return true
}

// A window that is far above its limit, and instants far apart, do not overflow.
func TestTokenBucketOfLargeNumbers(t *testing.T) {
	b := &bucket{n: maxN, burst: maxN, per: s}
	b.add(epoch, maxN)
	assert.Equal(t, int64(maxN), b.counted(epoch))
	assert.Equal(t, s, b.wait(epoch, maxN))
	assert.Zero(t, b.counted(epoch.Add(200*365*24*h)))
	slow := &bucket{n: 1, burst: maxN, per: maxPer}
	slow.add(epoch, maxN)
	assert.Equal(t, maxPer, slow.wait(epoch, 1))
	assert.Equal(t, unknown, slow.wait(epoch, maxN), "more than 2⁶³ ns")
}

func TestLimitsAreParsed(t *testing.T) {
	for _, tt := range []struct {
		unit   Unit
		text   string
		bursts bool
		want   string
	}{
		{Requests, "500/m", false, "[500/m]"},
		{Requests, " 500 / m , 10000/d ", false, "[500/m 10000/d]"},
		{Requests, "20/10s", false, "[20/10s]"},
		{Tokens, "1000000000000/366d", false, "[1000000000000/366d]"},
		{Tokens, "5/60s", false, "[5/m]"},
		{Tokens, "5/90m", false, "[5/90m]"},
		{Requests, "50/s burst 20", true, "[50/s burst 20]"},
		{Requests, "50/s burst 50", true, "[50/s]"},
		{InFlight, "20", false, "[20]"},
		{Requests, " ", false, "[]"},
	} {
		limits, err := parseLimits(tt.unit, tt.text, tt.bursts)
		if assert.NoError(t, err, tt.text) {
			assert.Equal(t, tt.want, fmt.Sprint(limits), tt.text)
		}
	}
}

func TestMalformedLimitsAreNamed(t *testing.T) {
	for _, tt := range []struct {
		unit       Unit
		text, want string
	}{
		{Requests, "500", `requests "500": no window: want units per time, such as 500/m; the time is s, m, h, d, or a number of them, such as 10s`},
		{Tokens, "0/m", `tokens "0/m": "0" units: want a whole number from 1 to 1000000000000`},
		{Tokens, "-5/m", `"-5" units`},
		{Tokens, "1000000000001/m", `"1000000000001" units`},
		{Tokens, "1.5/s", `"1.5" units`},
		{Tokens, "100,000/m", `tokens "100,000/m": want digits without separators, such as 100000/m`},
		{Tokens, "5/m,", `"5/m,": want digits`},
		{Tokens, "5/month", `time "month": want s, m, h or d, or a number of them up to 366d, such as 10s`},
		{Tokens, "5/367d", `time "367d"`},
		{Tokens, "5/0s", `time "0s"`},
		{Tokens, "5/-1s", `time "-1s"`},
		{Tokens, "5/9999999999999999999s", `time "9999999999999999999s"`},
		{Tokens, "5/", `time ""`},
		{Requests, "5/s burst 3", `burst "3": want no burst, only token buckets have one`},
		{InFlight, "20/m", `in-flight "20/m": "20/m" units: want a whole number`},
	} {
		_, err := parseLimits(tt.unit, tt.text, false)
		assert.ErrorContains(t, err, tt.want, tt.text)
	}
	_, err := parseLimits(Requests, "5/s burst no", true)
	assert.ErrorContains(t, err, `burst "no" units`)
}
