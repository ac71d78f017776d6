package main

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/testkit/history"
)

// result is what came of callers that take as much as they can get.
type result struct {
	admitted int
	over     float64 // worst excess over the bound, proved
	share    float64 // of all that the bound allows, what was admitted
	use      float64 // of what was restored, what was admitted beyond the burst
	jain     float64 // of all; then: of those after the burst
	then     float64
	longest  time.Duration
	failures
}

// failures are calls that came back with an error.
type failures struct {
	failed int
	err    error // the first
}

func (f *failures) add(g failures) {
	f.failed += g.failed
	if f.err == nil {
		f.err = g.err
	}
}

// race opens a team and has it compete.
func race(ctx context.Context, tm team, n, callers int, limit choked.Rate, d time.Duration) (r result, err error) {
	takers, stop, err := tm.open(ctx, n, limit)
	if err != nil {
		return r, err
	}
	r = compete(ctx, takers, tm.waits, callers, limit, d)
	err = stop()
	if tm.ours {
		err = errors.Join(err, r.err)
	}
	return r, err
}

// compete has callers take from one limit for d, some for each taker. Who is
// refused comes again when it was told to. With waits, a call lasts as long as
// it waits.
func compete(ctx context.Context, takers []taker, waits bool, callers int, limit choked.Rate, d time.Duration) (r result) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	end := history.Now() + int64(d)
	racers := make([]racer, len(takers)*callers)
	var wg sync.WaitGroup
	for i := range racers {
		racers[i] = racer{take: takers[i/callers], waits: waits, worker: i / callers, end: end}
		wg.Go(func() { racers[i].run(ctx) })
	}
	wg.Wait()
	var records []history.Record
	for i := range racers {
		r.add(racers[i].failures)
		records = append(records, racers[i].records...)
		r.longest = max(r.longest, racers[i].longest)
	}
	slices.SortFunc(records, func(a, b history.Record) int { return cmp.Compare(a.After, b.After) })
	r.admitted = len(records)
	r.over = max(history.CheckRate(records, bucket.Requests, limit).Proved, 0)
	restored := d.Seconds() * float64(limit.N) / limit.Per.Seconds()
	r.share = float64(r.admitted) / (float64(limit.Burst) + restored)
	r.use = float64(int64(r.admitted)-limit.Burst) / restored
	r.jain = jain(records, len(takers))
	r.then = jain(records[min(int(limit.Burst), len(records)):], len(takers))
	return r
}

// racer is one caller.
type racer struct {
	take    taker
	waits   bool
	worker  int
	end     int64
	records []history.Record
	longest time.Duration
	failures
}

func (r *racer) run(ctx context.Context) {
	wanted := history.Now()
	for ctx.Err() == nil {
		before := history.Now()
		ok, again, err := r.take(ctx)
		now := history.Now()
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			r.add(failures{1, err})
			ok, again = false, 10*time.Millisecond
		}
		if !ok {
			select {
			case <-ctx.Done():
			case <-time.After(min(max(again, time.Millisecond), time.Second)):
			}
			continue
		}
		if now <= r.end {
			if r.waits {
				before = wanted
			}
			r.records = append(r.records, history.Record{Before: before, After: now, Requests: 1, Worker: uint32(r.worker)})
			r.longest = max(r.longest, time.Duration(now-wanted))
		}
		wanted = history.Now()
	}
	r.longest = max(r.longest, time.Duration(r.end-wanted))
}

// jain is Jain's index of what each of n workers was admitted.
func jain(rs []history.Record, n int) float64 {
	each := make([]int64, n)
	for _, r := range rs {
		each[r.Worker] += r.Requests
	}
	return history.Jain(each)
}

// middle is the median of some results, each figure by itself, and the worst of
// what is over the bound.
func middle(rs []result) (m result) {
	var runs [][]float64
	for _, r := range rs {
		m.over = max(m.over, r.over)
		m.add(r.failures)
		runs = append(runs, []float64{float64(r.admitted), r.share, r.use, r.jain, r.then, float64(r.longest)})
	}
	f := medians(runs)
	m.admitted, m.share, m.use, m.jain, m.then, m.longest = int(f[0]), f[1], f[2], f[3], f[4], time.Duration(f[5])
	return m
}
