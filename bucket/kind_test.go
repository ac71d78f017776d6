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

func TestParseKind(t *testing.T) {
	window := func(n int64, per time.Duration, pace int64) anyRateText {
		return anyRateText{kind: windowKind, n: n, per: per, pace: pace}
	}
	calendar := func(n int64, every period, zone string) anyRateText {
		return anyRateText{kind: calendarKind, n: n, every: every, zone: zone}
	}
	for _, tt := range []struct {
		in   string
		want anyRateText
		out  string // the canonical form
	}{
		{"100/s", anyRateText{n: 100, per: time.Second, burst: 100}, "100/s"},
		{"100/s burst 20", anyRateText{n: 100, per: time.Second, burst: 20}, "100/s burst 20"},
		{"500/m window", window(500, time.Minute, 0), "500/m window"},
		{" 500 / 10  minutes window ", window(500, 10*time.Minute, 0), "500/10m window"},
		{"100_000/day window", window(100_000, day, 0), "100000/d window"},
		{"1000000000000/ms window", window(MaxUnits, time.Millisecond, 0), "1000000000000/ms window"},
		{"1/366d window", window(1, 366*day, 0), "1/366d window"},
		{"500/m window pace", window(500, time.Minute, 50), "500/m window pace 50"}, // a tenth
		{"5/m window pace", window(5, time.Minute, 1), "5/m window pace 1"},         // at least a call
		{"500/m window pace 1_00", window(500, time.Minute, 100), "500/m window pace 100"},
		{"500/m window pace 500", window(500, time.Minute, 500), "500/m window pace 500"},
		{"10000/d reset America/Los_Angeles", calendar(10_000, daily, "America/Los_Angeles"), "10000/d reset America/Los_Angeles"},
		{"10000/day reset UTC", calendar(10_000, daily, "UTC"), "10000/d reset UTC"},
		{"1000/week reset Europe/Berlin", calendar(1000, weekly, "Europe/Berlin"), "1000/week reset Europe/Berlin"},
		{"20_000 / month reset UTC", calendar(20_000, monthly, "UTC"), "20000/month reset UTC"},
	} {
		got, err := parseKind(tt.in)
		assert.NoError(t, err, tt.in)
		assert.Equal(t, tt.want, got, tt.in)
		assert.Equal(t, tt.out, got.String(), tt.in)
	}
}

// Every bad rate is refused by an error that quotes it and says what to write.
func TestParseKindErrors(t *testing.T) {
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
		{"500/m burst 20 window", `rate "500/m burst 20 window": only a bucket has a burst: write 500/m window`},
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
		r, err := parseKind(tt.in)
		assert.EqualError(t, err, tt.want)
		assert.Zero(t, r)
	}
	for _, in := range []string{"", "/", "window", "500 window", "/m window", "x/m window", "500/x window", "500/x rolling", "500/m burst", "500/", strings.Repeat("5/d reset UTC ", 999)} {
		_, err := parseKind(in)
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
		r := anyRateText{kind: rapid.SampledFrom([]rateKind{bucketKind, windowKind, calendarKind}).Draw(t, "kind")}
		switch r.n = rapid.Int64Range(-1, MaxUnits+1).Draw(t, "n"); r.kind {
		case bucketKind:
			r.per, r.burst = time.Duration(rapid.Int64Range(0, int64(maxPer)+1).Draw(t, "per")), rapid.Int64Range(-1, MaxUnits+1).Draw(t, "burst")
		case windowKind:
			r.per, r.pace = time.Duration(rapid.Int64Range(0, int64(maxPer)+1).Draw(t, "per")), rapid.Int64Range(-1, 1000).Draw(t, "pace")
		case calendarKind:
			r.every, r.zone = rapid.SampledFrom([]period{daily, weekly, monthly}).Draw(t, "every"), rapid.SampledFrom(zones).Draw(t, "zone")
		}
		got, err := parseKind(r.String())
		if (err == nil) != (r.check() == nil) {
			t.Fatalf("%q is read with %v, and its check says %v", r, err, r.check())
		}
		if err == nil && got != r {
			t.Fatalf("%q is read as %+v, want %+v", r, got, r)
		}
	})
}

// Whatever the text, parseKind returns a rate that passes its check and is read back
// from its String, or an error of a readable length.
func FuzzParseKind(f *testing.F) {
	for _, s := range []string{"100/s burst 20", "500/m window", "500/m window pace 50", "10000/d reset America/Los_Angeles", "1000/week reset UTC", "500/10 minutes window", "1/m pace 3", "5/d reset \xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parseKind(s)
		if err != nil {
			if len(err.Error()) > 400 {
				t.Fatalf("an error of %d bytes: %v", len(err.Error()), err)
			}
			return
		}
		if err := r.check(); err != nil {
			t.Fatalf("%q is read as %+v, which is refused: %v", s, r, err)
		}
		if again, err := parseKind(r.String()); err != nil || again != r {
			t.Fatalf("%q is read as %+v, whose text %q is read as %+v, %v", s, r, r, again, err)
		}
	})
}
