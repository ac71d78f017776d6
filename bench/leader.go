package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/testkit/history"
)

// leader measures how long workers with demand get no admission when the leader is
// killed or leaves.
func leader(ctx context.Context, c *config) ([]table, error) {
	t := table{
		note: fmt.Sprintf("Three workers in processes of their own, on disk, four callers on each under each of two keys: %s; %s. The leader ends %d times each way and is restarted after %v. "+
			"A gap is the longest time between two admissions at one of the other workers in that time. If the demand exceeds the limit, a worker gets its share in portions, so there are gaps without a fault too.", demands[0].name, demands[1].name, c.faults, gapTimeout),
		head: []string{"the leader", "demand", "gaps", "p50", "p99", "longest", "admitted", "over, units"},
	}
	var gaps [3][2]time.Duration // p99
	for i, f := range []struct {
		what   string
		signal syscall.Signal // zero: no signal
		times  int
	}{{"goes on", 0, max(c.faults/4, 1)}, {"is killed (SIGKILL)", syscall.SIGKILL, c.faults}, {"leaves (SIGTERM)", syscall.SIGTERM, c.faults}} {
		ended, records, err := endLeaders(ctx, f.signal, f.times)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.what, err)
		}
		for key, d := range demands {
			seen, all := gapsOf(ended, records, uint32(key))
			over := max(history.CheckRate(all, bucket.Requests, d.limit).Proved, 0)
			c.noteExcess(over)
			gaps[i][key] = quantile(seen, 0.99).Round(time.Millisecond)
			t.row(f.what, d.name, len(seen), quantile(seen, 0.5).Round(time.Millisecond), gaps[i][key], slices.Max(seen).Round(time.Millisecond), len(all), fmt.Sprintf("%.1f", over))
		}
	}
	killed := max(gaps[1][0], gaps[1][1])
	c.goals.add("leader killed -9: gap seen by a worker with demand, p99", "≤ 1.5 s", killed.String(), killed <= 1500*time.Millisecond, "")
	reason := ""
	if gaps[0][1] > 50*time.Millisecond { // without load, the callers ask every 5 ms together
		reason = fmt.Sprintf("the machine was busy: a gap of %v without a fault", gaps[0][1])
	}
	c.goals.add("leader leaves: gap seen by a worker with demand below the limit, p99", "≤ 100 ms", gaps[2][1].String(), gaps[2][1] <= 100*time.Millisecond, reason)
	return []table{t}, nil
}

// gapTimeout is how long workers are observed after a fault. A longer gap counts as
// gapTimeout.
const gapTimeout = 2500 * time.Millisecond

// fault is the end of a leader.
type fault struct {
	at     int64 // of history.Now
	worker int
}

// endLeaders ends the leader n times by a signal. It returns the faults and the
// admissions of each worker. If the signal is 0, no leader is ended.
func endLeaders(ctx context.Context, s syscall.Signal, n int) (ended []fault, records [][]history.Record, err error) {
	t, err := startTrio(ctx, job{Callers: 4}, true)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	for range n {
		if err := sleep(ctx, 1500*time.Millisecond); err != nil { // the burst is spent, and the demand estimated
			return nil, nil, err
		}
		i, err := t.leader(ctx)
		if err != nil {
			return nil, nil, err
		}
		ended = append(ended, fault{history.Now(), i})
		if s != 0 {
			t.procs[i].end(s)
		}
		if err := sleep(ctx, gapTimeout); err != nil {
			return nil, nil, err
		}
		if s != 0 {
			if err := t.replace(ctx, i); err != nil {
				return nil, nil, err
			}
		}
	}
	for _, p := range t.procs {
		rs, err := history.Read(p.job.Records)
		if err != nil {
			return nil, nil, err
		}
		slices.SortFunc(rs, func(a, b history.Record) int { return cmp.Compare(a.After, b.After) })
		records = append(records, rs)
	}
	return ended, records, nil
}

// gapsOf returns the gaps under one key of the workers that did not end, for each
// fault, and all admissions under the key. records has those of each worker, in order
// of time.
func gapsOf(faults []fault, records [][]history.Record, key uint32) (gaps []time.Duration, all []history.Record) {
	for i, rs := range records {
		mine := slices.DeleteFunc(slices.Clone(rs), func(r history.Record) bool { return r.Key != key })
		for _, f := range faults {
			if f.worker != i {
				gap, _ := history.Gap(mine, f.at, f.at+int64(gapTimeout))
				gaps = append(gaps, gap)
			}
		}
		all = append(all, mine...)
	}
	return gaps, all
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// leaderCPU returns the CPU time of the leader while f runs, as a share of a core.
func (t *trio) leaderCPU(ctx context.Context, f func() error) (cores float64, err error) {
	i, err := t.leader(ctx)
	if err != nil {
		return 0, err
	}
	pid := t.procs[i].cmd.Process.Pid
	before, err := cpuOf(pid)
	if err != nil {
		return 0, err
	}
	started := time.Now()
	if err := f(); err != nil {
		return 0, err
	}
	after, err := cpuOf(pid)
	if !t.procs[i].leads.Load() {
		err = errors.Join(err, fmt.Errorf("%s lost leadership", t.procs[i].job.Name))
	}
	return (after - before).Seconds() / time.Since(started).Seconds(), err
}

// chargeKeys charges n keys, so that their buckets are not full and must be kept.
func chargeKeys(ctx context.Context, store choked.Store, key func(i int) string, limits choked.Limits, n int) error {
	const workers = 2000
	errs := make(chan error, workers)
	for lane := range workers {
		go func() {
			var err error
			for i := lane; i < n && err == nil; i += workers {
				err = store.Adjust(ctx, choked.Adjustment{Key: key(i), Limits: limits, Defined: 1, Charge: limits.Limited(choked.Cost{Requests: 10, Tokens: 1000})})
			}
			errs <- err
		}()
	}
	var err error
	for range workers {
		err = errors.Join(err, <-errs)
	}
	return err
}
