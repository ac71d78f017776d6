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

// raceResult holds the results of callers that want more than the limit.
type raceResult struct {
	admitted       int
	over           float64       // worst proved excess over the bound, in units
	share          float64       // admissions / (burst + refill)
	use            float64       // (admissions − burst) / refill
	jain           float64       // Jain's index of all admissions by worker
	jainAfterBurst float64       // Jain's index of the admissions after the burst
	longest        time.Duration // longest wait
	failures
}

// failures counts calls that returned an error.
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

// race opens a team and lets its workers compete.
func race(ctx context.Context, tm team, n, callers int, limit choked.Rate, d time.Duration) (r raceResult, err error) {
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

// compete runs callers that take from one limit for d, the given number for each
// taker. A refused caller retries after the time that the refusal names. If waits is
// set, the takers wait for admission by themselves, and the time of a decision is only
// known to lie between the call and its return.
func compete(ctx context.Context, takers []taker, waits bool, callers int, limit choked.Rate, d time.Duration) (r raceResult) {
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
	r.jainAfterBurst = jain(records[min(int(limit.Burst), len(records)):], len(takers))
	return r
}

// racer is one caller in a race.
type racer struct {
	take    taker
	waits   bool
	worker  int
	end     int64
	records []history.Record
	longest time.Duration
	failures
}

// run takes until ctx ends and records each admission before the end of the race.
func (r *racer) run(ctx context.Context) {
	wanted := history.Now()
	for ctx.Err() == nil {
		before := history.Now()
		ok, retryAfter, err := r.take(ctx)
		now := history.Now()
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			r.add(failures{1, err})
			ok, retryAfter = false, 10*time.Millisecond
		}
		if !ok {
			select {
			case <-ctx.Done():
			case <-time.After(min(max(retryAfter, time.Millisecond), time.Second)):
			}
			continue
		}
		if now <= r.end {
			if r.waits {
				before = wanted
			}
			r.records = append(r.records, history.Record{Before: before, After: now, Cost: bucket.Cost{Requests: 1}, Worker: uint32(r.worker)})
			r.longest = max(r.longest, time.Duration(now-wanted))
		}
		wanted = history.Now()
	}
	r.longest = max(r.longest, time.Duration(r.end-wanted))
}

// jain returns Jain's index of the admissions by each of n workers.
func jain(rs []history.Record, n int) float64 {
	counts := make([]int64, n)
	for _, r := range rs {
		counts[r.Worker] += r.Cost.Requests
	}
	return history.Jain(counts)
}

// medianResult returns the median of each figure of rs, but the sum of the failures and
// the largest excess over the bound.
func medianResult(rs []raceResult) (m raceResult) {
	var runs [][]float64
	for _, r := range rs {
		m.over = max(m.over, r.over)
		m.add(r.failures)
		runs = append(runs, []float64{float64(r.admitted), r.share, r.use, r.jain, r.jainAfterBurst, float64(r.longest)})
	}
	f := medians(runs)
	m.admitted, m.share, m.use, m.jain, m.jainAfterBurst, m.longest = int(f[0]), f[1], f[2], f[3], f[4], time.Duration(f[5])
	return m
}
