//go:build linux

package fleet

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/testkit/history"
)

// Recovery is what a fault cost those who had a demand and were not hit.
type Recovery struct {
	Fault
	Gap  time.Duration // for how long one of them was not served, at worst; nobody, if all were hit
	Late time.Duration // by which the machine was late meanwhile: the three workers together that it was for most

	Admitted []history.Record // while it was looked at
}

// decide is how many workers a decision takes: who asks, who leads, and a voter.
const decide = 3

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
		var end int64
		worst := func(rs []history.Record) {
			if gap, at := history.Gap(rs, fault.At, until); gap > r.Gap {
				r.Gap, end = gap, at
			}
		}
		all := true
		r.Admitted = between(rs, fault.At, until)
		for _, p := range f.all {
			if p.Job.Slot != fault.Slot && p.Begun < fault.At-int64(time.Second) && !p.endedBefore(until) {
				all = false
				worst(p.of(r.Admitted))
			}
		}
		if all {
			worst(r.Admitted)
		}
		var late []time.Duration
		for _, p := range f.all {
			if p.Job.Slot != fault.Slot {
				late = append(late, p.Late(end-int64(r.Gap), end))
			}
		}
		slices.Sort(late)
		for _, l := range late[max(0, len(late)-decide):] {
			r.Late += l
		}
		list = append(list, r)
	}
	return list
}

// between returns the records noted between two instants; rs is in that order.
func between(rs []history.Record, from, to int64) []history.Record {
	at := func(t int64) int {
		i, _ := slices.BinarySearchFunc(rs, t, func(r history.Record, t int64) int { return cmp.Compare(r.After, t) })
		return i
	}
	return rs[at(from):at(to)]
}

// of returns those of rs that are the process's.
func (p *Process) of(rs []history.Record) (own []history.Record) {
	for _, r := range rs {
		if r.Worker == uint32(p.Job.Slot) && r.Incarnation == uint32(p.Job.Incarnation) {
			own = append(own, r)
		}
	}
	return own
}

// Row is a line of the table in docs/reliability.md. What is zero stays empty.
type Row struct {
	What         string
	Times        int
	Admissions   int // that were checked
	Worst        history.Excess
	Recovery     []time.Duration
	Lost, Leased bucket.Cost
}

// Columns are the names of a [Row]'s columns.
const Columns = "| fault | times | admissions checked | worst excess, units: proved, suspected | recovery: p50, p99, max | lost with a lease, of what was leased |"

func (r Row) String() string {
	admissions, recovery, lost := " | ", "", ""
	if r.Admissions > 0 {
		admissions = fmt.Sprintf("%d | %.2f, %.2f", r.Admissions, r.Worst.Proved, r.Worst.Suspect)
	}
	if len(r.Recovery) > 0 {
		recovery = Quantiles(r.Recovery)
	}
	for u := range bucket.Tokens + 1 {
		if leased := r.Leased.Of(u); leased > 0 {
			lost += fmt.Sprintf(", %d of %d %v", r.Lost.Of(u), leased, u)
		}
	}
	return fmt.Sprintf("| %s | %d | %s | %s | %s |", r.What, r.Times, admissions, recovery, strings.TrimPrefix(lost, ", "))
}

// Quantiles are the median of ds, what 99 of 100 do not exceed, and the longest.
func Quantiles(ds []time.Duration) string {
	ds = slices.Sorted(slices.Values(ds))
	at := func(p float64) time.Duration { return history.Quantile(ds, p).Round(time.Millisecond) }
	return fmt.Sprintf("%v, %v, %v", at(0.5), at(0.99), at(1))
}

// Total is the cost of all records.
func Total(rs []history.Record) (c bucket.Cost) {
	for _, r := range rs {
		c = c.Add(bucket.Cost{Requests: r.Requests, Tokens: r.Tokens})
	}
	return c
}
