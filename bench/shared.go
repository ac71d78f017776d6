package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gubernator-io/gubernator/v2"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/history"
)

var (
	batching = gubernatorTeam("gubernator, BATCHING", gubernator.Behavior_BATCHING)
	global   = gubernatorTeam("gubernator, GLOBAL", gubernator.Behavior_GLOBAL)
)

// shared measures how many decisions three nodes make a second on one key.
func shared(ctx context.Context, c config) ([]table, error) {
	t := table{
		note: "Decisions a second, two callers on each node, each asking again at once; the median of three runs of 3 s.",
		head: []string{"", "all admitted (limit 1,000,000,000/s)", "choked is", "nearly all refused (limit 1,000/s)", "choked is"},
	}
	teams := []team{chokedTeam(false), chokedRedisTeam(false), redisRate, batching, global}
	found := make([][2]float64, len(teams))
	for i, tm := range teams {
		for j, limit := range []int64{plenty, 1000} {
			var runs []float64
			for range 3 {
				takers, stop, err := tm.open(ctx, 3, limit, time.Second)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", tm.name, err)
				}
				n, err := flatOut(ctx, takers, 2, 3*time.Second)
				if stopErr := stop(); err != nil || stopErr != nil {
					return nil, fmt.Errorf("%s: %w", tm.name, cmp.Or(err, stopErr))
				}
				runs = append(runs, n)
			}
			found[i][j] = median(runs)
		}
	}
	for i, tm := range teams {
		t.row(tm.name, fmt.Sprintf("%.0f", found[i][0]), ratio(found[0][0], found[i][0]), fmt.Sprintf("%.0f", found[i][1]), ratio(found[0][1], found[i][1]))
	}
	return []table{t}, nil
}

// flatOut returns the decisions a second.
func flatOut(ctx context.Context, takers []taker, callers int, d time.Duration) (float64, error) {
	for _, take := range takers { // all have a connection, and something in hand
		if _, _, err := take(ctx); err != nil {
			return 0, err
		}
	}
	var n atomic.Int64
	var failed atomic.Pointer[error]
	var over atomic.Bool
	var wg sync.WaitGroup
	begun := time.Now()
	time.AfterFunc(d, func() { over.Store(true) })
	for _, take := range takers {
		for range callers {
			wg.Go(func() {
				mine := int64(0)
				for !over.Load() {
					if _, _, err := take(ctx); err != nil {
						failed.Store(&err)
						return
					}
					mine++
				}
				n.Add(mine)
			})
		}
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(n.Load()) / time.Since(begun).Seconds(), nil
}

// accuracy measures how much of a limit is used, and by how much exceeded.
func accuracy(ctx context.Context, c config) ([]table, error) {
	t := table{
		note: fmt.Sprintf("%v each. Over is the worst excess over burst + rate · W, over every window W, as far as it is proved by when each call began and ended; use is what was admitted of that from the start.", c.seconds),
		head: []string{"", "admitted", "over, units", "use", "longest wait"},
	}
	limit := bucket.Rate{N: 1000, Per: time.Second, Burst: 1000}
	for _, tm := range []team{chokedTeam(true), chokedRedisTeam(true), redisRate, batching, global} {
		r, err := race(ctx, tm, 3, 4, limit, c.seconds)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", tm.name, err)
		}
		t.row(tm.name, len(r.records), fmt.Sprintf("%.1f", r.over), fmt.Sprintf("%.1f%%", 100*r.use), r.longest.Round(time.Millisecond))
	}
	return []table{t}, nil
}

// fairness measures how evenly a small limit is shared, and who waits longest.
func fairness(ctx context.Context, c config) ([]table, error) {
	var tables []table
	for _, s := range []struct {
		limit   bucket.Rate
		callers int
		d       time.Duration
	}{
		{bucket.Rate{N: 50, Per: time.Second, Burst: 50}, 4, 20 * time.Second},
		{bucket.Rate{N: 60, Per: time.Minute, Burst: 60}, 1, 2 * time.Minute},
	} {
		t := table{
			note: fmt.Sprintf("%v, %d callers on each worker, %v. Jain's index is 1 when all workers get the same; of the burst, those get most who are there first.", s.limit, s.callers, s.d),
			head: []string{"", "admitted", "over, units", "use", "Jain", "Jain after the burst", "longest wait"},
		}
		for _, tm := range []team{chokedTeam(true), chokedRedisTeam(true), redisRate} {
			r, err := race(ctx, tm, 8, s.callers, s.limit, s.d)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", tm.name, err)
			}
			t.row(tm.name, len(r.records), fmt.Sprintf("%.1f", r.over), fmt.Sprintf("%.1f%%", 100*r.use), fmt.Sprintf("%.4f", r.jain), fmt.Sprintf("%.4f", r.then), r.longest.Round(time.Millisecond))
		}
		tables = append(tables, t)
	}
	return tables, nil
}

// result is what came of callers that take as much as they can get.
type result struct {
	records   []history.Record
	over, use float64
	jain      float64 // of all; then: of those after the burst
	then      float64
	longest   time.Duration
}

// jain is Jain's index of what each of n workers was admitted.
func jain(rs []history.Record, n int) float64 {
	each := make([]int64, n)
	for _, r := range rs {
		each[r.Worker] += r.Requests
	}
	return history.Jain(each)
}

// race has callers on n nodes take from one limit for d. Who is refused comes
// again when it was told to.
func race(ctx context.Context, tm team, n, callers int, limit bucket.Rate, d time.Duration) (r result, err error) {
	takers, stop, err := tm.open(ctx, n, limit.N, limit.Per)
	if err != nil {
		return r, err
	}
	defer func() { err = cmp.Or(err, stop()) }()
	var mu sync.Mutex
	var wg sync.WaitGroup
	begun := history.Now()
	end := begun + int64(d)
	waited, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	for i, take := range takers {
		for range callers {
			wg.Go(func() {
				var mine []history.Record
				var longest time.Duration
				wanted := history.Now()
				for waited.Err() == nil {
					before := history.Now()
					ok, again, err2 := take(waited)
					now := history.Now()
					if err2 != nil {
						if waited.Err() == nil {
							mu.Lock()
							err = err2
							mu.Unlock()
						}
						break
					}
					if !ok {
						select {
						case <-waited.Done():
						case <-time.After(min(max(again, time.Millisecond), time.Second)):
						}
						continue
					}
					if now <= end {
						if tm.waits {
							before = wanted
						}
						mine = append(mine, history.Record{Before: before, After: now, Requests: 1, Worker: uint32(i)})
						longest = max(longest, time.Duration(now-wanted))
					}
					wanted = history.Now()
				}
				mu.Lock()
				defer mu.Unlock()
				r.records = append(r.records, mine...)
				r.longest = max(r.longest, longest, time.Duration(end-wanted))
			})
		}
	}
	wg.Wait()
	slices.SortFunc(r.records, func(a, b history.Record) int { return cmp.Compare(a.After, b.After) })
	r.over = max(history.CheckRate(r.records, bucket.Requests, limit).Proved, 0)
	r.use = float64(len(r.records)) / (float64(limit.Burst) + d.Seconds()*float64(limit.N)/limit.Per.Seconds())
	r.jain = jain(r.records, n)
	r.then = jain(r.records[min(int(limit.Burst), len(r.records)):], n)
	return r, err
}
