package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sethvargo/go-limiter/memorystore"
	"github.com/throttled/throttled/v2"
	"github.com/throttled/throttled/v2/store/memstore"
	"go.uber.org/ratelimit"
	"golang.org/x/time/rate"

	"github.com/choked/choked"
)

// contestant is a limiter to compare. open creates it for n keys; take takes one unit
// of key i and reports whether the limiter admitted it.
type contestant struct {
	name  string
	waits bool // take waits for admission and never refuses
	ours  bool // an error ends the run; errors of others are counted
	open  func(n int, limit choked.Rate) (take func(i int) (bool, error), close func(), err error)
}

const unlimited = 1_000_000_000 // requests a second: no call is refused

var contestants = []contestant{
	{name: "choked", ours: true, open: func(n int, limit choked.Rate) (func(int) (bool, error), func(), error) {
		return openLocal(n, choked.Limits{Requests: []choked.Rate{limit}})
	}},
	{name: "choked, three rates", ours: true, open: func(n int, limit choked.Rate) (func(int) (bool, error), func(), error) {
		long := choked.Rate{N: 60 * limit.N, Per: 60 * limit.Per, Burst: 60 * limit.N}
		return openLocal(n, choked.Limits{Requests: []choked.Rate{limit, long}, Tokens: []choked.Rate{long}})
	}},
	xTime, uber, goLimiter, throttledGCRA,
}

// Limiters of a single process.
var (
	xTime = contestant{name: "x/time/rate", open: func(n int, limit choked.Rate) (func(int) (bool, error), func(), error) {
		ls := make([]*rate.Limiter, n)
		for i := range ls {
			ls[i] = rate.NewLimiter(rate.Limit(float64(limit.N)/limit.Per.Seconds()), int(limit.Burst))
		}
		return func(i int) (bool, error) { return ls[i].AllowN(time.Now(), 1), nil }, func() {}, nil
	}}
	uber = contestant{name: "uber/ratelimit", waits: true, open: func(n int, limit choked.Rate) (func(int) (bool, error), func(), error) {
		ls := make([]ratelimit.Limiter, n)
		for i := range ls {
			ls[i] = ratelimit.New(int(limit.N), ratelimit.Per(limit.Per))
		}
		return func(i int) (bool, error) { ls[i].Take(); return true, nil }, func() {}, nil
	}}
	goLimiter = contestant{name: "sethvargo/go-limiter", open: func(n int, limit choked.Rate) (func(int) (bool, error), func(), error) {
		interval := limit.Per
		if limit.N == unlimited { // go-limiter adds a token each interval/tokens, which rounds to a rate of one a second here
			interval = time.Hour
		}
		store, err := memorystore.New(&memorystore.Config{Tokens: uint64(limit.N), Interval: interval})
		if err != nil {
			return nil, nil, err
		}
		keys, ctx := names(n), context.Background()
		return func(i int) (bool, error) {
			_, _, _, ok, err := store.Take(ctx, keys[i])
			return ok, err
		}, func() { store.Close(ctx) }, nil
	}}
	throttledGCRA = contestant{name: "throttled", open: func(n int, limit choked.Rate) (func(int) (bool, error), func(), error) {
		store, err := memstore.NewCtx(0)
		if err != nil {
			return nil, nil, err
		}
		l, err := throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{MaxRate: throttled.PerDuration(int(limit.N), limit.Per), MaxBurst: int(limit.Burst)})
		if err != nil {
			return nil, nil, err
		}
		keys, ctx := names(n), context.Background()
		return func(i int) (bool, error) {
			limited, _, err := l.RateLimitCtx(ctx, keys[i], 1)
			return !limited, err
		}, func() {}, nil
	}}
)

func names(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("key-", i)
	}
	return keys
}

func openLocal(n int, limits choked.Limits) (func(int) (bool, error), func(), error) {
	store := choked.NewLocal()
	choke := choked.New(store)
	stop := func() { choke.Close(); store.Close() }
	ls := make([]*choked.Limiter, n)
	for i, key := range names(n) {
		l, err := choke.Limiter(key, limits, nil)
		if err != nil {
			stop()
			return nil, nil, err
		}
		ls[i] = l
	}
	ctx, cost := context.Background(), limits.Limited(choked.Cost{Requests: 1, Tokens: 1})
	return func(i int) (bool, error) {
		v, err := ls[i].Allow(ctx, cost)
		return v.OK, err
	}, stop, nil
}

// scenario is one way in which the contestants are called.
type scenario struct {
	title    string
	keys     int
	rate     choked.Rate // of each key
	refused  bool
	parallel bool
}

// hourly admits the first call only.
var hourly = choked.Rate{N: 1, Per: time.Hour, Burst: 1}

var scenarios = []scenario{
	{"hot key, admitted", 1, perSecond(unlimited), false, false},
	{"hot key, admitted, from all CPUs", 1, perSecond(unlimited), false, true},
	{"hot key, refused", 1, hourly, true, false},
	{"hot key, refused, from all CPUs", 1, hourly, true, true},
	{"10,000 keys at random, admitted", 10_000, perSecond(10_000), false, false},
	{"10,000 keys at random, admitted, from all CPUs", 10_000, perSecond(10_000), false, true},
	{"10,000 keys at random, refused", 10_000, hourly, true, false},
	{"10,000 keys at random, refused, from all CPUs", 10_000, hourly, true, true},
}

// sample holds, for each round, the cost of a call and the share of failed calls.
type sample struct{ ns, allocs, failed []float64 }

// local measures the time of one call of each limiter, in one process.
func local(ctx context.Context, c *config) (tables []table, err error) {
	for _, s := range scenarios {
		found, err := s.measureAll(ctx, c.rounds)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.title, err)
		}
		tables = append(tables, s.table(found))
		if s.keys == 1 && !s.refused {
			mine, theirs := found["choked"], found[xTime.name]
			share, allocs := median(mine.ns)/median(theirs.ns), median(mine.allocs)
			c.goals.add("local take, "+s.title, "≤ 1.00 of x/time/rate's AllowN, 0 allocs", fmt.Sprintf("%.2f, %.2f allocs", share, allocs),
				share < 1.005 && allocs < 0.005, "")
		}
	}
	return tables, nil
}

// measureAll measures all contestants in each round, one after the other, and returns
// the samples of each by name. Contestants that cannot refuse are left out where calls
// are to be refused.
func (s scenario) measureAll(ctx context.Context, rounds int) (map[string]*sample, error) {
	found := make(map[string]*sample)
	for range rounds {
		for _, who := range contestants {
			if s.refused && who.waits {
				continue
			}
			if found[who.name] == nil {
				found[who.name] = new(sample)
			}
			if err := s.measure(who, found[who.name]); err != nil {
				return nil, fmt.Errorf("%s: %w", who.name, err)
			}
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return found, nil
}

// table returns the table of the samples in found.
func (s scenario) table(found map[string]*sample) table {
	t := table{note: s.title, head: []string{"", "ns/op, median", "least–most", "allocs/op", "against x/time/rate", "calls that failed"}}
	base := median(found[xTime.name].ns)
	for _, who := range contestants {
		x := found[who.name]
		if x == nil {
			continue
		}
		least, most := x.ns[0], x.ns[0]
		for _, ns := range x.ns {
			least, most = min(least, ns), max(most, ns)
		}
		t.row(who.name, fmt.Sprintf("%.1f", median(x.ns)), fmt.Sprintf("%.1f–%.1f", least, most),
			fmt.Sprintf("%.2f", median(x.allocs)), fmt.Sprintf("%.2f of its time", median(x.ns)/base), fmt.Sprintf("%.3g%%", 100*median(x.failed)))
	}
	return t
}

// warmUp is longer than the time over which demand is averaged and the time after
// which an idle lease is returned.
const warmUp = 700 * time.Millisecond

// measure adds to x the cost of a call once all keys are in use. It returns an error
// if the verdicts are not those of the scenario.
func (s scenario) measure(who contestant, x *sample) error {
	take, done, err := who.open(s.keys, s.rate)
	if err != nil {
		return err
	}
	defer done()
	d := driver{take: take, order: randomOrder(s.keys), parallel: s.parallel}
	for end := time.Now().Add(warmUp); time.Now().Before(end); {
		for _, i := range d.order {
			take(i) //nolint:errcheck // warm-up calls do not count
		}
	}
	r := testing.Benchmark(d.run)
	calls, failed := float64(d.calls.Load()), float64(d.failed.Load())
	if failed > 0 && who.ours {
		return *d.err.Load()
	}
	if share := float64(d.admitted.Load()) / max(calls-failed, 1); !s.refused && share < 1 || s.refused && share > 0.01 {
		return fmt.Errorf("%.1f%% admitted", 100*share)
	}
	x.ns, x.allocs = append(x.ns, float64(r.T)/float64(r.N)), append(x.allocs, float64(r.MemAllocs)/float64(r.N))
	x.failed = append(x.failed, failed/calls)
	return nil
}

// randomOrder returns a random sequence of keys, so long that it has nearly all of
// 10,000 keys.
func randomOrder(keys int) []int {
	order := make([]int, 1<<16)
	for i := range order {
		order[i] = rand.IntN(keys)
	}
	return order
}

// driver calls take for the keys in order, again and again.
type driver struct {
	take     func(int) (bool, error)
	order    []int
	parallel bool

	calls, admitted, failed atomic.Int64
	err                     atomic.Pointer[error] // the last
}

func (d *driver) run(b *testing.B) {
	b.ReportAllocs()
	if !d.parallel {
		i := 0
		d.callLoop(0, func() bool { i++; return i <= b.N })
		return
	}
	var next atomic.Int64
	b.RunParallel(func(pb *testing.PB) { d.callLoop(int(next.Add(9973)), pb.Next) })
}

func (d *driver) callLoop(i int, more func() bool) {
	calls, admitted := int64(0), int64(0)
	for ; more(); i++ {
		ok, err := d.take(d.order[i&(len(d.order)-1)])
		if err != nil {
			d.fail(err)
		}
		calls++
		if ok && err == nil {
			admitted++
		}
	}
	d.calls.Add(calls)
	d.admitted.Add(admitted)
}

func (d *driver) fail(err error) { // a method of its own, so that the err of callLoop does not escape to the heap
	d.failed.Add(1)
	d.err.Store(&err)
}
