package bucket

import (
	"math"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestParseLimits(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"requests 50/s", ""},
		{" tokens  100_000 / m ;requests 50/s,500/m", "requests 50/s,500/m; tokens 100000/m"},
		{"requests 500/m; input 40000/m burst 5000; output 8000/m", ""},
		{"spend $50/d", ""},
		{"spend $0.5/m burst $2,$1_000/d", "spend $0.5/m burst $2,$1000/d"},
		{"spend $0.000001/d", ""},
	} {
		l, err := ParseLimits(c.in)
		if c.want == "" {
			c.want = c.in
		}
		if err != nil || l.String() != c.want {
			t.Errorf("ParseLimits(%q) = %q, %v; want %q", c.in, l, err, c.want)
		}
	}
}

func TestParseLimitsErrorsNameTheValue(t *testing.T) {
	for _, c := range []struct{ in, names, want string }{
		{"", "no limits", "requests 50/s; tokens 100000/m"},
		{"50/s", `unit "50/s"`, "want requests, tokens, input, output or spend"},
		{"bytes 1/s", `unit "bytes"`, "want requests, tokens"},
		{"requests 50/s;", `unit ""`, "want requests"},
		{"requests", "requests", `want a rate on requests, as in "requests 50/s"`},
		{"spend ", "spend", `want a rate on spend, as in "spend $0.00005/s"`},
		{"tokens 1/s; tokens 2/m", "tokens twice", "with commas"},
		{"tokens 50 a minute", "limit on tokens: rate \"50 a minute\"", "100000/m"},
		{"requests $5/m", `rate "$5/m"`, "want"},
		{"spend 50/d", `rate "50/d"`, `want dollars with at most 6 decimals and a window, as in "$50/d"`},
		{"spend $0.0000001/d", `rate "$0.0000001/d"`, "at most 6 decimals"},
		{"spend $-5/d", `"$-5/d"`, "want dollars"},
		{"spend -$5/d", "rate of -$5", "want $0.000001 to $1000000"},
		{"spend $5/d burst $2000000", "burst of $2000000", "want $0.000001 to $1000000"},
		{"spend $99999999999999/d", "rate of $99999999999999", "want $0.000001 to $1000000"},
		{"spend $2/ms", "rate of $2 per ms", "want at most $1000 a second"},
		{"input 1000000000001/h", "rate of 1000000000001 units", "want 1 to 1000000000000"},
		{"requests 50/s tokens 1/s", `"50/s tokens 1/s"`, "want"},
	} {
		_, err := ParseLimits(c.in)
		if err == nil || !strings.Contains(err.Error(), c.names) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ParseLimits(%q): %v, want it to name %s and say %q", c.in, err, c.names, c.want)
		}
	}
}

func TestLimitsAreReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := anyLimits().Draw(t, "limits")
		if m, err := ParseLimits(l.String()); err != nil || !m.Equal(l) {
			t.Fatalf("ParseLimits(%q) = %q, %v", l, m, err)
		}
	})
}

func TestACostIsReadAsItIsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var c Cost
		for u := range NumUnits {
			c = c.With(u, rapid.Int64Range(0, MaxUnits).Draw(t, u.String()))
		}
		if d, err := ParseCost(c.Text()); err != nil || d != c {
			t.Fatalf("ParseCost(%q) = %v, %v; want %v", c.Text(), d, err, c)
		}
	})
}

func TestParseCostErrors(t *testing.T) {
	for _, c := range []struct{ in, names, want string }{
		{"5", `unit "5"`, "want requests, tokens"},
		{"requests", `requests of ""`, "a whole number from 0 to"},
		{"requests -1", `requests of "-1"`, "a whole number from 0 to 1000000000000"},
		{"tokens 1.5", `tokens of "1.5"`, "a whole number"},
		{"spend 3", `spend of "3"`, "dollars with at most 6 decimals"},
		{"spend -$3", `spend of "-$3"`, "from $0 to $1000000"},
		{"input 1; input 2", "input twice", "requests 1; tokens 200"},
		{"output 99999999999999999999", `output of "99999999999999999999"`, "from 0 to"},
	} {
		_, err := ParseCost(c.in)
		if err == nil || !strings.Contains(err.Error(), c.names) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("ParseCost(%q): %v, want it to name %s and say %q", c.in, err, c.names, c.want)
		}
	}
}

func TestAnAmountHasItsUnit(t *testing.T) {
	c := Cost{Requests: 1, Tokens: -20, Input: 3, Output: 4, Spend: -1_050_000}
	const want = "1 requests, -20 tokens, 3 input tokens, 4 output tokens, -$1.05"
	if got := c.String(); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := (Cost{}).String(); got != "nothing" {
		t.Errorf("%q, want nothing", got)
	}
}

// What a call is charged follows from what the key limits.
func TestCharge(t *testing.T) {
	for _, c := range []struct {
		limits     string
		cost, want Cost
		fails      string
	}{
		{"requests 1/s", Cost{Requests: 1, Tokens: 5, Spend: 7}, Cost{Requests: 1}, ""},
		{"tokens 1/s", Cost{Requests: 1, Input: 5, Output: 7}, Cost{Tokens: 12}, ""},
		{"tokens 1/s", Cost{Tokens: 3, Input: 5, Output: 7}, Cost{Tokens: 3}, ""}, // as given
		{"input 1/s", Cost{Input: 5}, Cost{Input: 5}, ""},
		{"input 1/s", Cost{Tokens: 9, Output: 9}, Cost{}, ""}, // no prompt
		{"input 1/s", Cost{Requests: 1}, Cost{}, ""},          // no tokens at all
		{"input 1/s", Cost{Tokens: 9}, Cost{}, "9 tokens without input"},
		{"output 1/s; tokens 1/s", Cost{Tokens: 9}, Cost{}, "9 tokens without output"},
		{"tokens 1/s; input 1/s; output 1/s", Cost{Input: 2, Output: 3}, Cost{Tokens: 5, Input: 2, Output: 3}, ""},
		{"tokens 1/s", Cost{Input: math.MaxInt64, Output: math.MaxInt64}, Cost{Tokens: math.MaxInt64}, ""},
		{"spend $1/d", Cost{Tokens: 9, Spend: 4}, Cost{Spend: 4}, ""},
		{"tokens 1/s", Cost{Input: math.MaxInt64, Output: 1}, Cost{Tokens: math.MaxInt64}, ""}, // not a negative cost
	} {
		l, err := ParseLimits(c.limits)
		if err != nil {
			t.Fatal(err)
		}
		got, err := l.Charge(c.cost)
		if got != c.want || (err == nil) != (c.fails == "") || err != nil && !strings.Contains(err.Error(), c.fails) {
			t.Errorf("under %q a call of %v is charged %v, %v; want %v, %q", c.limits, c.cost, got, err, c.want, c.fails)
		}
	}
}

// A share has of each unit the part that the scarcest one allows.
func TestShareOfManyUnits(t *testing.T) {
	want := Cost{Requests: 10, Tokens: 1000, Input: 600, Output: 400, Spend: 100}
	room := want
	room.Output = 100 // a quarter
	if got := Share(Cost{}, want, room); got != (Cost{3, 250, 150, 100, 25}) {
		t.Errorf("a quarter of the output: %v", got)
	}
	room.Spend = 10 // a tenth
	if got := Share(Cost{Input: 100}, want, room); got != (Cost{1, 100, 100, 40, 10}) {
		t.Errorf("a tenth of the spend, and the input that is needed: %v", got)
	}
}

func TestARateOnEachUnitHolds(t *testing.T) {
	l, err := ParseLimits("requests 5/s; tokens 50/s; input 30/s; output 20/s; spend $0.001/s")
	if err != nil {
		t.Fatal(err)
	}
	for u := range NumUnits {
		b := New(&l, 1)
		full := b.Level(0)
		need := Cost{}.With(u, full.Of(u))
		if g, err := b.Lease(0, &Ask{ID: LeaseID{1, 1}, Need: need, Want: need}); err != nil || !g.OK {
			t.Fatalf("all %v: %+v, %v", u, g, err)
		}
		g, err := b.Lease(0, &Ask{ID: LeaseID{1, 2}, Need: Cost{}.With(u, 1)})
		if err != nil || g.OK || g.RetryAfter < time.Second || g.Level != full.Sub(need) {
			t.Errorf("one more of %v: %+v, %v; want a refusal", u, g, err)
		}
	}
}
