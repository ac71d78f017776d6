package bucket

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseRate(t *testing.T) {
	for _, c := range []struct {
		in   string
		want Rate
		out  string // the canonical form
	}{
		{"50/s", Rate{N: 50, Per: time.Second, Burst: 50}, "50/s"},                         // burst defaults to N
		{"100000/m", Rate{N: 100000, Per: time.Minute, Burst: 100000}, "100000/m"},         // tokens per minute
		{"10/h", Rate{N: 10, Per: time.Hour, Burst: 10}, "10/h"},                           //
		{"10000/d", Rate{N: 10000, Per: 24 * time.Hour, Burst: 10000}, "10000/d"},          // a provider's day
		{"5/10s", Rate{N: 5, Per: 10 * time.Second, Burst: 5}, "5/10s"},                    // a window of several
		{"5/250ms", Rate{N: 5, Per: 250 * time.Millisecond, Burst: 5}, "5/250ms"},          // and of parts
		{"50/s burst 10", Rate{N: 50, Per: time.Second, Burst: 10}, "50/s burst 10"},       // smoother than N at once
		{"1/s burst 100", Rate{N: 1, Per: time.Second, Burst: 100}, "1/s burst 100"},       // or rougher
		{"50/s burst 50", Rate{N: 50, Per: time.Second, Burst: 50}, "50/s"},                // the default need not be said
		{"100_000/m", Rate{N: 100000, Per: time.Minute, Burst: 100000}, "100000/m"},        // grouped digits
		{"1/s burst 1_000", Rate{N: 1, Per: time.Second, Burst: 1000}, "1/s burst 1000"},   // everywhere
		{" 50 / s ", Rate{N: 50, Per: time.Second, Burst: 50}, "50/s"},                     // space around a part means nothing
		{"50/s\n", Rate{N: 50, Per: time.Second, Burst: 50}, "50/s"},                       // as it comes out of a file
		{"50/sec", Rate{N: 50, Per: time.Second, Burst: 50}, "50/s"},                       // the long names, too
		{"50/second", Rate{N: 50, Per: time.Second, Burst: 50}, "50/s"},                    //
		{"3/min", Rate{N: 3, Per: time.Minute, Burst: 3}, "3/m"},                           //
		{"3/minute", Rate{N: 3, Per: time.Minute, Burst: 3}, "3/m"},                        //
		{"3/hour", Rate{N: 3, Per: time.Hour, Burst: 3}, "3/h"},                            //
		{"3/day", Rate{N: 3, Per: 24 * time.Hour, Burst: 3}, "3/d"},                        //
		{"50/seconds", Rate{N: 50, Per: time.Second, Burst: 50}, "50/s"},                   // in the plural, too
		{"50/secs", Rate{N: 50, Per: time.Second, Burst: 50}, "50/s"},                      //
		{"3/minutes", Rate{N: 3, Per: time.Minute, Burst: 3}, "3/m"},                       //
		{"3/mins", Rate{N: 3, Per: time.Minute, Burst: 3}, "3/m"},                          //
		{"3/hours", Rate{N: 3, Per: time.Hour, Burst: 3}, "3/h"},                           //
		{"3/days", Rate{N: 3, Per: 24 * time.Hour, Burst: 3}, "3/d"},                       //
		{"5/10 minutes", Rate{N: 5, Per: 10 * time.Minute, Burst: 5}, "5/10m"},             //
		{"60/60s", Rate{N: 60, Per: time.Minute, Burst: 60}, "60/m"},                       // one spelling for one rate
		{"1/366d", Rate{N: 1, Per: 366 * 24 * time.Hour, Burst: 1}, "1/366d"},              // the longest window
		{"1000000/ms", Rate{N: 1e6, Per: time.Millisecond, Burst: 1e6}, "1000000/ms"},      // the fastest rate: one a nanosecond
		{"1/d burst 3660", Rate{N: 1, Per: 24 * time.Hour, Burst: 3660}, "1/d burst 3660"}, // ten years to fill: the most
	} {
		got, err := ParseRate(c.in)
		if err != nil || got != c.want {
			t.Errorf("ParseRate(%q) = %+v, %v; want %+v", c.in, got, err, c.want)
		}
		if got.String() != c.out {
			t.Errorf("ParseRate(%q).String() = %q, want %q", c.in, got, c.out)
		}
	}
}

// Every bad rate is refused by an error that quotes it and lists the forms that are
// accepted.
func TestParseRateErrors(t *testing.T) {
	for _, c := range []struct{ in, names, wants string }{
		{"", `""`, `want "50/s"`},
		{"50", `"50"`, `want "50/s"`},           // no window
		{"/s", `"/s"`, `want "50/s"`},           // no count
		{"50/", `"50/"`, `want "50/s"`},         // a slash alone
		{"fifty/s", `"fifty/s"`, `want "50/s"`}, // not digits
		{"-5/s", `"-5/s": rate of -5 units`, `want 1 to 1000000000000`},
		{"+5/s", `"+5/s"`, `: write 5/s`},                         // no signs
		{"1.5/s", `"1.5/s"`, `: write 3/2s`},                      // whole units only
		{"1e3/s", `"1e3/s"`, `: write 1000/s`},                    //
		{"_/s", `"_/s"`, `want "50/s"`},                           // underscores group, they do not count
		{"50/fortnight", `"50/fortnight"`, `want "50/s"`},         // unknown window
		{"50/0s", `"50/0s": rate per 0s`, `want 1ms to 366 days`}, // an empty window
		{"50/-1s", `"50/-1s": rate per -1s`, `want 1ms to 366 days`},
		{"1000/us", `"1000/us": rate per us`, `want 1ms to 366 days`},
		{"5/400d", `"5/400d": rate per 400d`, `want 1ms to 366 days`},
		{"5/400days", `"5/400days": rate per 400days`, `want 1ms to 366 days`},
		{"50/1", `"50/1"`, `want "50/s"`},              // one what?
		{"50/s/s", `"50/s/s"`, `want "50/s"`},          //
		{"50 per s", `"50 per s"`, `want "50/s"`},      //
		{"50/S", `"50/S"`, `want "50/s"`},              // M would be a month to some
		{"50/s burst", `"50/s burst"`, `burst 10`},     // a burst of what?
		{"50/s burst x", `"50/s burst x"`, `burst 10`}, //
		{"50/s burst -1", `"50/s burst -1": burst of -1`, "want 1 to 1000000000000"},
		{"50/s burst 0", "burst of 0", "want 1 to"},                                                   // could admit nothing
		{"0/s", "rate of 0", "want 1 to"},                                                             // a limit of zero is a mistake
		{"1000000000001/366d", "1000000000001", "want 1 to"},                                          // absurd
		{"99999999999999999999/s", ": rate of 99999999999999999999 units", "want 1 to 1000000000000"}, // does not fit in 64 bits
		{"1/s burst 99999999999999999999", ": burst of 99999999999999999999 units", "want 1 to 1000000000000"},
		{"1/367d", `"1/367d"`, "want 1ms to 366 days"}, // longer than a year
		{"1/99999999999999999999s", "99999999999999999999s", "want 1ms to 366 days"},
		{"1/10000000000000000d", "10000000000000000d", "want 1ms to 366 days"},   // would overflow
		{"1000001/ms", "1000001", "at most one a nanosecond"},                    // faster than the clock
		{"1/d burst 3661", "burst of 3661", "takes more than 3660 days"},         // never fills
		{"1/s burst 1000000000001", "burst of 1000000000001", "want 1 to"},       // absurd
		{strings.Repeat("9", 5000) + "/s", strings.Repeat("9", 60), "want 1 to"}, // quoted in part
		{strings.Repeat("5/s;", 5000), "5/s;5/s;", "50/s"},                       //
		{strings.Repeat("1.000/s", 5000), "1.000/s", "50/s"},                     //
		{"\x00\xff/s", `"\x00\xff/s"`, `want "50/s"`},                            // quoted, so that a log line survives
	} {
		_, err := ParseRate(c.in)
		if err == nil {
			t.Errorf("ParseRate(%.40q) is accepted, want an error", c.in)
			continue
		}
		if !strings.Contains(err.Error(), c.names) || !strings.Contains(err.Error(), c.wants) {
			t.Errorf("ParseRate(%.40q): %q, want it to name %q and say %q", c.in, err, c.names, c.wants)
		}
		if len(err.Error()) > 300 {
			t.Errorf("ParseRate(%.40q): an error of %d bytes, want at most 300", c.in, len(err.Error()))
		}
	}
}

// A rate in a form that is clear and not read is refused by an error that quotes
// the input and says what to write, and what it says to write is read.
func TestErrorsSayWhatToWrite(t *testing.T) {
	const thousands = "commas separate rates, they are no thousands separators: "
	for _, c := range []struct{ in, want string }{
		{"100,000/m", thousands + "write 100000/m"},
		{"200,000/m", thousands + "write 200000/m"},
		{"1,000,000/d", thousands + "write 1000000/d"},
		{"500/m,10,000/d", thousands + "write 500/m,10000/d"},
		{"10,000/d,500/m", thousands + "write 10000/d,500/m"},
		{"10/s burst 2,000", thousands + "write 10/s burst 2000"},
		{"1,000/s burst 20,000", thousands + "write 1000/s burst 20000"},
		{"10/s burst 2,000,500/m", thousands + "write 10/s burst 2000,500/m"},
		{"100,000/minute", thousands + "write 100000/minute"}, // a name that is read stays
		{"100,000/minutes", thousands + "write 100000/minutes"},
		{"0.5/s", "write 1/2s"},
		{".5/s", "write 1/2s"},
		{"1.5/s", "write 3/2s"},
		{"0.1/m", "write 1/10m"},
		{"0.25/10s", "write 1/40s"},
		{"2.0/s", "write 2/s"},
		{"0.0/s", ""},
		{"2.5/s burst 10", "write 5/2s burst 10"},
		{"5/s burst 2.5", ""},
		{"100k/m", "write 100000/m"},
		{"100K/m", "write 100000/m"},
		{"1.5M/m", "write 1500000/m"},
		{"1.5k/s burst 2k", "write 1500/s burst 2000"},
		{"0.0005k/s", "write 1/2s"},
		{"2M/d,1k/m", "write 2000000/d"}, // the first mistake
		{"5000000M/m", ""},               // more than the largest rate
		{"5/Hour", "write 5/hour"},
		{"5/hrs", "write 5/h"},
		{"1/week", "write 1/7d"},
		{"1/2weeks", "write 1/14d"},
		{"1/month", ""}, // of how many days?
		{"5/M", ""},
		{"500rpm", "write 500/m"},
		{"500 RPM", "write 500/m"},
		{"500rps", "write 500/s"},
		{"100000tpm", "write 100000/m"},
		{"100k TPM", "write 100000/m"},
		{"1M tpd", "write 1000000/d"},
		{"100,000tpm", thousands + "write 100000/m"},
		{"500rpm burst 10", "write 500/m burst 10"},
		{"1,5/s", ""}, // a decimal comma, or two rates?
		{"500,10000/d", ""},
		{"1/s,", "a trailing comma: write 1/s"},
		{"1/s, ", "a trailing comma: write 1/s"},
		{"100,000/m,", "a trailing comma: write 100000/m"},
		{",1/s", "a comma without a rate before it: write 1/s"},
		{"1/s,,2/m", "a comma without a rate before it: write 1/s,2/m"},
		{",", "a trailing comma: want a rate on each side of a comma"},
		{"5/1m30s", "write 5/90s"},
		{"5/1.5s", "write 5/1500ms"},
		{"5/1.5h", "write 5/90m"},
		{"5/1d12h", "write 5/36h"},
		{"5/1 hour 30 minutes", "write 5/90m"},
		{"0.5/1m30s", "write 1/180s"},
		{"5/60m60s", "write 5/61m"},
		{"5/0.5ms", ""}, // below the shortest window
		{"5/1d1.5ns", ""},
		{"5/366d1s", ""},
		{"5/" + strings.Repeat("366d", 40), ""},
		{"500/m;10000/d", "a comma separates rates: write 500/m,10000/d"},
		{"500/m; 10000/d", "a comma separates rates: write 500/m,10000/d"},
		{"500/m | 10000/d", "a comma separates rates: write 500/m,10000/d"},
		{"500/m and 10k/d", "a comma separates rates: write 500/m,10000/d"},
		{"500/m;", ""},
		{"100.000/m", "the point can be read two ways: write 100000/m or 100/m"},
		{"1.500/s", "the point can be read two ways: write 1500/s or 3/2s"},
		{"10/s burst 2.000", "the point can be read two ways: write 10/s burst 2000 or 10/s burst 2"},
		{"10/s burst 2.500", "write 10/s burst 2500"}, // the only whole number
		{"100.000tpm", "the point can be read two ways: write 100000/m or 100/m"},
		{"0.125/s", "write 1/8s"},
		{"100.0000/m", "write 100/m"},
		{"1.000.000/d", "write 1000000/d"},
		{"1'000/s", "write 1000/s"},
		{"1’000’000/d", "write 1000000/d"},
		{"1 000/s", "write 1000/s"},
		{"10/s burst 1'000", "write 10/s burst 1000"},
		{"1e3/s", "write 1000/s"},
		{"1.5E+3/s", "write 1500/s"},
		{"10/s burst 1e2", "write 10/s burst 100"},
		{"1e12/366d", "write 1000000000000/366d"},
		{"1e13/366d", ""},
		{"1e99/s", ""},
		{"1e3k/s", ""},
		{"+5/s", "write 5/s"},
	} {
		_, err := ParseRates(c.in)
		if err == nil {
			t.Errorf("ParseRates(%q) is accepted, want an error", c.in)
			continue
		}
		if _, told, _ := strings.Cut(c.want, "write "); told != "" {
			for told := range strings.SplitSeq(told, " or ") {
				if _, err := ParseRates(told); err != nil {
					t.Errorf("ParseRates(%q): the error is to say %q, which is not read: %v", c.in, c.want, err)
				}
			}
		}
		first, _, _ := strings.Cut(c.in, ",")
		want := fmt.Sprintf("rate %q: %s", c.in, c.want)
		if c.want != "" && err.Error() != want && err.Error() != fmt.Sprintf("rate %q: %s", first, c.want) {
			t.Errorf("ParseRates(%q): %v, want %s", c.in, err, want)
		}
		if c.want == "" && !strings.Contains(err.Error(), "want") {
			t.Errorf("ParseRates(%q): %v, want the forms of a rate", c.in, err)
		}
	}
}

func TestParseShortLimits(t *testing.T) {
	m, d := time.Minute, 24*time.Hour
	for _, c := range []struct {
		requests, tokens string
		want             Limits
		text             string
	}{
		{"50/s", "", Limits{Requests: Rates{{N: 50, Per: time.Second, Burst: 50}}}, "requests 50/s"},
		{"", "100000/m", Limits{Tokens: Rates{{N: 100000, Per: m, Burst: 100000}}}, "tokens 100000/m"},
		{"500/m,10000/d", "", Limits{Requests: Rates{{N: 500, Per: m, Burst: 500}, {N: 10000, Per: d, Burst: 10000}}}, "requests 500/m,10000/d"},
		{"500/m, 10_000/d burst 9", "1/s", Limits{Requests: Rates{{N: 500, Per: m, Burst: 500}, {N: 10000, Per: d, Burst: 9}}, Tokens: Rates{{N: 1, Per: time.Second, Burst: 1}}},
			"requests 500/m,10000/d burst 9; tokens 1/s"},
	} {
		got, err := ParseShortLimits(c.requests, c.tokens)
		if err != nil || !got.Equal(c.want) || got.String() != c.text {
			t.Errorf("ParseShortLimits(%q, %q) = %q, %v; want %q", c.requests, c.tokens, got, err, c.text)
		}
	}
	for _, c := range []struct{ requests, tokens, names string }{
		{"", "", "no limits"},                         // a key without a limit needs no limiter
		{" ", "\t", "no limits"},                      //
		{"x", "", "limit on requests"},                // says which of the two
		{"", "x", "limit on tokens"},                  //
		{"1/s,", "", "limit on requests"},             // a comma announces another
		{"1/s,2/s", "", "two of them are per 1s"},     // which one?
		{"1/m,2/60s", "", "two of them are per 1m0s"}, // the same in other words
		{"1/s,1/2s,1/3s,1/4s,1/5s,1/6s,1/7s,1/8s,1/9s", "", "at most 8"},
	} {
		if _, err := ParseShortLimits(c.requests, c.tokens); err == nil || !strings.Contains(err.Error(), c.names) {
			t.Errorf("ParseShortLimits(%q, %q): %v, want an error that says %q", c.requests, c.tokens, err, c.names)
		}
	}
}

func TestLimitsUnmarshalTextErrors(t *testing.T) {
	for _, in := range []string{
		"", ";", "50/s", "requests", "requests 50/s;", "tokens 1/s; tokens 2/s", "bytes 1/s", "requests 50/s tokens 1/s",
	} {
		l := Limits{Requests: Rates{{N: 1, Per: time.Second, Burst: 1}}}
		err := l.UnmarshalText([]byte(in))
		if err == nil || !strings.Contains(err.Error(), "want") {
			t.Errorf("UnmarshalText(%q): %v, want an error that lists the accepted forms", in, err)
		}
		if len(l.Requests) != 1 {
			t.Errorf("UnmarshalText(%q) failed and changed the limits to %q", in, l)
		}
	}
}

func TestBadInput(t *testing.T) {
	limits := Limits{Requests: Rates{{N: 5, Per: time.Second, Burst: 5}}}
	ok := Ask{Key: "k", Limits: limits, Want: Cost{Requests: 1, Tokens: 0}}
	if err := ok.Check(); err != nil {
		t.Fatalf("a plain ask: %v", err)
	}
	with := func(f func(*Ask)) *Ask { a := ok; f(&a); return &a }
	for _, c := range []struct {
		op    interface{ Check() error }
		names string
	}{
		{with(func(a *Ask) { a.Key = "" }), "key is empty"},
		{with(func(a *Ask) { a.Key = strings.Repeat("\x00", 513) }), "513 bytes"},
		{with(func(a *Ask) { a.Limits = Limits{} }), "no limits"},
		{with(func(a *Ask) { a.Limits = Limits{Tokens: Rates{{}}} }), "limit on tokens: rate of 0"},
		{with(func(a *Ask) { a.Need.Tokens = -7 }), "-7 tokens"},
		{with(func(a *Ask) { a.Want.Requests = -7 }), "-7 requests"},
		{with(func(a *Ask) { a.Want.Requests = MaxUnits + 1 }), "1000000000001 requests"},
		{with(func(a *Ask) { a.Done = []Settlement{{Key: "k", Spent: Cost{Requests: -1, Tokens: 0}}} }), "-1 requests"},
		{with(func(a *Ask) { a.Done = slices.Repeat([]Settlement{{Key: "k"}}, 1025) }), "1025 settlements"},
		{&Settlement{Key: ""}, "key is empty"},
		{&Settlement{Key: "k", Spent: Cost{Requests: 0, Tokens: -3}}, "-3 tokens"},
		{&Adjustment{Key: "k", Limits: limits, Return: Cost{Requests: -1, Tokens: 0}}, "-1 requests"},
		{&Adjustment{Key: "k", Limits: limits, Charge: Cost{Requests: 0, Tokens: -1}}, "-1 tokens"},
		{&Adjustment{Key: "k", Limits: limits, Empty: -time.Second}, "-1s"},
		{&Adjustment{Key: "k", Limits: limits, Empty: 25 * time.Hour}, "25h"},
		{&Adjustment{Key: "k"}, "no limits"},
	} {
		err := c.op.Check()
		if err == nil || !strings.Contains(err.Error(), c.names) {
			t.Errorf("Check of %T: %v, want an error that says %q", c.op, err, c.names)
		}
	}
	if err := CheckKey(strings.Repeat("\xff", 512)); err != nil {
		t.Errorf("a key of 512 arbitrary bytes: %v", err)
	}
}

// A cost above the burst is ErrCostExceedsBurst whatever its size: callers give up
// such a call, and correct a call whose cost is malformed.
func TestFits(t *testing.T) {
	limits := Limits{Requests: Rates{{N: 5, Per: time.Second, Burst: 5}}}
	for _, c := range []struct {
		cost  Cost
		names string // empty: it fits
	}{
		{Cost{Requests: 5, Tokens: 0}, ""},
		{Cost{Requests: 6, Tokens: 0}, "6 requests asked, at most 5"},
		{Cost{Requests: MaxUnits, Tokens: 0}, "1000000000000 requests asked, at most 5"},
		{Cost{Requests: MaxUnits + 1, Tokens: 0}, "1000000000001 requests asked, at most 5"},
		{Cost{Requests: math.MaxInt64, Tokens: 0}, "9223372036854775807 requests asked, at most 5"},
		{Cost{Requests: 0, Tokens: MaxUnits + 1}, ""},  // tokens are not limited
		{Cost{Requests: 0, Tokens: math.MaxInt64}, ""}, //
		{Cost{Requests: -1, Tokens: 0}, ""},            // for Check to refuse
		{Cost{Requests: math.MinInt64, Tokens: 0}, ""}, //
		{Cost{Requests: 6, Tokens: -1}, ""},            //
	} {
		err := limits.Fits(c.cost)
		if c.names == "" && err != nil || c.names != "" && (!errors.Is(err, ErrCostExceedsBurst) || !strings.Contains(err.Error(), c.names)) {
			t.Errorf("Fits(%v): %v, want ErrCostExceedsBurst that says %q", c.cost, err, c.names)
		}
	}
	for _, c := range []struct {
		need    Cost
		exceeds bool
	}{{Cost{Requests: MaxUnits + 1, Tokens: 0}, true}, {Cost{Requests: MaxUnits + 1, Tokens: -1}, false}, {Cost{Requests: -1, Tokens: 0}, false}, {Cost{Requests: 0, Tokens: MaxUnits + 1}, false}} {
		ask := Ask{Key: "k", Limits: limits, Need: c.need}
		if err := ask.Check(); err == nil || errors.Is(err, ErrCostExceedsBurst) != c.exceeds {
			t.Errorf("Check of an ask for %v: %v, want an error that is ErrCostExceedsBurst: %v", c.need, err, c.exceeds)
		}
	}
}

// anyRate draws rates of all sizes that pass Check.
func anyRate() *rapid.Generator[Rate] {
	return rapid.Custom(func(t *rapid.T) Rate {
		unit := rapid.SampledFrom([]time.Duration{time.Millisecond, time.Second, time.Minute, time.Hour, 24 * time.Hour}).Draw(t, "window")
		r := Rate{Per: unit * time.Duration(rapid.Int64Range(1, min(int64(maxPer/unit), 5000)).Draw(t, "times"))}
		size := func(most int64, name string) int64 {
			// Small numbers, primes and the extremes each find other mistakes.
			n := rapid.OneOf(rapid.Int64Range(1, 20), rapid.SampledFrom([]int64{1, 3, 7, 50, 997, 999_983, most}),
				rapid.Int64Range(1, most)).Draw(t, name)
			return min(n, most)
		}
		r.N = size(min(MaxUnits, int64(r.Per)), "n")
		r.Burst = size(min(MaxUnits, mulDiv(int64(maxFill), r.N, int64(r.Per))), "burst")
		return r
	})
}

// windowOfAnySize draws windows of all sizes that pass Check, half of them with a pace.
func windowOfAnySize() *rapid.Generator[Rate] {
	return rapid.Custom(func(t *rapid.T) Rate {
		r := anyRate().Draw(t, "rate")
		r.Kind, r.Burst = Window, 0
		if rapid.Bool().Draw(t, "paced") {
			r.Pace = rapid.Int64Range(1, r.N).Draw(t, "pace")
		}
		if r.Check() != nil {
			r.Pace = 0 // takes too long to fill
		}
		return r
	})
}

// anyLimits draws limits of token buckets.
func anyLimits() *rapid.Generator[Limits] { return limitsOf(anyRate()) }

// anyTimedLimits draws limits of token buckets and windows.
func anyTimedLimits() *rapid.Generator[Limits] {
	return limitsOf(rapid.OneOf(anyRate(), windowOfAnySize(), windowOfAnySize()))
}

func limitsOf(rate *rapid.Generator[Rate]) *rapid.Generator[Limits] {
	rates := rapid.SliceOfNDistinct(rate, 0, 3, func(r Rate) time.Duration { return r.Per })
	return rapid.Custom(func(t *rapid.T) Limits {
		l := Limits{Requests: rates.Draw(t, "requests"), Tokens: rates.Draw(t, "tokens")}
		if rapid.IntRange(0, 3).Draw(t, "more units") == 0 {
			l.Input, l.Output, l.Spend = rates.Draw(t, "input"), rates.Draw(t, "output"), rates.Draw(t, "spend")
		}
		if l.Check() != nil {
			l.Requests = Rates{rate.Draw(t, "rate")}
		}
		return l
	})
}

func TestLimitsRestoreInATime(t *testing.T) {
	for _, tt := range []struct {
		requests, tokens string
		in               time.Duration
		want             Cost
	}{
		{"50/s", "", time.Second, Cost{Requests: 50, Tokens: 0}},
		{"50/s", "", 19 * time.Millisecond, Cost{}},
		{"50/s", "", time.Hour, Cost{Requests: 50, Tokens: 0}},
		{"50/s,100/m", "6000/m", time.Second, Cost{Requests: 1, Tokens: 100}},
		{"", "6000/m burst 7", time.Second, Cost{Requests: 0, Tokens: 7}},
	} {
		l, err := ParseShortLimits(tt.requests, tt.tokens)
		if got := l.In(tt.in); err != nil || got != tt.want {
			t.Errorf("%v restores %v in %v, %v; want %v", l, got, tt.in, err, tt.want)
		}
	}
}

func TestTextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := anyTimedLimits().Draw(t, "limits")
		if err := l.Check(); err != nil {
			t.Fatalf("drawn limits: %v", err)
		}
		roundTrip(t, l, new(Limits), func(m *Limits) bool { return l.Equal(*m) })
		roundTrip(t, l.Requests, new(Rates), func(m *Rates) bool { return m.String() == l.Requests.String() })
		any := Rate{N: 1, Per: time.Duration(rapid.Int64Range(int64(minPer), int64(maxPer)).Draw(t, "per")), Burst: 1}
		for _, r := range append(append(l.Requests, l.Tokens...), any) {
			roundTrip(t, r, new(Rate), func(m *Rate) bool { return *m == r })
		}
	})
}

// roundTrip takes v through JSON, which takes the text form.
func roundTrip[V fmt.Stringer, P any](t *rapid.T, v V, p *P, same func(*P) bool) {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatalf("marshal %q: %v", v, err)
	}
	if err := json.Unmarshal(b, p); err != nil {
		t.Fatalf("unmarshal %s: %v", b, err)
	}
	if !same(p) {
		t.Fatalf("%q is read from %s as %v", v, b, *p)
	}
}

// A value that does not pass Check is not marshalled: an error here is easier to trace
// than one where it is read.
func TestMarshalRefusesBadRates(t *testing.T) {
	for _, v := range []any{Rate{}, Rates{{}}, Limits{}, Rate{N: 1, Per: time.Second, Burst: 0}} {
		if b, err := json.Marshal(v); err == nil {
			t.Errorf("%#v is marshalled as %s, want an error", v, b)
		}
	}
}

func FuzzLimits(f *testing.F) {
	for _, s := range []string{
		"50/s", "requests 50/s; tokens 100000/m", "500/m,10000/d", "50/s burst 10", "5/10s", "1_000/m", "10/h", "/", "1/s burst 0",
		"requests 1/366d burst 10", "tokens 1000000/ms; requests 1/ms", "9223372036854775808/s", "1/9223372036854775807d",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if rs, err := ParseRates(s); err == nil {
			if again, err := ParseRates(rs.String()); err != nil || again.String() != rs.String() || len(again) != len(rs) {
				t.Errorf("ParseRates(%q) = %q, which parses as %q, %v", s, rs, again, err)
			}
		}
		var l, m Limits
		if l.UnmarshalText([]byte(s)) != nil {
			return
		}
		text, err := l.MarshalText()
		if err != nil {
			t.Fatalf("UnmarshalText(%q) gives limits that cannot be written: %v", s, err)
		}
		if err := m.UnmarshalText(text); err != nil || !m.Equal(l) {
			t.Errorf("UnmarshalText(%q) = %q, which reads as %q, %v", s, l, m, err)
		}
	})
}
