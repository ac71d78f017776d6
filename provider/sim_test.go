package provider_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/provider"
	"github.com/choked/choked/providertest"
)

// crowd is workers that share an account of a fake provider under the limits of its
// profile, in virtual time. Their calls come in bursts after idle times. Most calls have
// 200 to 5,000 tokens, one in a hundred has 40,000.
type crowd struct {
	provider *providertest.Provider
	name     string
	workers  int
	lasts    time.Duration
	seed     uint64

	mu      sync.Mutex
	refused int // answers of 429
	calls   int
	tokens  int64
}

// TestProvidersRefuseNothing shows what the profiles are for. The provider counts up to
// δ late, by a clock that runs fast or slow by 500 ppm, and no call is refused.
func TestProvidersRefuseNothing(t *testing.T) {
	lasts := 5 * time.Minute
	if os.Getenv("CHOKED_LONG") != "" {
		lasts = time.Hour
	}
	for _, p := range provider.Profiles() {
		for i, workers := range []int{3, 10} {
			t.Run(fmt.Sprintf("%s/%d workers", p.Name, workers), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c := &crowd{name: p.Name, workers: workers, lasts: lasts, seed: uint64(i + 1)}
					c.run(t, p, 500-1000*i)
				})
			})
		}
	}
}

const stated, statedTokens = "500/m", "200000/m"

func (c *crowd) run(t *testing.T, p provider.Profile, ppm int) {
	cfg := providertest.Config{
		Provider: c.name, Requests: stated, Jitter: 250 * time.Millisecond, ClockPPM: ppm, Seed: c.seed,
		Count: providertest.AtStart, ClockOffset: 17 * time.Second,
	}
	rates := []string{stated, statedTokens}
	switch c.name {
	case "anthropic":
		cfg.Input, cfg.Output = statedTokens, "100000/m"
		rates = append(rates, cfg.Output)
	case "gemini":
		cfg.Input = statedTokens
	default:
		cfg.Tokens = statedTokens
	}
	var err error
	c.provider, err = providertest.New(cfg)
	require.NoError(t, err)
	limits, err := p.Limits(rates...)
	require.NoError(t, err)

	store := choked.NewLocal()
	defer store.Close()
	ctx, cancel := context.WithTimeout(context.Background(), c.lasts)
	defer cancel()
	var all sync.WaitGroup
	for w := range c.workers {
		choke := choked.New(store)
		defer choke.Close()
		l, err := choke.Limiter("account", limits, nil)
		require.NoError(t, err)
		for caller := range 8 {
			all.Go(func() { c.call(ctx, t, l, rand.New(rand.NewPCG(c.seed, uint64(w*100+caller)))) })
		}
	}
	all.Wait()
	assert.Zero(t, c.refused, "of %d calls", c.calls)
	used := float64(c.tokens) / 200_000 / c.lasts.Minutes()
	t.Logf("%d calls, %.1f%% of the tokens in the whole time, idle times included", c.calls, 100*used)
	assert.Greater(t, used, 0.5)
}

// call makes calls until ctx ends, with an idle time now and then.
func (c *crowd) call(ctx context.Context, t *testing.T, l *choked.Limiter, r *rand.Rand) {
	for ctx.Err() == nil {
		if phase := time.Now().Unix() % 150; phase < 20 { // all are idle at the same time
			time.Sleep(time.Duration(20-phase) * time.Second)
		}
		tokens := 200 + r.Int64N(4800)
		if r.IntN(100) == 0 {
			tokens = 40_000
		}
		reply := tokens / 4
		cost := choked.Cost{Requests: 1, Input: tokens - reply, Output: reply}
		if l.Wait(ctx, cost) != nil {
			return
		}
		req, err := providertest.NewRequest(context.Background(), c.name, "http://provider", providertest.Prompt{
			Text: strings.Repeat("word", int(cost.Input)), MaxTokens: reply,
		})
		if err != nil {
			t.Error(err)
			return
		}
		resp, err := c.provider.RoundTrip(req)
		if err != nil {
			t.Error(err)
			return
		}
		resp.Body.Close()
		c.mu.Lock()
		c.calls++
		c.tokens += tokens
		if resp.StatusCode == http.StatusTooManyRequests {
			c.refused++
		}
		c.mu.Unlock()
	}
}
