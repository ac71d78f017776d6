package choked

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// hot is a limiter with quota for everyone in this worker.
func hot(t testing.TB, requests, tokens string) *Limiter {
	store := NewLocal()
	c := New(store)
	t.Cleanup(func() {
		c.Close()
		store.Close()
	})
	l, err := c.Limiter("k", shortLimits(requests, tokens), nil)
	require.NoError(t, err)
	return l
}

var shapes = []struct {
	name, requests, tokens string
	cost                   Cost
}{
	{"one rate", "1000000000/s", "", Cost{Requests: 1}},
	{"three rates", "1000000000/s,50000000000/m", "50000000000/m", Cost{Requests: 1, Tokens: 10}},
}

// Beyond these a take would cost the garbage collector more than it costs us.
func TestTheFastPathAllocatesNothing(t *testing.T) {
	ctx := context.Background()
	for _, sh := range shapes {
		l := endless(t, sh.requests, sh.tokens)
		require.NoError(t, l.Wait(ctx, sh.cost))
		before := l.Stats().Exchanges
		assert.Zero(t, testing.AllocsPerRun(1000, func() { _ = l.Wait(ctx, sh.cost) }), "Wait, %s", sh.name)
		assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = l.Allow(ctx, sh.cost) }), "Allow, %s", sh.name)
		call := Wrap(l, func(_ context.Context, in string) (string, error) { return in, nil })
		assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = call(ctx, "prompt") }), "Wrap without an estimator, %s", sh.name)
		assert.Equal(t, before, l.Stats().Exchanges, "all of it was held")
	}
	empty := hot(t, "1/366d", "")
	require.NoError(t, empty.Wait(ctx, Cost{Requests: 1}))
	_, err := empty.Allow(ctx, Cost{Requests: 1})
	require.NoError(t, err)
	assert.Zero(t, testing.AllocsPerRun(1000, func() { _, _ = empty.Allow(ctx, Cost{Requests: 1}) }), "refused")
}

// plenty is a Store that grants each ask more than anyone spends, for ever.
type plenty struct{ Store }

func (plenty) Lease(_ context.Context, a Ask) (Lease, error) {
	return Lease{ID: a.ID, OK: true, Granted: a.Limits.Limited(Cost{Requests: 1 << 50, Tokens: 1 << 59}), ValidFor: 100 * 366 * 24 * time.Hour}, nil
}

// endless is a limiter that holds all the quota it will ever spend.
func endless(t testing.TB, requests, tokens string) *Limiter {
	c := New(plenty{NewLocal()})
	t.Cleanup(func() { c.Close() })
	l, err := c.Limiter("k", shortLimits(requests, tokens), nil)
	require.NoError(t, err)
	require.NoError(t, l.Wait(context.Background(), Cost{Requests: 1}))
	return l
}

func BenchmarkTake(b *testing.B) {
	ctx := context.Background()
	for _, sh := range shapes {
		b.Run(sh.name+"/in hand", func(b *testing.B) {
			l := endless(b, sh.requests, sh.tokens)
			b.ReportAllocs()
			for b.Loop() {
				_ = l.Wait(ctx, sh.cost)
			}
		})
		b.Run(sh.name+"/parallel", func(b *testing.B) {
			l := endless(b, sh.requests, sh.tokens)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					_ = l.Wait(ctx, sh.cost)
				}
			})
		})
		b.Run(sh.name+"/with a store", func(b *testing.B) {
			l := hot(b, sh.requests, sh.tokens)
			b.ReportAllocs()
			for b.Loop() {
				_ = l.Wait(ctx, sh.cost)
			}
			s := l.Stats()
			b.ReportMetric(float64(s.Exchanges)/float64(s.Admitted), "exchanges/op")
		})
	}
	b.Run("refused", func(b *testing.B) {
		l := hot(b, "1/366d", "")
		_ = l.Wait(ctx, Cost{Requests: 1})
		b.ReportAllocs()
		for b.Loop() {
			_, _ = l.Allow(ctx, Cost{Requests: 1})
		}
	})
}
