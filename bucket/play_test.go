package bucket

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"
)

const (
	s  = time.Second
	ms = time.Millisecond
)

// step is one line of a timeline. do is one of
//
//	lease a 3         an ask with the id a for 3 requests; 3+500 adds 500 tokens
//	lease a 3..10     an ask that needs 3 and wants 10
//	prefetch a 10     an ask without a need that wants 10
//	settle a 2        settles lease a with 2 spent
//	return 3          an adjustment; also charge 3, and empty 2s
//	define 9 10/s     limits on requests, defined at 9
//	level             no operation: only the level and the leases are checked
//
// and want is its outcome: "3" granted, "3 ready in 200ms", "retry in 1s",
// "error" with a part of its text, "closed", "unknown".
type step struct {
	at    time.Duration
	do    string
	want  string
	level any // an int for requests, or a Cost
	out   any
}

// play runs a timeline on a new bucket.
func play(t *testing.T, requests, tokens string, steps []step) {
	t.Helper()
	limits, err := ParseShortLimits(requests, tokens)
	if err != nil {
		t.Fatal(err)
	}
	b := New(&limits, 1)
	for i, st := range steps {
		now := int64(st.at)
		got := do(t, b, now, st.do)
		if level, out := b.limits.Limited(b.Level(now)), b.Leased(now); !answers(got, st.want) || level != asCost(t, st.level) || out != asCost(t, st.out) {
			t.Fatalf("step %d, at %v: %s\n got %q, level %v, leased %v\nwant %q, level %v, leased %v",
				i, st.at, st.do, got, level, out, st.want, asCost(t, st.level), asCost(t, st.out))
		}
	}
}

// answers reports whether an outcome is as wanted; of an error, part is enough.
func answers(got, want string) bool {
	if part, ok := strings.CutPrefix(want, "error "); ok {
		return strings.HasPrefix(got, "error ") && strings.Contains(got, part)
	}
	return got == want
}

func do(t *testing.T, b *Bucket, now int64, line string) string {
	t.Helper()
	verb, rest, _ := strings.Cut(line, " ")
	words := strings.Fields(rest)
	switch verb {
	case "lease", "prefetch":
		a := Ask{ID: idOf(words[0])}
		need, want, both := strings.Cut(words[1], "..")
		a.Need = asCost(t, need)
		a.Want = a.Need
		if both {
			a.Want = asCost(t, want)
		}
		if verb == "prefetch" {
			a.Need = Cost{}
		}
		g, err := b.Lease(now, &a)
		return outcome(g, err)
	case "settle":
		if b.Settle(now, idOf(words[0]), asCost(t, words[1])) {
			return "closed"
		}
		return "unknown"
	case "return":
		b.Adjust(now, &Adjustment{Return: asCost(t, words[0]), Since: now})
	case "charge":
		b.Adjust(now, &Adjustment{Charge: asCost(t, words[0])})
	case "empty":
		d, err := time.ParseDuration(words[0])
		if err != nil {
			t.Fatal(err)
		}
		b.Adjust(now, &Adjustment{Empty: d})
	case "define":
		at, text, _ := strings.Cut(rest, " ")
		defined, err := strconv.ParseInt(at, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		l, err := ParseLimits("requests " + text)
		if err != nil {
			t.Fatal(err)
		}
		b.Redefine(now, &l, defined)
	case "level":
	default:
		t.Fatalf("step %q: no such verb", line)
	}
	return ""
}

func outcome(g Grant, err error) string {
	switch {
	case err != nil:
		return "error " + err.Error()
	case !g.OK:
		return fmt.Sprintf("retry in %v", g.RetryAfter)
	}
	text := strconv.FormatInt(g.Granted.Requests, 10)
	if g.Granted.Tokens > 0 {
		text += fmt.Sprintf("+%d", g.Granted.Tokens)
	}
	for _, d := range g.Drips {
		text += fmt.Sprintf(" ready in %v", d.Ready)
	}
	return text
}

func idOf(name string) LeaseID { return LeaseID{Holder: uint64(name[0]), Seq: uint64(len(name))} }

// asCost reads "3", "3+500", 3 or a Cost.
func asCost(t *testing.T, v any) Cost {
	t.Helper()
	switch v := v.(type) {
	case Cost:
		return v
	case int:
		return Cost{Requests: int64(v)}
	case string:
		requests, tokens, _ := strings.Cut(v, "+")
		r, err := strconv.ParseInt(requests, 10, 64)
		if err != nil {
			t.Fatalf("cost %q: %v", v, err)
		}
		n, _ := strconv.ParseInt("0"+tokens, 10, 64)
		return Cost{Requests: r, Tokens: n}
	}
	t.Fatalf("no cost: %v", v)
	return Cost{}
}
