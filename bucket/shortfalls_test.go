package bucket

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A return is worth the least shortfall of the bucket since the charge.
func TestReturnIsWorthTheLeastShortfall(t *testing.T) {
	limits := Limits{Requests: Rates{{N: 10, Per: s, Burst: 10}}}
	b := New(&limits, 1)
	now := int64(s)
	spend := func(name string, n int64) {
		t.Helper()
		g, err := b.Lease(now, &Ask{ID: idOf(name), Need: Cost{Requests: n, Tokens: 0}})
		if err != nil || !g.OK || !b.Settle(now, idOf(name), Cost{Requests: n, Tokens: 0}) {
			t.Fatalf("spend %d: %+v, %v", n, g, err)
		}
	}
	returns := func(since, n, want int64, why string) {
		t.Helper()
		before := b.Level(now).Requests
		b.Adjust(now, &Adjustment{Return: Cost{Requests: n, Tokens: 0}, Since: since})
		if got := b.Level(now).Requests - before; got != want {
			t.Errorf("%d returned at %v: worth %d, want %d: %s", n, now, got, want, why)
		}
	}
	spend("a", 8) // 8 below full
	first := now
	now += int64(600 * ms) // and now 2
	spend("b", 4)          // and now 6
	second := now
	returns(0, 9, 0, "the bucket was full in the beginning")
	returns(first, 8, 2, "all but 2 of the 8 were restored by the refill")
	returns(first, 8, 0, "those 2 were returned already")
	returns(second, 3, 3, "no unit was restored since")
	now += int64(5 * s)
	spend("c", 5)
	returns(second, 1, 0, "the bucket was full meanwhile")
	returns(now+1, 5, 0, "the instant is in the future: another bucket was charged")
	returns(now, 5, 5, "no unit was restored since")
}

// The kept values, compared with all values: since never returns more than the least
// shortfall, and returns it exactly as long as no value had to be dropped.
func TestShortfalls(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var kept shortfalls
		var all [2]shortfalls
		now := int64(0)
		for range rapid.IntRange(1, 60).Draw(t, "notes") {
			now += rapid.Int64Range(0, 3).Draw(t, "later")
			rate := rapid.IntRange(0, 1).Draw(t, "rate")
			shortfall := rapid.Int64Range(0, 20).Draw(t, "shortfall")
			kept = kept.note(rate, now, shortfall)
			all[rate] = append(all[rate], Shortfall{now, shortfall, uint8(rate)})
			if n := len(kept); n > 2*keptShortfalls {
				t.Fatalf("%d are kept of two rates", n)
			}
			if rapid.IntRange(0, 9).Draw(t, "reduce") == 0 {
				d := rapid.Int64Range(0, 3).Draw(t, "by")
				kept.reduce(rate, d)
				for i := range all[rate] {
					all[rate][i].Least = max(all[rate][i].Least-d, 0)
				}
			}
			since := rapid.Int64Range(0, now).Draw(t, "since")
			least := int64(math.MaxInt64)
			for i, x := range all[rate] {
				if x.At > since || i == len(all[rate])-1 {
					least = min(least, x.Least)
				}
			}
			got := kept.since(rate, since)
			if got > least {
				t.Fatalf("since %d the least shortfall of rate %d is %d, kept is %d of %v", since, rate, least, got, all[rate])
			}
			distinct := map[int64]bool{}
			for i := range all[rate] {
				distinct[slices.MinFunc(all[rate][i:], func(a, b Shortfall) int { return int(a.Least - b.Least) }).Least] = true
			}
			if len(distinct) <= keptShortfalls && len(all[rate]) <= keptShortfalls && got != least {
				t.Fatalf("since %d the least shortfall of rate %d is %d, kept is %d though no value had to be dropped", since, rate, least, got)
			}
		}
	})
}

// A bucket that is emptied step by step has more shortfalls than are kept. Dropping
// some makes returns worth less, not more.
func TestDroppedShortfalls(t *testing.T) {
	var l shortfalls
	for i := int64(1); i <= 4*keptShortfalls; i++ {
		l = l.note(0, i, i*i)
		for since := range i {
			if got, least := l.since(0, since), (since+1)*(since+1); got > least {
				t.Fatalf("of %d shortfalls: the least since %d is %d, kept is %d", i, since, least, got)
			}
		}
	}
	if len(l) != keptShortfalls {
		t.Fatalf("%d are kept, want %d", len(l), keptShortfalls)
	}
}
