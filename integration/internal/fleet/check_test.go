//go:build linux

package fleet

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/testkit/history"
)

const second = int64(time.Second)

// ran returns a process of a slot that ran from one second to another. It still
// runs if to is 0.
func ran(slot, from, to int, late ...lateness) *Process {
	p := &Process{Job: Job{Slot: slot, Incarnation: 1}, Started: int64(from) * second, ended: make(chan struct{}), late: late}
	if to > 0 {
		p.end = int64(to) * second
		close(p.ended)
	}
	return p
}

// served returns admissions of a slot at times in tenths of a second.
func served(slot int, tenths ...int64) (rs []history.Record) {
	for _, at := range tenths {
		rs = append(rs, history.Record{Worker: uint32(slot), Incarnation: 1, Before: at * second / 10, After: at * second / 10})
	}
	return rs
}

func TestRecoveries(t *testing.T) {
	s := time.Second
	for _, tt := range []struct {
		name   string
		all    []*Process
		faults []Fault
		rs     []history.Record // ordered by time
		want   []Recovery       // from the fault "kill", of slot 0
	}{
		{
			name: "the worker that waited longest counts", all: []*Process{ran(0, 0, 10), ran(1, 0, 0), ran(2, 0, 0)},
			faults: []Fault{{At: 10 * second, What: "kill"}},
			rs:     append(served(1, 101, 110, 119, 128, 137, 146, 150), served(2, 151)...),
			want:   []Recovery{{Gap: 5100 * time.Millisecond}},
		},
		{
			name: "the worker that was hit does not count", all: []*Process{ran(0, 0, 10), ran(1, 0, 0)},
			faults: []Fault{{At: 10 * second, What: "kill"}, {At: 12 * second, What: "stop"}},
			rs:     served(1, 105, 112, 119),
			want:   []Recovery{{Gap: 700 * time.Millisecond}},
		},
		{
			name: "a worker that has just started, or ends, does not count", all: []*Process{ran(0, 0, 10), ran(1, 0, 0), ran(2, 10, 0), ran(3, 0, 11)},
			faults: []Fault{{At: 10 * second, What: "kill"}, {At: 12 * second, What: "stop"}},
			rs:     served(1, 105, 110, 115),
			want:   []Recovery{{Gap: 500 * time.Millisecond}},
		},
		{
			name: "all workers together count if all were hit", all: []*Process{ran(0, 0, 10), ran(1, 0, 10)},
			faults: []Fault{{At: 10 * second, What: "kill"}, {At: 15 * second, What: "stop"}},
			rs:     append(served(0, 127), served(1, 129, 138)...),
			want:   []Recovery{{Gap: 2700 * time.Millisecond}},
		},
		{
			name: "lateness counts within the gap, of the latest three workers",
			all: []*Process{
				ran(0, 0, 10, lateness{11 * second, 9 * s}),
				ran(1, 0, 0, lateness{9 * second, 1 * s}, lateness{11 * second, 3 * s}, lateness{13 * second, 7 * s}),
				ran(2, 0, 0, lateness{12 * second, 4 * s}),
				ran(3, 0, 0, lateness{12 * second, 2 * s}),
				ran(4, 0, 0, lateness{12 * second, 3 * s}),
			},
			faults: []Fault{{At: 10 * second, What: "kill"}, {At: 14 * second, What: "stop"}},
			rs:     slices.Concat(served(1, 104, 119), served(3, 120), served(4, 121), served(2, 128, 135)),
			want:   []Recovery{{Gap: 2800 * time.Millisecond, Late: 13 * s}}, // of 6, 4, 3 and 2
		},
		{
			name: "a fault is observed until the next one", all: []*Process{ran(0, 0, 10), ran(1, 0, 0)},
			faults: []Fault{{At: 10 * second, What: "kill"}, {At: 11 * second, What: "other"}, {At: 20 * second, What: "kill"}},
			rs:     served(1, 209),
			want:   []Recovery{{Gap: 1 * s}, {Gap: 9100 * time.Millisecond}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := &Fleet{all: tt.all, Faults: tt.faults}
			got := f.Recoveries(tt.rs, "kill", 10*s)
			for i := range got {
				got[i].Fault, got[i].Admitted = Fault{}, nil
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestRowFormat(t *testing.T) {
	r := Row{What: "kill", Times: 3, Recovery: []time.Duration{3e9, 1e9, 2e9}}
	assert.Equal(t, "| kill | 3 |  |  | 2s, 3s, 3s |  |", r.String())
	r.Admissions, r.Worst = 864, history.Excess{Proved: -0.42, Suspect: 1}
	r.Lost, r.Leased = bucket.Cost{Requests: 25}, bucket.Cost{Requests: 905, Tokens: 20663}
	assert.Equal(t, "| kill | 3 | 864 | -0.42, 1.00 | 2s, 3s, 3s | 25 of 905 requests, 0 of 20663 tokens |", r.String())
}
