//go:build linux

package fleet

import (
	"fmt"
	"slices"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/history"
)

// Recovery is what a fault cost those who were served: how long none of them
// was, and how long at worst one of them.
type Recovery struct {
	Fault
	Gap   time.Duration // nobody
	Worst time.Duration // one of those that ran all the time
}

// Recoveries returns what the faults named cost, each looked at until the next
// fault, or for at most patience.
func (f *Fleet) Recoveries(rs []history.Record, what string, patience time.Duration) (list []Recovery) {
	for i, fault := range f.Faults {
		if fault.What != what {
			continue
		}
		until := fault.At + int64(patience)
		if i+1 < len(f.Faults) {
			until = min(until, f.Faults[i+1].At)
		}
		r := Recovery{Fault: fault}
		r.Gap, _ = history.Gap(rs, fault.At, until)
		for _, p := range f.all {
			if p.Job.Slot == fault.Slot || p.Begun > fault.At-int64(time.Second) || p.endedBefore(until) {
				continue
			}
			own := slices.DeleteFunc(slices.Clone(rs), func(r history.Record) bool {
				return r.Worker != uint32(p.Job.Slot) || r.Incarnation != uint32(p.Job.Incarnation)
			})
			gap, _ := history.Gap(own, fault.At, until)
			r.Worst = max(r.Worst, gap)
		}
		list = append(list, r)
	}
	return list
}

// Spread is the quantiles of some durations.
type Spread struct {
	N             int
	P50, P99, Max time.Duration
}

// SpreadOf returns the quantiles of ds.
func SpreadOf(ds []time.Duration) Spread {
	ds = slices.Sorted(slices.Values(ds))
	return Spread{len(ds), history.Quantile(ds, 0.5), history.Quantile(ds, 0.99), history.Quantile(ds, 1)}
}

func (s Spread) String() string {
	ms := time.Millisecond
	return fmt.Sprintf("p50 %v, p99 %v, max %v of %d", s.P50.Round(ms), s.P99.Round(ms), s.Max.Round(ms), s.N)
}

// Total is the cost of all records.
func Total(rs []history.Record) (c bucket.Cost) {
	for _, r := range rs {
		c = c.Add(bucket.Cost{Requests: r.Requests, Tokens: r.Tokens})
	}
	return c
}
