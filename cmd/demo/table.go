package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/testkit/history"
)

// table prints a line a second, of less than 100 columns.
type table struct {
	options
	out     io.Writer
	rows    int
	last    time.Duration // when the previous row was printed
	refused int64         // calls refused by the provider until then
}

const (
	maxColumns = 8  // most workers that have a column each; for more, two columns show the least and the most
	headEvery  = 20 // rows between headers
)

func newTable(o options, out io.Writer) *table { return &table{options: o, out: out} }

// waiting prints how many workers are ready, before the start.
func (t *table) waiting(ready int) {
	if ready == 0 && t.rows == 0 {
		fmt.Fprintf(t.out, "%d workers with %d callers each, -store %s, %v\n", t.workers, t.callers, t.store, t.limits)
	}
	t.rows++
	fmt.Fprintf(t.out, "waiting for the workers: %d of %d ready\n", ready, t.workers)
}

// head prints the names of the columns. A worker's column has the calls admitted
// in the last second. The columns waiting and leader show the present state.
func (t *table) head() {
	t.rows = 0
	var b strings.Builder
	fmt.Fprintf(&b, "%6s ", "s")
	if t.workers <= maxColumns {
		for i := range t.workers {
			fmt.Fprintf(&b, "%5s", fmt.Sprintf("#%d", i+1))
		}
	} else {
		fmt.Fprintf(&b, "%6s%6s", "least", "most")
	}
	fmt.Fprintf(&b, " %7s%10s%6s%5s%9s  %s", "calls/s", "tokens/s", "use", "429", "waiting", "leader")
	fmt.Fprintln(t.out, b.String())
}

// row prints the admissions rs between the previous row and at.
func (t *table) row(at time.Duration, rs []history.Record, waiting int, refused int64, leader string) {
	if t.rows++; t.rows%headEvery == 0 {
		t.head()
	}
	each := make([]int64, t.workers)
	var sum bucket.Cost
	for _, r := range rs {
		each[r.Worker]++
		sum = sum.Add(r.Cost)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%6.1f ", at.Seconds())
	if t.workers <= maxColumns {
		for _, n := range each {
			fmt.Fprintf(&b, "%5d", n)
		}
	} else {
		least, most := each[0], each[0]
		for _, n := range each {
			least, most = min(least, n), max(most, n)
		}
		fmt.Fprintf(&b, "%6d%6d", least, most)
	}
	took := (at - t.last).Seconds()
	if took <= 0 {
		took = 1
	}
	var use float64
	for u := range bucket.NumUnits {
		for _, r := range t.limits.Of(u) {
			use = max(use, float64(sum.Of(u))/(float64(r.N)/r.Per.Seconds()*took))
		}
	}
	fmt.Fprintf(&b, " %7.0f%10.0f%5.0f%%%5d%9d  %s", float64(sum.Requests)/took, float64(sum.Tokens)/took,
		100*use, refused-t.refused, waiting, leader)
	t.last, t.refused = at, refused
	fmt.Fprintln(t.out, b.String())
}

// event prints a line for an event between two rows.
func (t *table) event(at time.Duration, what string) {
	fmt.Fprintf(t.out, "%6.1f  * %s\n", at.Seconds(), what)
}
