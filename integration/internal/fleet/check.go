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

// Recovery is the effect of a fault on the workers that it did not hit.
type Recovery struct {
	Fault
	Gap  time.Duration // longest time without an admission for one of them; if all were hit, for all workers together
	Late time.Duration // lateness during Gap, summed over the latest decisionWorkers workers

	Admitted []history.Record // by all workers, while the fault was observed
}

// decisionWorkers is how many workers a decision needs: the worker that asks, the
// leader, and another voter.
const decisionWorkers = 3

// Recoveries returns the recovery from each fault of the given name. A fault is
// observed until the next fault, of any name, or for at most timeout. rs are all
// admissions, in order of time.
func (f *Fleet) Recoveries(rs []history.Record, what string, timeout time.Duration) (list []Recovery) {
	for i, fault := range f.Faults {
		if fault.What != what {
			continue
		}
		until := fault.At + int64(timeout)
		if i+1 < len(f.Faults) {
			until = min(until, f.Faults[i+1].At)
		}
		list = append(list, f.recovery(fault, rs, until))
	}
	return list
}

func (f *Fleet) recovery(fault Fault, rs []history.Record, until int64) Recovery {
	r := Recovery{Fault: fault, Admitted: between(rs, fault.At, until)}
	var end int64 // of the longest gap
	observe := func(rs []history.Record) {
		if gap, at := history.Gap(rs, fault.At, until); gap > r.Gap {
			r.Gap, end = gap, at
		}
	}
	all := true
	for _, p := range f.all {
		if p.Job.Slot != fault.Slot && p.Started < fault.At-int64(time.Second) && !p.endedBefore(until) {
			all = false
			observe(p.ownRecords(r.Admitted))
		}
	}
	if all {
		observe(r.Admitted)
	}
	var late []time.Duration
	for _, p := range f.all {
		if p.Job.Slot != fault.Slot {
			late = append(late, p.Late(end-int64(r.Gap), end))
		}
	}
	slices.Sort(late)
	for _, l := range late[max(0, len(late)-decisionWorkers):] {
		r.Late += l
	}
	return r
}

// between returns the records whose admission ended between two times. rs is in
// order of After.
func between(rs []history.Record, from, to int64) []history.Record {
	at := func(t int64) int {
		i, _ := slices.BinarySearchFunc(rs, t, func(r history.Record, t int64) int { return cmp.Compare(r.After, t) })
		return i
	}
	return rs[at(from):at(to)]
}

// ownRecords returns the records of rs that p has written.
func (p *Process) ownRecords(rs []history.Record) (own []history.Record) {
	for _, r := range rs {
		if r.Worker == uint32(p.Job.Slot) && r.Incarnation == uint32(p.Job.Incarnation) {
			own = append(own, r)
		}
	}
	return own
}

// Row is a row of the tables in docs/reliability.md. Zero values are left empty.
type Row struct {
	What         string
	Times        int
	Admissions   int // checked against the bound
	Worst        history.Excess
	Recovery     []time.Duration
	Lost, Leased bucket.Cost
}

// Columns are the names of a [Row]'s columns.
const Columns = "| fault | times | admissions checked | worst excess, units: proved, suspected | recovery: p50, p99, max | lost with leases, of the leased quota |"

func (r Row) String() string {
	admissions, recovery, lost := " | ", "", ""
	if r.Admissions > 0 {
		admissions = fmt.Sprintf("%d | %.2f, %.2f", r.Admissions, r.Worst.Proved, r.Worst.Suspect)
	}
	if len(r.Recovery) > 0 {
		recovery = Quantiles(r.Recovery)
	}
	for u := range bucket.NumUnits {
		if leased := r.Leased.Of(u); leased > 0 {
			lost += fmt.Sprintf(", %d of %d %v", r.Lost.Of(u), leased, u)
		}
	}
	return fmt.Sprintf("| %s | %d | %s | %s | %s |", r.What, r.Times, admissions, recovery, strings.TrimPrefix(lost, ", "))
}

// Quantiles formats the median, the 99th percentile and the maximum of ds.
func Quantiles(ds []time.Duration) string {
	ds = slices.Sorted(slices.Values(ds))
	at := func(p float64) time.Duration { return history.Quantile(ds, p).Round(time.Millisecond) }
	return fmt.Sprintf("%v, %v, %v", at(0.5), at(0.99), at(1))
}

// Total returns the sum of the costs of all records.
func Total(rs []history.Record) (c bucket.Cost) {
	for _, r := range rs {
		c = c.Add(r.Cost)
	}
	return c
}
