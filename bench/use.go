package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/choked/choked"
)

// use measures which share of a small or large limit is used by few and by many workers
// that want more than the limit.
func use(ctx context.Context, c *config) ([]table, error) {
	t := table{
		note: fmt.Sprintf("Workers that are members, all in one process, with four callers each and unlimited demand for %v, on 50/s three times as long; the three voters are processes of their own. Use is the quota admitted beyond the burst, as a share of the refill.", c.runTime),
		head: []string{"workers", "limit", "admitted", "over, units", "use", "Jain after the burst", "longest wait"},
	}
	least := 1.0
	for _, n := range []int{3, 10, 50} {
		limits := []choked.Rate{perSecond(50), perSecond(1000), perSecond(20_000), perSecond(100_000)}
		if n == 3 {
			limits = append(limits, choked.Rate{N: 50, Per: time.Second, Burst: 1})
		}
		if err := measureUse(ctx, c, n, limits, func(limit choked.Rate, r raceResult) {
			t.row(n, limit, r.admitted, fmt.Sprintf("%.1f", r.over), percent(r.use), fmt.Sprintf("%.4f", r.jainAfterBurst), r.longest.Round(time.Millisecond))
			c.noteExcess(r.over)
			if limit.Burst > 1 {
				least = min(least, r.use)
				return
			}
			c.goals.add("use of the limit, 50/s burst 1", "≥ 85%", percent(r.use), r.use >= 0.85, "")
		}); err != nil {
			return nil, err
		}
	}
	c.goals.add("lowest use of the limit, 3–50 workers, 50/s–100,000/s", "≥ 99%", percent(least), least >= 0.99, "")
	measureBelow, err := measureBelow(ctx, c)
	return []table{t, measureBelow}, err
}

// measureUse lets n workers compete for one limit after the other.
func measureUse(ctx context.Context, c *config, n int, limits []choked.Rate, report func(choked.Rate, raceResult)) (err error) {
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
		takers, end, err := chokedTakers(stores, fmt.Sprint("use-", limit), limit, true)
		if err != nil {
			return errors.Join(err, stop())
		}
		d := c.runTime
		if limit.N <= 50 { // with few units, a single one makes a difference
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

// measureBelow measures the exchanges of workers that need less than the limit: calls
// come at random and wait for the store only.
func measureBelow(ctx context.Context, c *config) (table, error) {
	const workers = 10
	t := table{
		note: fmt.Sprintf("Load below the limit of 1,000/s: random calls, 80 a second at each of %d workers that are nodes of a cluster. Medians of %d runs of %v.", workers, c.repeats, c.runTime),
		head: []string{"calls a second of all workers", "admitted", "exchanges a second and worker", "exchanges an admission"},
	}
	nodes, stop, err := startNodes(ctx, workers, false)
	if err != nil {
		return t, err
	}
	var runs [][]float64
	for run := range c.repeats {
		s, err := load{stores: spread(nodes, workers), keys: []string{fmt.Sprint("below-", run)}, limits: choked.MustLimits("requests 1000/s"),
			callers: 1, interval: time.Second / 80, duration: c.runTime}.run(ctx)
		if err != nil {
			return t, errors.Join(err, stop())
		}
		runs = append(runs, []float64{float64(s.admitted) / c.runTime.Seconds(), float64(s.exchanges) / c.runTime.Seconds() / workers, s.perAdmission(s.exchanges)})
	}
	m := medians(runs)
	t.row(workers*80, fmt.Sprintf("%.0f a second", m[0]), fmt.Sprintf("%.1f", m[1]), fmt.Sprintf("%.2f", m[2]))
	c.goals.add("exchanges at 1,000/s over 10 workers, load below the limit", "≤ 25 a second and worker", fmt.Sprintf("%.1f", m[1]), m[1] <= 25, "")
	return t, stop()
}

// fairness measures how evenly a small limit is shared, and the longest wait.
func fairness(ctx context.Context, c *config) ([]table, error) {
	const note = "Use is the quota admitted beyond the burst, as a share of the refill. Jain's index is 1 if all workers get the same; the first workers get most of the burst."
	head := []string{"", "admitted", "over, units", "use", "Jain", "Jain after the burst", "longest wait", "calls that failed"}
	fast := table{note: fmt.Sprintf("50/s, 4 callers on each worker, 30 s. %s A refusal of gubernator only names the time at which the bucket will be full: callers that retry then, or after a second, leave much of the limit unused.", note), head: head}
	slow := table{note: "60/m, one caller on each worker, two minutes, all contestants at the same time.", head: head}
	row := func(t *table, tm team, r raceResult) {
		t.row(tm.name, r.admitted, fmt.Sprintf("%.1f", r.over), percent(r.use), fmt.Sprintf("%.4f", r.jain), fmt.Sprintf("%.4f", r.jainAfterBurst), r.longest.Round(time.Millisecond), r.failed)
	}
	teams := sharedTeams(true)
	for i, tm := range teams {
		r, err := race(ctx, tm, 8, 4, perSecond(50), 3*c.runTime)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tm.name, err)
		}
		row(&fast, tm, r)
		if i == 0 {
			c.goals.add("fairness between equal workers, 30 s (Jain, after the burst)", "≥ 0.99", fmt.Sprintf("%.4f", r.jainAfterBurst), r.jainAfterBurst >= 0.99, "")
		}
		if tm.waits {
			c.noteExcess(r.over)
		}
	}
	results, errs := make([]raceResult, len(teams)), make([]error, len(teams))
	var wg sync.WaitGroup
	for i, tm := range teams {
		wg.Go(func() {
			results[i], errs[i] = race(ctx, tm, 8, 1, choked.Rate{N: 60, Per: time.Minute, Burst: 60}, 12*c.runTime)
		})
	}
	wg.Wait()
	for i, tm := range teams {
		row(&slow, tm, results[i])
		if tm.waits {
			c.noteExcess(results[i].over)
		}
	}
	return []table{fast, slow}, errors.Join(errs...)
}
