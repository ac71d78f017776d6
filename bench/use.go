package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/choked/choked"
)

// use measures how much of a limit is used under demand, by few and by many
// workers, small and large.
func use(ctx context.Context, c *config) ([]table, error) {
	t := table{
		note: fmt.Sprintf("Workers that are members, all in one process, four callers on each, flat out for %v, on 50/s three times as long; three that vote in processes of their own. Use is what was admitted beyond the burst, of what was restored.", c.seconds),
		head: []string{"workers", "limit", "admitted", "over, units", "use", "Jain after the burst", "longest wait"},
	}
	least := 1.0
	for _, n := range []int{3, 10, 50} {
		limits := []choked.Rate{perSecond(50), perSecond(1000), perSecond(20_000), perSecond(100_000)}
		if n == 3 {
			limits = append(limits, choked.Rate{N: 50, Per: time.Second, Burst: 1})
		}
		if err := used(ctx, c, n, limits, func(limit choked.Rate, r result) {
			t.row(n, limit, r.admitted, fmt.Sprintf("%.1f", r.over), percent(r.use), fmt.Sprintf("%.4f", r.then), r.longest.Round(time.Millisecond))
			c.bound(r.over)
			if limit.Burst > 1 {
				least = min(least, r.use)
				return
			}
			c.goals.add("use of the limit, 50/s burst 1", "≥ 85%", percent(r.use), r.use >= 0.85, "")
		}); err != nil {
			return nil, err
		}
	}
	c.goals.add("use of the limit, 3–50 workers, 50/s–100,000/s, the least", "≥ 99%", percent(least), least >= 0.99, "")
	below, err := below(ctx, c)
	return []table{t, below}, err
}

// used has n workers compete for one limit after the other.
func used(ctx context.Context, c *config, n int, limits []choked.Rate, report func(choked.Rate, result)) (err error) {
	three, err := startTrio(ctx, job{}, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, three.stop()) }()
	stores, stop, err := three.members(ctx, n)
	if err != nil {
		return err
	}
	for _, limit := range limits {
		takers, end, err := choking(stores, fmt.Sprint("use-", limit), limit, true)
		if err != nil {
			return errors.Join(err, stop())
		}
		d := c.seconds
		if limit.N <= 50 { // each of few units counts
			d *= 3
		}
		r := compete(ctx, takers, true, 4, limit, d)
		if err = errors.Join(r.err, end()); err != nil {
			return errors.Join(fmt.Errorf("%d workers, %v: %w", n, limit, err), stop())
		}
		report(limit, r)
	}
	return stop()
}

// below measures the exchanges of workers that need less than the limit: calls
// come at random, and wait for nothing but the store.
func below(ctx context.Context, c *config) (table, error) {
	const workers = 10
	t := table{
		note: fmt.Sprintf("Load below the limit of 1,000/s: calls come at random, 80 a second at each of %d workers that are nodes of a cluster. The median of %d runs of %v.", workers, c.repeats, c.seconds),
		head: []string{"calls a second, all", "admitted", "exchanges a second and worker", "exchanges an admission"},
	}
	nodes, stop, err := startNodes(ctx, workers, false)
	if err != nil {
		return t, err
	}
	var runs [][]float64
	for run := range c.repeats {
		s, err := load{stores: spread(nodes, workers), keys: []string{fmt.Sprint("below-", run)}, limits: choked.MustLimits("1000/s", ""),
			callers: 1, every: time.Second / 80, span: c.seconds}.run(ctx)
		if err != nil {
			return t, errors.Join(err, stop())
		}
		runs = append(runs, []float64{float64(s.admitted) / c.seconds.Seconds(), float64(s.exchanges) / c.seconds.Seconds() / workers, s.each(s.exchanges)})
	}
	m := medians(runs)
	t.row(workers*80, fmt.Sprintf("%.0f a second", m[0]), fmt.Sprintf("%.1f", m[1]), fmt.Sprintf("%.2f", m[2]))
	c.goals.add("exchanges at 1,000/s over 10 workers, load below the limit", "≤ 25 a second and worker", fmt.Sprintf("%.1f", m[1]), m[1] <= 25, "")
	return t, stop()
}

// fairness measures how evenly a small limit is shared, and who waits longest.
func fairness(ctx context.Context, c *config) ([]table, error) {
	const note = "Use is what was admitted beyond the burst, of what was restored. Jain's index is 1 when all workers get the same; of the burst, those get most who are there first."
	head := []string{"", "admitted", "over, units", "use", "Jain", "Jain after the burst", "longest wait", "calls that failed"}
	fast := table{note: fmt.Sprintf("50/s, 4 callers on each worker, 30 s. %s gubernator says of a refusal only when the bucket will be full: who asks again then, or after a second, leaves much of it unused.", note), head: head}
	slow := table{note: "60/m, one caller on each worker, two minutes, all contestants at the same time.", head: head}
	row := func(t *table, tm team, r result) {
		t.row(tm.name, r.admitted, fmt.Sprintf("%.1f", r.over), percent(r.use), fmt.Sprintf("%.4f", r.jain), fmt.Sprintf("%.4f", r.then), r.longest.Round(time.Millisecond), r.failed)
	}
	teams := sharing(true)
	for i, tm := range teams {
		r, err := race(ctx, tm, 8, 4, perSecond(50), 3*c.seconds)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tm.name, err)
		}
		row(&fast, tm, r)
		if i == 0 {
			c.goals.add("fairness between equal workers, 30 s (Jain, after the burst)", "≥ 0.99", fmt.Sprintf("%.4f", r.then), r.then >= 0.99, "")
		}
		if tm.waits {
			c.bound(r.over)
		}
	}
	results, errs := make([]result, len(teams)), make([]error, len(teams))
	var wg sync.WaitGroup
	for i, tm := range teams {
		wg.Go(func() {
			results[i], errs[i] = race(ctx, tm, 8, 1, choked.Rate{N: 60, Per: time.Minute, Burst: 60}, 12*c.seconds)
		})
	}
	wg.Wait()
	for i, tm := range teams {
		row(&slow, tm, results[i])
		if tm.waits {
			c.bound(results[i].over)
		}
	}
	return []table{fast, slow}, errors.Join(errs...)
}
