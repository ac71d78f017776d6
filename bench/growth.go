package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"gonum.org/v1/plot/plotter"

	"github.com/choked/choked"
	"github.com/choked/choked/cluster"
)

// total is what all keys together admit in growth, a second.
const total = 5000

// growth measures how the cost of an admission grows with what there is more of,
// while as much is admitted, and draws it.
func growth(ctx context.Context, c *config) (tables []table, err error) {
	nodes, stop, err := startNodes(ctx, 3, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	run := 0
	measure := func(keys, holders, rates int) (spent, error) {
		run++
		l, err := growing(nodes, run, keys, holders, rates)
		if err != nil {
			return spent{}, err
		}
		return l.run(ctx)
	}
	var panels []panel
	for _, of := range []struct {
		what string
		ns   []int
		cost func(n int) (spent, error)
	}{
		{"keys", []int{1, 10, 100, 1000}, func(n int) (spent, error) { return measure(n, 3, 1) }},
		{"holders of leases", []int{1, 3, 10, 30, 100, 300}, func(n int) (spent, error) { return measure(1, n, 1) }},
		{"rates of the key", []int{1, 2, 4, 8}, func(n int) (spent, error) { return measure(1, 3, n) }},
	} {
		t := table{
			note: fmt.Sprintf("More %s. All keys together admit %d a second, to as many callers as two for each key and holder. A holder is a Choke with leases of its own; they share three nodes.", of.what, total),
			head: []string{of.what, "admitted", "exchanges an admission", "CPU an admission"},
		}
		p := panel{of: of.what}
		for _, n := range of.ns {
			s, err := of.cost(n)
			if err != nil {
				return nil, err
			}
			t.row(n, s.admitted, fmt.Sprintf("%.3f", s.each(s.exchanges)), s.cpuEach())
			p.cpu = append(p.cpu, plotter.XY{X: float64(n), Y: float64(s.cpuEach()) / 1e3})
		}
		tables, panels = append(tables, t), append(panels, p)
	}
	if c.plot == "" {
		return tables, nil
	}
	return tables, drawGrowth(c.plot, panels)
}

func growing(nodes []*cluster.Node, run, keys, holders, rates int) (l load, err error) {
	l = load{stores: spread(nodes, holders), callers: max(2, (2*keys+holders-1)/holders), span: 4 * time.Second}
	for i := range keys {
		l.keys = append(l.keys, fmt.Sprintf("growth-%d-%d", run, i))
	}
	// A burst of a tenth of a second: little more than the rate is measured.
	var all [2][]string
	for i := range rates {
		seconds := i + 1
		n := max(total*seconds/keys, 1)
		all[i%2] = append(all[i%2], fmt.Sprintf("%d/%ds burst %d", n, seconds, max(n/seconds/10, 2)))
	}
	l.limits, err = choked.ParseLimits(strings.Join(all[0], ","), strings.Join(all[1], ","))
	return l, err
}
