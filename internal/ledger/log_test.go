package ledger

import (
	"fmt"
	"time"

	"pgregory.net/rapid"

	"github.com/choked/choked/bucket"
)

// logged is an operation with its instant, as in a log.
type logged struct {
	at int64
	op Op
}

// apply applies e to tab as a leader does whose wall clock showed half past eleven in
// the night of a change to winter time in Berlin when the log began.
func (e logged) apply(tab *Table) Result {
	tab.Stamp(tab.StampsFor(time.Date(2026, 10, 24, 21, 30, 0, 0, time.UTC).UnixNano()+e.at, e.op))
	return tab.Apply(e.at, e.op)
}

// anyLimits draws one to three rates on each of some units: token buckets from one a day to
// many a millisecond, with bursts of 1 to ten times N, windows, and calendars.
func anyLimits() *rapid.Generator[bucket.Limits] {
	rate := rapid.Custom(func(t *rapid.T) bucket.Rate {
		r := bucket.Rate{Per: rapid.SampledFrom([]time.Duration{
			time.Millisecond, 7 * time.Millisecond, time.Second, time.Minute, time.Hour, 24 * time.Hour,
		}).Draw(t, "per")}
		r.N = rapid.SampledFrom([]int64{1, 3, 7, 50, 997, 999_983}).Draw(t, "n")
		switch rapid.IntRange(0, 5).Draw(t, "kind") {
		case 0:
			r.Kind, r.Pace = bucket.Window, rapid.Int64Range(0, r.N).Draw(t, "pace")
		case 1:
			r.Kind, r.Per, r.Every = bucket.Calendar, 0, rapid.SampledFrom([]bucket.Period{bucket.Daily, bucket.Weekly, bucket.Monthly}).Draw(t, "every")
			r.Zone = rapid.SampledFrom([]string{"UTC", "Europe/Berlin", "America/Los_Angeles"}).Draw(t, "zone")
		default:
			r.Burst = rapid.OneOf(rapid.Int64Range(1, 20), rapid.Just(r.N), rapid.Int64Range(1, 10*r.N)).Draw(t, "burst")
		}
		return r
	})
	rates := rapid.SliceOfNDistinct(rate, 0, 3, func(r bucket.Rate) string {
		return fmt.Sprint(r.Kind, r.Per, r.Every, r.Zone)
	})
	return rapid.Custom(func(t *rapid.T) bucket.Limits {
		l := bucket.Limits{Requests: rates.Draw(t, "requests"), Tokens: rates.Draw(t, "tokens")}
		if rapid.IntRange(0, 3).Draw(t, "more units") == 0 {
			l.Input, l.Output, l.Spend = rates.Draw(t, "input"), rates.Draw(t, "output"), rates.Draw(t, "spend")
		}
		if l.Check() != nil {
			l.Requests = bucket.Rates{rate.Draw(t, "rate")}
		}
		return l
	})
}

// anyLog draws operations on a few keys, each under a few limits, at instants
// that are equal, a fraction of a unit, about the life of a lease or up to an hour
// apart.
func anyLog(t *rapid.T) []logged {
	limits := rapid.SliceOfN(anyLimits(), 1, 3).Draw(t, "limits")
	step := rapid.OneOf(rapid.Just(int64(0)), rapid.Int64Range(1, int64(time.Millisecond)), rapid.Int64Range(1, int64(time.Second)),
		rapid.Int64Range(0, int64(bucket.TTL+bucket.TTL/4)), rapid.Int64Range(0, int64(time.Hour)))
	var now int64
	var asked uint64 // sequence numbers used
	var log []logged
	add := func(op Op) { log = append(log, logged{now, op}) }
	id := func(t *rapid.T) bucket.LeaseID {
		return bucket.LeaseID{Holder: 1, Seq: rapid.Uint64Range(1, max(asked, 1)).Draw(t, "id")}
	}
	cost := func(t *rapid.T, l bucket.Limits, bursts int64) bucket.Cost {
		draw := func(u bucket.Unit) int64 {
			burst := min(l.Burst().Of(u), 1_000_000_000)
			return rapid.OneOf(rapid.Int64Range(0, min(3, burst)), rapid.Int64Range(0, bursts*burst)).Draw(t, u.String())
		}
		var c bucket.Cost
		for u := range bucket.NumUnits {
			c = c.With(u, draw(u))
		}
		return c
	}
	if rapid.IntRange(0, 3).Draw(t, "cold") == 0 {
		add(new(ColdStart))
	}
	for range rapid.IntRange(1, 40).Draw(t, "length") {
		now += step.Draw(t, "dt")
		key := rapid.SampledFrom([]string{"a", "b", "c\x00\xff"}).Draw(t, "key")
		l := rapid.SampledFrom(limits).Draw(t, "limits")
		defined := rapid.Int64Range(1, 3).Draw(t, "defined")
		switch kind := rapid.IntRange(0, 99).Draw(t, "kind"); {
		case kind < 50:
			a := &bucket.Ask{Key: key, Limits: l, Defined: defined, Want: cost(t, l, 1)}
			if kind >= 10 {
				a.Need = cost(t, l, 1)
			}
			if asked > 0 && kind >= 45 {
				a.ID = id(t) // asked before
			} else {
				asked++
				a.ID = bucket.LeaseID{Holder: 1, Seq: asked}
			}
			if rapid.IntRange(0, 3).Draw(t, "done") == 0 {
				a.Done = []bucket.Settlement{{Key: key, ID: id(t), Spent: cost(t, l, 1)}}
			}
			add(a)
		case kind < 80:
			s := &bucket.Settlement{Key: key, ID: id(t), Spent: cost(t, l, 2)} // sometimes more than was granted
			if rapid.IntRange(0, 3).Draw(t, "parts") == 0 {
				s.Parts = []bucket.Spending{{Age: time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "age")), Cost: s.Spent.Min(bucket.Each(2))}}
			}
			add(s)
		default:
			a := &bucket.Adjustment{Key: key, Limits: l, Defined: defined}
			switch kind % 3 {
			case 0:
				a.Charge = cost(t, l, 2)
			case 1:
				a.Empty = time.Duration(rapid.Int64Range(0, int64(5*time.Second)).Draw(t, "empty"))
			case 2:
				a.Return, a.Since = cost(t, l, 1), rapid.Int64Range(0, now).Draw(t, "since")
				if rapid.Bool().Draw(t, "of a lease") {
					a.Lease = id(t)
				}
			}
			add(a)
		}
	}
	return log
}
