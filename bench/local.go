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

// contestant makes a limiter over n keys: a function that takes one from key i,
// and whether it got it.
type contestant struct {
	name string
	open func(n int, perSecond int) (take func(i int) bool, close func())
}

const plenty = 1_000_000_000 // a second: nobody is refused

var contestants = []contestant{
	{"choked", func(n, perSecond int) (func(int) bool, func()) {
		return openLocal(n, fmt.Sprintf("%d/s", perSecond), "")
	}},
	{"choked, three rates", func(n, perSecond int) (func(int) bool, func()) {
		return openLocal(n, fmt.Sprintf("%d/s,%d/m", perSecond, 60*perSecond), fmt.Sprintf("%d/m", 60*perSecond))
	}},
	{"x/time/rate", func(n, perSecond int) (func(int) bool, func()) {
		ls := make([]*rate.Limiter, n)
		for i := range ls {
			ls[i] = rate.NewLimiter(rate.Limit(perSecond), perSecond)
		}
		return func(i int) bool { return ls[i].AllowN(time.Now(), 1) }, func() {}
	}},
	{"uber/ratelimit", func(n, perSecond int) (func(int) bool, func()) {
		if perSecond < plenty {
			return nil, nil // it only waits
		}
		ls := make([]ratelimit.Limiter, n)
		for i := range ls {
			ls[i] = ratelimit.New(perSecond)
		}
		return func(i int) bool { ls[i].Take(); return true }, func() {}
	}},
	{"sethvargo/go-limiter", func(n, perSecond int) (func(int) bool, func()) {
		store, err := memorystore.New(&memorystore.Config{Tokens: uint64(perSecond), Interval: time.Second})
		if err != nil {
			panic(err)
		}
		keys, ctx := names(n), context.Background()
		return func(i int) bool {
			_, _, _, ok, _ := store.Take(ctx, keys[i])
			return ok
		}, func() { store.Close(ctx) }
	}},
	{"throttled", func(n, perSecond int) (func(int) bool, func()) {
		store, err := memstore.NewCtx(0)
		if err != nil {
			panic(err)
		}
		l, err := throttled.NewGCRARateLimiterCtx(store, throttled.RateQuota{MaxRate: throttled.PerSec(perSecond), MaxBurst: perSecond})
		if err != nil {
			panic(err)
		}
		keys, ctx := names(n), context.Background()
		return func(i int) bool {
			limited, _, _ := l.RateLimitCtx(ctx, keys[i], 1)
			return !limited
		}, func() {}
	}},
}

func names(n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = fmt.Sprint("key-", i)
	}
	return keys
}

func openLocal(n int, requests, tokens string) (func(int) bool, func()) {
	store := choked.NewLocal()
	choke := choked.New(store)
	limits := choked.MustLimits(requests, tokens)
	ls := make([]*choked.Limiter, n)
	for i, key := range names(n) {
		l, err := choke.Limiter(key, limits, nil)
		if err != nil {
			panic(err)
		}
		ls[i] = l
	}
	ctx, cost := context.Background(), limits.Limited(choked.Cost{Requests: 1, Tokens: 1})
	return func(i int) bool {
		v, _ := ls[i].Allow(ctx, cost)
		return v.OK
	}, func() { choke.Close(); store.Close() }
}

func local(ctx context.Context, c config) (tables []table, err error) {
	for _, s := range []struct {
		title    string
		keys     int
		rate     int
		parallel bool
	}{
		{"hot key, admitted", 1, plenty, false},
		{"hot key, admitted, from all CPUs", 1, plenty, true},
		{"hot key, refused", 1, 1, false},
		{"hot key, refused, from all CPUs", 1, 1, true},
		{"10,000 keys at random, admitted", 10_000, 10_000, false},
		{"10,000 keys at random, admitted, from all CPUs", 10_000, 10_000, true},
	} {
		times := make(map[string][]float64)
		allocs := make(map[string]int64)
		for range c.rounds {
			for _, who := range contestants {
				take, done := who.open(s.keys, s.rate)
				if take == nil {
					continue
				}
				for i := range s.keys { // none is measured when it is new
					take(i)
				}
				r := testing.Benchmark(func(b *testing.B) { drive(b, take, s.keys, s.parallel) })
				times[who.name] = append(times[who.name], float64(r.T)/float64(r.N))
				allocs[who.name] = r.AllocsPerOp()
				done()
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		t := table{note: s.title, head: []string{"", "ns/op, median", "least–most", "allocs/op", "against x/time/rate"}}
		base := median(times["x/time/rate"])
		for _, who := range contestants {
			if ts := times[who.name]; ts != nil {
				least, most := ts[0], ts[0]
				for _, x := range ts {
					least, most = min(least, x), max(most, x)
				}
				t.row(who.name, fmt.Sprintf("%.1f", median(ts)), fmt.Sprintf("%.1f–%.1f", least, most), allocs[who.name], fmt.Sprintf("%.2f of its time", median(ts)/base))
			}
		}
		tables = append(tables, t)
	}
	return tables, nil
}

func drive(b *testing.B, take func(int) bool, keys int, parallel bool) {
	b.ReportAllocs()
	order := make([]int, 1<<12)
	for i := range order {
		order[i] = rand.IntN(keys)
	}
	b.ResetTimer()
	if !parallel {
		for i := range b.N {
			take(order[i&(len(order)-1)])
		}
		return
	}
	var next atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		for i := int(next.Add(997)); pb.Next(); i++ {
			take(order[i&(len(order)-1)])
		}
	})
}
