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

// leader measures how long workers with demand get nothing when the one that
// leads is killed, or leaves.
func leader(ctx context.Context, c *config) ([]table, error) {
	t := table{
		note: fmt.Sprintf("Three workers in processes of their own, on disk, four callers on each under each of two keys: %s; %s. The one that leads ends %d times each way, and comes back after %v. "+
			"A gap is the longest time between two admissions at one of the others meanwhile. Of a limit that is wanted flat out a worker gets its share in portions, so there are gaps while nothing happens, too.", demands[0].name, demands[1].name, c.faults, within),
		head: []string{"the one that leads", "demand", "gaps", "p50", "p99", "longest", "admitted", "over, units"},
	}
	var gaps [3][2]time.Duration // p99
	for i, f := range []struct {
		what   string
		signal syscall.Signal // zero: none
		times  int
	}{{"goes on", 0, max(c.faults/4, 1)}, {"is killed (SIGKILL)", syscall.SIGKILL, c.faults}, {"leaves (SIGTERM)", syscall.SIGTERM, c.faults}} {
		ended, records, err := faults(ctx, f.signal, f.times)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", f.what, err)
		}
		for key, d := range demands {
			seen, all := gapsOf(ended, records, uint32(key))
			over := max(history.CheckRate(all, bucket.Requests, d.limit).Proved, 0)
			c.bound(over)
			gaps[i][key] = quantile(seen, 0.99).Round(time.Millisecond)
			t.row(f.what, d.name, len(seen), quantile(seen, 0.5).Round(time.Millisecond), gaps[i][key], slices.Max(seen).Round(time.Millisecond), len(all), fmt.Sprintf("%.1f", over))
		}
	}
	killed := max(gaps[1][0], gaps[1][1])
	c.goals.add("leader killed -9: gap seen by a worker with demand, p99", "≤ 1.5 s", killed.String(), killed <= 1500*time.Millisecond, "")
	because := ""
	if gaps[0][1] > 50*time.Millisecond { // such a caller comes every 5 ms
		because = fmt.Sprintf("the machine is busy with something else: %v while nothing happens", gaps[0][1])
	}
	c.goals.add("leader leaves: gap seen by a worker with demand below the limit, p99", "≤ 100 ms", gaps[2][1].String(), gaps[2][1] <= 100*time.Millisecond, because)
	return []table{t}, nil
}

// within is how long after a fault gaps are looked for, before anything else
// happens. A longer one counts as so long.
const within = 2500 * time.Millisecond

// fault is the end of the one that leads, at an instant.
type fault struct {
	at     int64
	worker int
}

// faults ends the leader n times by a signal, and returns what each of the
// workers was admitted.
func faults(ctx context.Context, s syscall.Signal, n int) (ended []fault, records [][]history.Record, err error) {
	t, err := startTrio(ctx, job{Callers: 4}, true)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	for range n {
		if err := sleep(ctx, 1500*time.Millisecond); err != nil { // the burst is gone, and demand known
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
		if err := sleep(ctx, within); err != nil {
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

// gapsOf returns the gaps under one key that workers saw whom a fault left
// alive, and all that was admitted under it. records are each worker's, in order
// of time.
func gapsOf(faults []fault, records [][]history.Record, key uint32) (gaps []time.Duration, all []history.Record) {
	for i, rs := range records {
		mine := slices.DeleteFunc(slices.Clone(rs), func(r history.Record) bool { return r.Key != key })
		for _, f := range faults {
			if f.worker != i {
				gap, _ := history.Gap(mine, f.at, f.at+int64(within))
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

// working is what the leader among three processes takes of a core while f runs.
func (t *trio) working(ctx context.Context, f func() error) (cores float64, err error) {
	i, err := t.leader(ctx)
	if err != nil {
		return 0, err
	}
	pid := t.procs[i].cmd.Process.Pid
	before, err := cpuOf(pid)
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	if err := f(); err != nil {
		return 0, err
	}
	after, err := cpuOf(pid)
	if !t.procs[i].leads.Load() {
		err = errors.Join(err, fmt.Errorf("%s leads no more", t.procs[i].job.Name))
	}
	return (after - before).Seconds() / time.Since(begun).Seconds(), err
}

// charged makes buckets that are not full: as many live keys as are named.
func charged(ctx context.Context, store choked.Store, key func(i int) string, limits choked.Limits, n int) error {
	const lanes = 2000
	errs := make(chan error, lanes)
	for lane := range lanes {
		go func() {
			var err error
			for i := lane; i < n && err == nil; i += lanes {
				err = store.Adjust(ctx, choked.Adjustment{Key: key(i), Limits: limits, Defined: 1, Charge: limits.Limited(choked.Cost{Requests: 10, Tokens: 1000})})
			}
			errs <- err
		}()
	}
	var err error
	for range lanes {
		err = errors.Join(err, <-errs)
	}
	return err
}
