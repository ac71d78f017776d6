package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"gonum.org/v1/plot/plotter"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster"
)

// total is the limit of all keys together in growth, in requests a second.
const total = 5000

// growth measures how the cost of an admission grows with the number of keys, holders
// and rates, at the same number of admissions, and draws it.
func growth(ctx context.Context, c *config) (tables []table, err error) {
	nodes, stop, err := startNodes(ctx, 3, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	run := 0
	measure := func(keys, holders, rates int) (loadCost, error) {
		run++
		l, err := growthLoad(nodes, run, keys, holders, rates)
		if err != nil {
			return loadCost{}, err
		}
		return l.run(ctx)
	}
	var panels []panel
	for _, of := range []struct {
		what string
		ns   []int
		cost func(n int) (loadCost, error)
	}{
		{"keys", []int{1, 10, 100, 1000}, func(n int) (loadCost, error) { return measure(n, 3, 1) }},
		{"holders of leases", []int{1, 3, 10, 30, 100, 300}, func(n int) (loadCost, error) { return measure(1, n, 1) }},
		{"rates of the key", []int{1, 2, 4, 8}, func(n int) (loadCost, error) { return measure(1, 3, n) }},
	} {
		t := table{
			note: fmt.Sprintf("More %s. All keys together admit %d a second, with at least two callers for each key and holder. A holder is a Choke with leases of its own; the holders share three nodes.", of.what, total),
			head: []string{of.what, "admitted", "exchanges an admission", "CPU an admission"},
		}
		p := panel{of: of.what}
		for _, n := range of.ns {
			s, err := of.cost(n)
			if err != nil {
				return nil, err
			}
			t.row(n, s.admitted, fmt.Sprintf("%.3f", s.perAdmission(s.exchanges)), s.cpuPerAdmission())
			p.cpu = append(p.cpu, plotter.XY{X: float64(n), Y: float64(s.cpuPerAdmission()) / 1e3})
		}
		tables, panels = append(tables, t), append(panels, p)
	}
	if c.plot == "" {
		return tables, nil
	}
	return tables, drawGrowth(c.plot, panels)
}

// growthLoad returns the load of one measurement, on keys that no other run uses.
func growthLoad(nodes []*cluster.Node, run, keys, holders, rates int) (l load, err error) {
	l = load{stores: spread(nodes, holders), callers: max(2, (2*keys+holders-1)/holders), duration: 4 * time.Second}
	for i := range keys {
		l.keys = append(l.keys, fmt.Sprintf("growth-%d-%d", run, i))
	}
	// The burst is a tenth of a second of refill, so that the rate dominates.
	var all [2][]string
	for i := range rates {
		seconds := i + 1
		n := max(total*seconds/keys, 1)
		all[i%2] = append(all[i%2], fmt.Sprintf("%d/%ds burst %d", n, seconds, max(n/seconds/10, 2)))
	}
	l.limits, err = bucket.ParseShortLimits(strings.Join(all[0], ","), strings.Join(all[1], ","))
	return l, err
}
