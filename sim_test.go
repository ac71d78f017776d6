package choked

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/choked/choked/bucket"
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
	switch r.Kind {
	case bucket.Window:
		return windowExcess(adm, r, of)
	case bucket.Calendar: // tests that draw one last for less than a day
		var sum int64
		for _, a := range adm {
			sum += of(a.cost)
		}
		return float64(sum - r.N)
	}
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

// windowExcess returns by how much the fullest stretch of r.Per is above r.N.
func windowExcess(adm []admission, r Rate, of func(Cost) int64) float64 {
	var sum, worst int64
	first := 0
	for _, a := range adm {
		for sum += of(a.cost); adm[first].at <= a.at-r.Per; first++ {
			sum -= of(adm[first].cost)
		}
		worst = max(worst, sum)
	}
	return float64(worst - r.N)
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
	longest          time.Duration // that anyone may wait; 0: no matter
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
		var chokes []*Choke
		for w := range ld.workers {
			c := New(far{store, ld.trip})
			defer c.Close()
			l, err := c.Limiter("k", ld.limits, nil)
			if err != nil {
				t.Fatal(err)
			}
			limiters, chokes = append(limiters, l), append(chokes, c)
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
		for i, l := range limiters {
			stats = append(stats, l.Stats())
			chokes[i].Close()
		}
		wg.Wait()
		store.Close()
	})
	slices.SortFunc(adm, func(a, b admission) int { return int(a.at - b.at) })
	return adm, stats
}

// TestSimulation runs whole fleets of workers against one store, in virtual
// time: nothing over the bound, the limit used up, and used up fairly.
func TestSimulation(t *testing.T) {
	prompts := func() int64 { return 10 + rand.Int64N(60) }
	for _, tt := range []struct {
		name      string
		load      load
		use, jain float64 // at least
		exchanges float64 // a second and worker, at most
	}{
		{"three workers at 50/s", load{workers: 3, callers: 8, limits: MustLimits("requests 50/s"), trip: 5 * time.Millisecond, dur: time.Minute, think: 50 * time.Millisecond}, 0.99, 0.99, 25},
		{"fifty workers at 50/s", load{workers: 50, callers: 2, limits: MustLimits("requests 50/s"), trip: 5 * time.Millisecond, dur: time.Minute, think: 50 * time.Millisecond}, 0.99, 0.99, 25},
		{"requests bind, tokens do not", load{workers: 3, callers: 8, limits: MustLimits("requests 50/s; tokens 1000000/m"), tokens: prompts, trip: 5 * time.Millisecond, dur: time.Minute, think: 50 * time.Millisecond}, 0.99, 0.99, 25},
		{"tokens bind, requests do not", load{workers: 3, callers: 8, limits: MustLimits("requests 50/s; tokens 60000/m burst 2000"), tokens: prompts, trip: 5 * time.Millisecond, dur: time.Minute, think: 50 * time.Millisecond}, 0.99, 0.99, 25},
		{"ten workers at 1,000/s", load{workers: 10, callers: 20, limits: MustLimits("requests 1000/s"), trip: 5 * time.Millisecond, dur: 30 * time.Second, think: 50 * time.Millisecond}, 0.99, 0.99, 25},
		{"ten workers at 20,000/s", load{workers: 10, callers: 200, limits: MustLimits("requests 20000/s"), trip: 5 * time.Millisecond, dur: 10 * time.Second, think: 50 * time.Millisecond}, 0.99, 0.99, 25},
		{"small limit, whole units", load{workers: 3, callers: 8, limits: MustLimits("requests 10/m"), trip: 5 * time.Millisecond, dur: 5 * time.Minute, think: 50 * time.Millisecond}, 0.98, 0.99, 25},
		{"strict spacing", load{workers: 3, callers: 8, limits: MustLimits("requests 50/s burst 1"), trip: time.Millisecond, dur: 30 * time.Second, think: 50 * time.Millisecond}, 0.85, 0.99, 50},
		{"two rates on one unit", load{workers: 3, callers: 8, limits: MustLimits("requests 50/s,1500/m burst 100"), trip: 5 * time.Millisecond, dur: 2 * time.Minute, think: 50 * time.Millisecond}, 0, 0.99, 25},
		{"a burst shared out, then small steps", load{workers: 8, callers: 1, limits: MustLimits("requests 60/m; tokens 1000000/m"), tokens: prompts, trip: 5 * time.Millisecond, dur: 2 * time.Minute, think: 50 * time.Millisecond, longest: 10 * time.Second}, 0.98, 0.99, 25},
		{"demand below the limit", load{workers: 10, callers: 8, limits: MustLimits("requests 1000/s"), trip: 5 * time.Millisecond, dur: 30 * time.Second, think: 160 * time.Millisecond}, 0, 0.99, 25},
	} {
		t.Run(tt.name, func(t *testing.T) {
			adm, stats := tt.load.run(t)
			var spent Cost
			var exchanges int64
			for _, a := range adm {
				spent = spent.Add(a.cost)
			}
			for _, s := range stats {
				exchanges += s.Exchanges
			}
			var use float64
			for u := range bucket.NumUnits {
				for _, r := range tt.load.limits.Of(u) {
					over := excess(adm, r, func(c Cost) int64 { return c.Of(u) })
					assert.LessOrEqual(t, over, 1e-6, "over %v on %v", r, u)
					bound := float64(r.Burst) + float64(tt.load.dur)*float64(r.N)/float64(r.Per)
					use = max(use, float64(spent.Of(u))/bound)
				}
			}
			each := float64(exchanges) / tt.load.dur.Seconds() / float64(tt.load.workers)
			if tt.load.longest > 0 {
				slowest := slices.MaxFunc(adm, func(a, b admission) int { return int(a.waited - b.waited) })
				assert.Less(t, slowest.waited, tt.load.longest, "the longest wait")
			}
			t.Logf("use %.4f, Jain %.4f, %.1f exchanges a second and worker", use, jain(adm, tt.load.workers), each)
			assert.GreaterOrEqual(t, use, tt.use, "use of the limit")
			assert.GreaterOrEqual(t, jain(adm, tt.load.workers), tt.jain, "Jain's index of fairness")
			assert.LessOrEqual(t, each, tt.exchanges, "exchanges with the store")
		})
	}
}
