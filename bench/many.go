package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/choked/choked"
)

// many measures 10,000 keys at once, and hundreds of workers, as members and as HTTP
// clients of the members.
func many(ctx context.Context, c *config) ([]table, error) {
	at, err := measureNewKeys(ctx, c)
	if err != nil {
		return nil, err
	}
	head := func(who string) []string {
		return []string{who + "s", "limit of a key", "joined after", "admitted", "of the limit", "exchanges a second and " + who, "exchanges an admission", "CPU of all " + who + "s", "CPU of the leader", "CPU of the idle leader"}
	}
	clients := table{
		note: fmt.Sprintf("Workers that are not members, all in one process, each with its own connections to the HTTP service of one of three voters, which are processes of their own. "+
			"All of them want more than the limits of 100 keys allow, for %v, in which they open their connections. CPU is that of the process of the workers and that of the leader. A worker with a small share of a limit asks the store for each admission, and the CPUs, which also run the other two voters, may be too slow for that.", c.runTime),
		head: head("worker"),
	}
	type size struct {
		n     int
		limit string
	}
	var sizes []size
	for n := 10; n <= c.workers; n *= 10 {
		sizes = append(sizes, size{n, "100/s"})
	}
	for _, s := range append(sizes, size{c.workers, "20/s"}) {
		row, err := measureWorkers(ctx, c, s.n, s.limit, (*trio).clients)
		if err != nil {
			return nil, fmt.Errorf("%d workers: %w", s.n, err)
		}
		clients.row(row...)
	}
	members := table{
		note: fmt.Sprintf("Members that do not vote, all in one process, each a node with its own stream to the leader; the three voters are processes of their own. "+
			"All of them want more than the limits of 100 keys allow, for %v. CPU is that of the process of the members and that of the leader. Gossip tells each member of all others, so its cost grows with the square of their number: if the CPUs are too slow for it, joining takes long and calls wait, or fail if they cannot reach the leader for 5s.", c.runTime),
		head: head("member"),
	}
	for n := 10; n <= c.members; n *= 3 {
		row, err := measureWorkers(ctx, c, n, "100/s", (*trio).members)
		failed := ""
		switch {
		case errors.Is(err, errIncomplete):
			failed = fmt.Sprint("not within ", joinTimeout)
		case errors.Is(err, choked.ErrNoQuorum):
			failed = "joined, but calls failed: leader not reached in time"
		case err != nil:
			return nil, fmt.Errorf("%d members: %w", n, err)
		}
		if failed != "" {
			members.row(n, "100/s", failed, "", "", "", "", "", "", "")
			break
		}
		members.row(row...)
	}
	return []table{at, clients, members}, nil
}

// measureNewKeys measures how long it takes until a call under each of many new keys
// is admitted.
func measureNewKeys(ctx context.Context, c *config) (t table, err error) {
	nodes, stop, err := startNodes(ctx, 3, false)
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	t = table{
		note: fmt.Sprintf("New keys at once, from three nodes; the medians of %d runs.", c.repeats),
		head: []string{"keys", "all admitted after", "p50", "p99", "exchanges an admission"},
	}
	for _, n := range []int{100, 1000, 10_000} {
		var runs [][]float64
		for run := range c.repeats {
			took, exchanges, err := admitAll(ctx, spread(nodes, 3), n, run)
			if err != nil {
				return t, err
			}
			runs = append(runs, []float64{float64(slices.Max(took)), float64(quantile(took, 0.5)), float64(quantile(took, 0.99)), exchanges})
		}
		m := medians(runs)
		took := func(i int) time.Duration { return time.Duration(m[i]).Round(100 * time.Microsecond) }
		t.row(n, took(0), took(1), took(2), fmt.Sprintf("%.2f", m[3]))
	}
	return t, nil
}

// admitAll waits for one admission under each of n new keys, for all at once.
func admitAll(ctx context.Context, stores []choked.Store, n, run int) (took []time.Duration, exchanges float64, err error) {
	var chokes []*choked.Choke
	defer func() {
		for _, c := range chokes {
			err = errors.Join(err, c.Close())
		}
	}()
	for _, s := range stores {
		chokes = append(chokes, choked.New(s))
	}
	limits := choked.MustLimits("requests 100/s")
	ls := make([]*choked.Limiter, n)
	for i := range ls {
		if ls[i], err = chokes[i%len(chokes)].Limiter(fmt.Sprint("rush-", run, "-", n, "-", i), limits, nil); err != nil {
			return nil, 0, err
		}
	}
	took = make([]time.Duration, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	started := time.Now()
	for i, l := range ls {
		wg.Go(func() {
			errs[i] = l.Wait(ctx, choked.Cost{Requests: 1})
			took[i] = time.Since(started)
		})
	}
	wg.Wait()
	for _, l := range ls {
		exchanges += float64(l.Stats().Exchanges) / float64(n)
	}
	return took, exchanges, errors.Join(errs...)
}

// measureWorkers measures n workers that want more than the limits of 100 keys allow.
// join creates their stores.
func measureWorkers(ctx context.Context, c *config, n int, limit string, join func(*trio, context.Context, int) ([]choked.Store, func() error, error)) (row []any, err error) {
	const keys = 100
	t, err := startTrio(ctx, job{}, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, t.stop()) }()
	started := time.Now()
	stores, stop, err := join(t, ctx, n)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	joined := time.Since(started)
	idle, err := t.leaderCPU(ctx, func() error { return sleep(ctx, c.runTime/2) })
	if err != nil {
		return nil, err
	}
	// Each worker has one caller under each of 2 · max(1, keys/n) keys, so that each key
	// is used by two workers or more.
	l := load{stores: stores, limits: choked.MustLimits("requests " + limit), callers: 2 * max(1, keys/n), duration: c.runTime}
	for i := range keys {
		l.keys = append(l.keys, fmt.Sprint("crowd-", i))
	}
	var s loadCost
	leads, err := t.leaderCPU(ctx, func() (err error) { s, err = l.run(ctx); return err })
	if err != nil {
		return nil, err
	}
	d := c.runTime.Seconds()
	r := l.limits.Requests[0]
	return []any{
		n, limit, joined.Round(10 * time.Millisecond), s.admitted, percent(float64(s.admitted) / float64(keys*(r.Burst+r.In(c.runTime)))),
		fmt.Sprintf("%.1f", float64(s.exchanges)/d/float64(n)), fmt.Sprintf("%.2f", s.perAdmission(s.exchanges)),
		fmt.Sprintf("%.2f cores", s.cpu.Seconds()/d), fmt.Sprintf("%.2f cores", leads), fmt.Sprintf("%.2f cores", idle),
	}, nil
}
