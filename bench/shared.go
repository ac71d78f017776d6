package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/choked/choked"
)

func perSecond(n int64) choked.Rate { return choked.Rate{N: n, Per: time.Second, Burst: n} }

// teamResult holds the measurements of a team.
type teamResult struct {
	speed    [2]map[int][]float64 // decisions a second, by callers on a node; [0] all admitted, [1] nearly all refused
	balanced []raceResult
	skewed   raceResult // with all the demand at one node
	failures
}

// best returns the highest median of speed[i], and the number of callers on each node.
func (s *teamResult) best(i int) (callers int, speed float64) {
	for n, runs := range s.speed[i] {
		if m := median(runs); m > speed {
			callers, speed = n, m
		}
	}
	return callers, speed
}

var callerCounts = []int{2, 32, maxCallers} // numbers of callers on a node

// shared measures how many decisions a second three nodes make on one key, and how
// closely they follow a limit.
func shared(ctx context.Context, c *config) ([]table, error) {
	teams := append(sharedTeams(false), splitTeams...)
	found := make([]teamResult, len(teams))
	for i := range found {
		found[i].speed = [2]map[int][]float64{{}, {}}
	}
	for round := range c.repeats {
		for i, tm := range teams {
			if err := found[i].measure(ctx, tm, c, round == 0); err != nil {
				return nil, fmt.Errorf("%s: %w", tm.name, err)
			}
		}
	}
	_, ours := found[0].best(0)
	_, refusing := found[0].best(1)
	t := table{
		note: fmt.Sprintf("Decisions a second are those of callers that ask again at once for a second, on a limit of 1,000,000,000/s or 1,000/s; with %s callers on each node, of which the best is shown. "+
			"Admissions are those of 4 callers on each node with unlimited demand on 1,000/s for %v. Over is the worst excess over burst + rate · W over all windows W, as far as the begin and end of each call prove it; "+
			"use is the admitted share of burst and refill. Medians of %d runs, the contestants in turn. %s "+
			"The last four limit one process; with the full limit on each of three nodes they would admit three times as much, so each node has a third of it. The limiters of uber and go-limiter have no separate burst.",
			list(callerCounts), c.runTime, c.repeats, settings()),
		head: []string{"", "decisions/s, admitted", "choked is", "decisions/s, refused", "choked is", "admitted", "over, units", "use", "use, demand at one node only", "longest wait", "calls that failed"},
	}
	for i, tm := range teams {
		f, name := &found[i], tm.name
		if tm.split {
			name += ", a third each"
		}
		speed := func(j int, ours float64) (string, string) {
			callers, n := f.best(j)
			if n == 0 {
				return "–", "–"
			}
			return fmt.Sprintf("%.0f (%d)", n, callers), ratio(ours, n)
		}
		all, times := speed(0, ours)
		none, refused := speed(1, refusing)
		m := medianResult(f.balanced)
		t.row(name, all, times, none, refused, m.admitted, fmt.Sprintf("%.1f", m.over), percent(m.share), percent(f.skewed.share), m.longest.Round(time.Millisecond), f.failed)
	}
	c.noteExcess(medianResult(found[0].balanced).over, medianResult(found[1].balanced).over, found[0].skewed.over, found[1].skewed.over)
	for i, tm := range teams {
		if _, theirs := found[i].best(0); i >= 2 && !tm.split {
			c.goals.add("takes a second, 3 nodes, hot key", "≥ 100 × "+tm.name+"'s", ratio(ours, theirs), ours >= 100*theirs, "")
		}
	}
	return []table{t}, nil
}

func list(ns []int) string {
	return strings.Trim(strings.ReplaceAll(fmt.Sprint(ns), " ", ", "), "[]")
}

// measure adds a round of measurements of a team. The first round also measures demand
// at one node only.
func (s *teamResult) measure(ctx context.Context, tm team, c *config, first bool) error {
	for i, limit := range []int64{unlimited, 1000} {
		if i == 1 && tm.split && tm.waits {
			continue // it never refuses
		}
		takers, stop, err := tm.open(ctx, 3, perSecond(limit))
		if err != nil {
			return err
		}
		for _, callers := range callerCounts {
			n, fails := flatOut(ctx, takers, callers, time.Second)
			if s.add(fails); tm.ours && s.err != nil {
				return errors.Join(s.err, stop())
			}
			s.speed[i][callers] = append(s.speed[i][callers], n)
		}
		if err := stop(); err != nil {
			return err
		}
	}
	for _, other := range sharedTeams(true) { // for accuracy, callers wait if the team can
		if other.name == tm.name {
			tm = other
		}
	}
	r, err := race(ctx, tm, 3, 4, perSecond(1000), c.runTime)
	if err != nil {
		return err
	}
	s.add(r.failures)
	s.balanced = append(s.balanced, r)
	if !first {
		return nil
	}
	s.skewed, err = race(ctx, tm.at(1), 3, 12, perSecond(1000), c.runTime/2)
	s.add(s.skewed.failures)
	return err
}

// at returns the team with callers at the first n nodes only.
func (tm team) at(n int) team {
	open := tm.open
	tm.open = func(ctx context.Context, nodes int, limit choked.Rate) ([]taker, func() error, error) {
		takers, stop, err := open(ctx, nodes, limit)
		return takers[:min(n, len(takers))], stop, err
	}
	return tm
}

// flatOut returns the decisions a second of callers that ask again at once.
func flatOut(ctx context.Context, takers []taker, callers int, d time.Duration) (perSecond float64, fails failures) {
	for _, take := range takers { // each opens its connection and gets a first lease
		if _, _, err := take(ctx); err != nil {
			fails.add(failures{1, err})
		}
	}
	var timeUp atomic.Bool
	var mu sync.Mutex
	var wg sync.WaitGroup
	n := 0
	started := time.Now()
	timer := time.AfterFunc(d, func() { timeUp.Store(true) })
	defer timer.Stop()
	for i := range len(takers) * callers {
		wg.Go(func() {
			decided, mine := 0, failures{}
			for !timeUp.Load() {
				if _, _, err := takers[i/callers](ctx); err != nil {
					mine.add(failures{1, err})
					continue
				}
				decided++
			}
			mu.Lock()
			defer mu.Unlock()
			n += decided
			fails.add(mine)
		})
	}
	wg.Wait()
	return float64(n) / time.Since(started).Seconds(), fails
}
