package bucket

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"
)

func TestParseRateOfAnyKind(t *testing.T) {
	window := func(n int64, per time.Duration, pace int64) Rate {
		return Rate{Kind: Window, N: n, Per: per, Pace: pace}
	}
	calendar := func(n int64, every Period, zone string) Rate {
		return Rate{Kind: Calendar, N: n, Every: every, Zone: zone}
	}
	for _, tt := range []struct {
		in   string
		want Rate
		out  string // the canonical form
	}{
		{"100/s", Rate{N: 100, Per: time.Second, Burst: 100}, "100/s"},
		{"100/s burst 20", Rate{N: 100, Per: time.Second, Burst: 20}, "100/s burst 20"},
		{"500/m window", window(500, time.Minute, 0), "500/m window"},
		{" 500 / 10  minutes window ", window(500, 10*time.Minute, 0), "500/10m window"},
		{"100_000/day window", window(100_000, day, 0), "100000/d window"},
		{"1000000000000/ms window", window(MaxUnits, time.Millisecond, 0), "1000000000000/ms window"},
		{"1/366d window", window(1, 366*day, 0), "1/366d window"},
		{"500/m window pace", window(500, time.Minute, 50), "500/m window pace 50"}, // a tenth
		{"5/m window pace", window(5, time.Minute, 1), "5/m window pace 1"},         // at least a call
		{"500/m window pace 1_00", window(500, time.Minute, 100), "500/m window pace 100"},
		{"500/m window pace 500", window(500, time.Minute, 500), "500/m window pace 500"},
		{"10000/d reset America/Los_Angeles", calendar(10_000, Daily, "America/Los_Angeles"), "10000/d reset America/Los_Angeles"},
		{"10000/day reset UTC", calendar(10_000, Daily, "UTC"), "10000/d reset UTC"},
		{"1000/week reset Europe/Berlin", calendar(1000, Weekly, "Europe/Berlin"), "1000/week reset Europe/Berlin"},
		{"20_000 / month reset UTC", calendar(20_000, Monthly, "UTC"), "20000/month reset UTC"},
	} {
		got, err := ParseRate(tt.in)
		assert.NoError(t, err, tt.in)
		assert.Equal(t, tt.want, got, tt.in)
		assert.Equal(t, tt.out, got.String(), tt.in)
	}
}

// Every bad rate is refused by an error that quotes it and says what to write.
func TestParseRateOfAnyKindErrors(t *testing.T) {
	const above = "99999999999999999999"
	for _, tt := range []struct{ in, want string }{
		{"500/m rolling", `rate "500/m rolling": unknown kind "rolling": want "burst 20", "window" or "reset America/Los_Angeles"`},
		{"500/m Window", `rate "500/m Window": unknown kind "Window": want "burst 20", "window" or "reset America/Los_Angeles"`},
		{"500/m window burst 20", `rate "500/m window burst 20": "burst 20" after window: want nothing or "pace 50"`},
		{"500/m window pace 50 60", `rate "500/m window pace 50 60": "pace 50 60" after window: want nothing or "pace 50"`},
		{"500/m window pace x", `rate "500/m window pace x": pace "x": want a number of units, as in "pace 50"`},
		{"500/m window pace 0", `rate "500/m window pace 0": pace of 0 units: want 1 to 500`},
		{"500/m window pace -5", `rate "500/m window pace -5": pace of -5 units: want 1 to 500`},
		{"500/m window pace 501", `rate "500/m window pace 501": pace of 501 units: want 1 to 500`},
		{"500/m window pace " + above, `rate "500/m window pace ` + above + `": pace of ` + above + ` units: want 1 to 500`},
		{"1000000000000/ms window pace 5", `rate "1000000000000/ms window pace 5": rate of 1000000000000 per ms: want at most one a nanosecond`},
		{"500/m burst 20 window", `rate "500/m burst 20 window": only a token bucket has a burst: write 500/m window`},
		{"500/m pace 50", `rate "500/m pace 50": only a window has a pace: write 500/m window pace 50`},
		{"-5/m window", `rate "-5/m window": rate of -5 units: want 1 to 1000000000000`},
		{"0/m window", `rate "0/m window": rate of 0 units: want 1 to 1000000000000`},
		{"1000000000001/m window", `rate "1000000000001/m window": rate of 1000000000001 units: want 1 to 1000000000000`},
		{above + "/d reset UTC", `rate "` + above + `/d reset UTC": rate of ` + above + ` units: want 1 to 1000000000000`},
		{"500/367d window", `rate "500/367d window": rate per 367d: want 1ms to 366 days`},
		{"500/us window", `rate "500/us window": rate per us: want 1ms to 366 days`},
		{"500/-1s window", `rate "500/-1s window": rate per -1s: want 1ms to 366 days`},
		{"500/week window", `rate "500/week window": a window cannot be a week: write the number of days, as in 500/7d window, or a reset, as in 500/week reset UTC`},
		{"100/h reset UTC", `rate "100/h reset UTC": reset each h: want d, week or month; for other times write window`},
		{"100/7d reset UTC", `rate "100/7d reset UTC": reset each 7d: want d, week or month; for other times write window`},
		{"100/-1d reset UTC", `rate "100/-1d reset UTC": reset each -1d: want d, week or month; for other times write window`},
		{"100/d reset", `rate "100/d reset": reset without a time zone: write 100/d reset UTC, or the provider's zone`},
		{"100/d reset Mars/Phobos", `rate "100/d reset Mars/Phobos": unknown time zone "Mars/Phobos": want a name of the IANA database, such as America/Los_Angeles or UTC`},
		{"100/d reset los angeles", `rate "100/d reset los angeles": unknown time zone "los angeles": did you mean America/Los_Angeles?`},
		{"100/d reset Local", `rate "100/d reset Local": unknown time zone "Local": want a name of the IANA database, such as America/Los_Angeles or UTC`},
	} {
		r, err := ParseRate(tt.in)
		assert.EqualError(t, err, tt.want)
		assert.Zero(t, r)
	}
	for _, in := range []string{"", "/", "window", "500 window", "/m window", "x/m window", "500/x window", "500/x rolling", "500/m burst", "500/", strings.Repeat("5/d reset UTC ", 999)} {
		_, err := ParseRate(in)
		if assert.Error(t, err, in) {
			assert.LessOrEqual(t, len(err.Error()), 300, in)
			assert.NotContains(t, err.Error(), "unknown kind", in)
		}
	}
}

// The String of every rate that passes its check is read back as the same rate.
func TestKindTextIsReadBack(t *testing.T) {
	zones := slices.Sorted(maps.Keys(zoneFiles()))
	rapid.Check(t, func(t *rapid.T) {
		r := Rate{Kind: rapid.SampledFrom([]Kind{TokenBucket, Window, Calendar}).Draw(t, "kind")}
		switch r.N = rapid.Int64Range(-1, MaxUnits+1).Draw(t, "n"); r.Kind {
		case TokenBucket:
			r.Per, r.Burst = time.Duration(rapid.Int64Range(0, int64(maxPer)+1).Draw(t, "per")), rapid.Int64Range(-1, MaxUnits+1).Draw(t, "burst")
		case Window:
			r.Per, r.Pace = time.Duration(rapid.Int64Range(0, int64(maxPer)+1).Draw(t, "per")), rapid.Int64Range(-1, 1000).Draw(t, "pace")
		case Calendar:
			r.Every, r.Zone = rapid.SampledFrom([]Period{Daily, Weekly, Monthly}).Draw(t, "every"), rapid.SampledFrom(zones).Draw(t, "zone")
		}
		u := Unit(rapid.IntRange(0, int(NumUnits)-1).Draw(t, "unit"))
		got, err := readRate(u, r.text(u))
		if (err == nil) != (r.check(u) == nil) {
			t.Fatalf("%q is read with %v, and its check says %v", r.text(u), err, r.check(u))
		}
		if err == nil && got != r {
			t.Fatalf("%q is read as %+v, want %+v", r.text(u), got, r)
		}
	})
}

// A field that the kind of a rate does not have is refused, and so is an unknown kind.
func TestCheckRefusesFieldsOfOtherKinds(t *testing.T) {
	for want, r := range map[string]Rate{
		"a token bucket with a pace: want none":                       {N: 5, Per: time.Second, Burst: 5, Pace: 1},
		"a token bucket with a time zone: want none":                  {N: 5, Per: time.Second, Burst: 5, Zone: "UTC"},
		"a token bucket with a period: want none":                     {N: 5, Per: time.Second, Burst: 5, Every: Weekly},
		"a window with a burst: want none":                            {N: 5, Per: time.Second, Burst: 5, Kind: Window},
		"a calendar with a burst: want none":                          {N: 5, Burst: 5, Kind: Calendar, Zone: "UTC"},
		"a calendar with a time beside its period: want none":         {N: 5, Per: time.Second, Kind: Calendar, Zone: "UTC"},
		"calendar of period 3: want Daily, Weekly or Monthly":         {N: 5, Kind: Calendar, Zone: "UTC", Every: 3},
		"rate of kind 3: want a token bucket, a window or a calendar": {N: 5, Per: time.Second, Kind: 3},
	} {
		assert.EqualError(t, r.Check(), want)
	}
}

// Rates of one unit may be quoted over one time if their kinds differ.
func TestRatesOfOneTimeDifferInKind(t *testing.T) {
	for in, want := range map[string]string{
		"500/m burst 50,500/m window,10000/d reset UTC,10000/d,9000/d reset Asia/Tokyo": "",
		"500/m window,400/m window pace 9":                                              `rates "500/m window,400/m window pace 9": two of them are windows per 1m0s`,
		"500/m,400/m burst 9":                                                           `rates "500/m,400/m burst 9": two of them are per 1m0s`,
		"500/week reset UTC,400/week reset UTC":                                         `rates "500/week reset UTC,400/week reset UTC": two of them are per week with a reset in UTC`,
		"1/s,2/m,3/h,4/d,5/2d,6/3d,7/4d,8/m window,9/d reset UTC":                       "9 rates on one unit: want at most 8",
	} {
		_, err := ParseRates(in)
		if want == "" {
			assert.NoError(t, err)
		} else {
			assert.EqualError(t, err, want)
		}
	}
}

// Limits of every kind are read in every unit, and a store that keeps token buckets only
// can refuse the others by name.
func TestParseLimitsOfEveryKind(t *testing.T) {
	l, err := ParseLimits("requests 500/m window pace, 10000/d reset America/Los_Angeles; spend $50/d reset UTC,$1/m window pace $0.5")
	assert.NoError(t, err)
	assert.Equal(t, "requests 500/m window pace 50,10000/d reset America/Los_Angeles; spend $50/d reset UTC,$1/m window pace $0.5", l.String())
	assert.Equal(t, int64(500), l.Burst().Requests, "a pace does not bound a cost")
	assert.NoError(t, l.Fits(Cost{Requests: 500}))
	assert.ErrorIs(t, l.Fits(Cost{Requests: 501}), ErrCostExceedsBurst)
	assert.EqualError(t, l.CheckTokenBuckets(), "limit on requests: 500/m window pace 50 is a window: want a token bucket, as in 500/m")
	l.Requests = nil
	assert.EqualError(t, l.CheckTokenBuckets(), "limit on spend: $50/d reset UTC is a calendar: want a token bucket, as in $50/m")
	token, err := ParseLimits("requests 500/m burst 5")
	assert.NoError(t, err)
	assert.NoError(t, token.CheckTokenBuckets())
}

// Whatever the text, ParseRate returns a rate that passes its check and is read back
// from its String, or an error of a readable length.
func FuzzParseRateOfAnyKind(f *testing.F) {
	for _, s := range []string{"100/s burst 20", "500/m window", "500/m window pace 50", "10000/d reset America/Los_Angeles", "1000/week reset UTC", "500/10 minutes window", "1/m pace 3", "5/d reset \xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseRate(s)
		if err != nil {
			if len(err.Error()) > 400 {
				t.Fatalf("an error of %d bytes: %v", len(err.Error()), err)
			}
			return
		}
		if err := r.Check(); err != nil {
			t.Fatalf("%q is read as %+v, which is refused: %v", s, r, err)
		}
		if again, err := ParseRate(r.String()); err != nil || again != r {
			t.Fatalf("%q is read as %+v, whose text %q is read as %+v, %v", s, r, r, again, err)
		}
	})
}
