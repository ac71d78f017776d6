package choked

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// far is a Store at some distance: every exchange takes a round trip.
type far struct {
	Store
	trip time.Duration
}

func (f far) Lease(ctx context.Context, a Ask) (Lease, error) {
	time.Sleep(f.trip / 2)
	defer time.Sleep(f.trip / 2)
	return f.Store.Lease(ctx, a)
}

func (f far) Settle(ctx context.Context, d []Settlement) error {
	time.Sleep(f.trip / 2)
	defer time.Sleep(f.trip / 2)
	return f.Store.Settle(ctx, d)
}

type admission struct {
	at     time.Duration
	worker int
	cost   Cost
	waited time.Duration
}

// excess is the most by which admissions in order of time exceed burst + rate·W
// over any window W, in units.
func excess(adm []admission, r Rate, of func(Cost) int64) float64 {
	var level, worst float64
	worst = -1e18
	var last time.Duration
	for _, a := range adm {
		level = max(0, level-float64(a.at-last)*float64(r.N)/float64(r.Per)) + float64(of(a.cost))
		last = a.at
		worst = max(worst, level-float64(r.Burst))
	}
	return worst
}

func jain(adm []admission, workers int) float64 {
	n := make([]float64, workers)
	for _, a := range adm {
		n[a.worker]++
	}
	var s, q float64
	for _, x := range n {
		s += x
		q += x * x
	}
	return s * s / (float64(workers) * q)
}

type load struct {
	workers, callers int
	limits           Limits
	trip             time.Duration
	dur              time.Duration
	think            time.Duration
	tokens           func() int64
	open             bool
}

func (ld load) run(t *testing.T) ([]admission, []Stats) {
	var adm []admission
	var stats []Stats
	synctest.Test(t, func(t *testing.T) {
		store := NewLocal()
		var mu sync.Mutex
		var wg sync.WaitGroup
		start := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), ld.dur)
		var limiters []*Limiter
		for w := range ld.workers {
			c := New(far{store, ld.trip})
			defer c.Close()
			l, err := c.Limiter("k", ld.limits, nil)
			if err != nil {
				t.Fatal(err)
			}
			limiters = append(limiters, l)
			for range ld.callers {
				wg.Go(func() {
					for ctx.Err() == nil {
						cost := Cost{Requests: 1}
						if ld.tokens != nil {
							cost.Tokens = ld.tokens()
						}
						began := time.Now()
						if err := l.Wait(context.WithoutCancel(ctx), cost); err != nil {
							return
						}
						if ctx.Err() != nil {
							return
						}
						mu.Lock()
						adm = append(adm, admission{time.Since(start), w, cost, time.Since(began)})
						mu.Unlock()
						think := ld.think/2 + time.Duration(rand.Int64N(int64(ld.think)+1))
						time.Sleep(think)
					}
				})
			}
		}
		<-ctx.Done()
		cancel()
		for _, l := range limiters {
			stats = append(stats, l.Stats())
			l.pool.choke.Close()
		}
		wg.Wait()
		store.Close()
	})
	slices.SortFunc(adm, func(a, b admission) int { return int(a.at - b.at) })
	return adm, stats
}

func TestSimulate(t *testing.T) {
	tok := func() int64 { return 10 + rand.Int64N(60) }
	for _, ld := range []load{
		{workers: 3, callers: 8, limits: MustLimits("50/s", ""), trip: 5 * time.Millisecond, dur: 60 * time.Second, think: 50 * time.Millisecond},
		{workers: 8, callers: 8, limits: MustLimits("50/s", ""), trip: 5 * time.Millisecond, dur: 60 * time.Second, think: 50 * time.Millisecond},
		{workers: 3, callers: 8, limits: MustLimits("50/s", "100000/m"), tokens: tok, trip: 5 * time.Millisecond, dur: 60 * time.Second, think: 50 * time.Millisecond},
		{workers: 50, callers: 2, limits: MustLimits("50/s", ""), trip: 5 * time.Millisecond, dur: 60 * time.Second, think: 50 * time.Millisecond},
		{workers: 10, callers: 20, limits: MustLimits("1000/s", ""), trip: 5 * time.Millisecond, dur: 30 * time.Second, think: 50 * time.Millisecond},
		{workers: 10, callers: 200, limits: MustLimits("20000/s", ""), trip: 5 * time.Millisecond, dur: 10 * time.Second, think: 50 * time.Millisecond},
		{workers: 8, callers: 1, limits: MustLimits("60/m", "1000000/m"), tokens: tok, trip: 5 * time.Millisecond, dur: 120 * time.Second, think: 50 * time.Millisecond},
		{workers: 3, callers: 8, limits: MustLimits("50/s burst 1", ""), trip: 5 * time.Millisecond, dur: 30 * time.Second, think: 50 * time.Millisecond},
		{workers: 3, callers: 8, limits: MustLimits("10/m", ""), trip: 5 * time.Millisecond, dur: 300 * time.Second, think: 50 * time.Millisecond},
		{workers: 10, callers: 8, limits: MustLimits("1000/s", ""), trip: 5 * time.Millisecond, dur: 30 * time.Second, think: 160 * time.Millisecond},
	} {
		name := fmt.Sprintf("%dx%d %v think %v", ld.workers, ld.callers, ld.limits, ld.think)
		t.Run(name, func(t *testing.T) {
			adm, stats := ld.run(t)
			var ex int64
			for _, s := range stats {
				ex += s.Exchanges
			}
			var sum Cost
			var maxw time.Duration
			local := 0
			for _, a := range adm {
				sum = sum.Add(a.cost)
				maxw = max(maxw, a.waited)
				if a.waited == 0 {
					local++
				}
			}
			sec := ld.dur.Seconds()
			for _, r := range ld.limits.Requests {
				bound := float64(r.Burst) + sec*float64(r.N)/r.Per.Seconds()
				t.Logf("requests: excess %.2f use %.4f", excess(adm, r, func(c Cost) int64 { return c.Requests }), float64(sum.Requests)/bound)
			}
			for _, r := range ld.limits.Tokens {
				bound := float64(r.Burst) + sec*float64(r.N)/r.Per.Seconds()
				t.Logf("tokens: excess %.2f use %.4f", excess(adm, r, func(c Cost) int64 { return c.Tokens }), float64(sum.Tokens)/bound)
			}
			t.Logf("jain %.4f, %d admitted, exchanges %.1f/s/worker, max wait %v, local %.2f", jain(adm, ld.workers), len(adm), float64(ex)/sec/float64(ld.workers), maxw, float64(local)/float64(len(adm)))
		})
	}
}
