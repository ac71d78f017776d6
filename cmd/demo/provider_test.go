package main

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
)

// TestProviderRefusesBeyondBurstAndTolerance sends calls to a provider that allows
// 10 requests a second, burst 5, and 100 tokens a second.
func TestProviderRefusesBeyondBurstAndTolerance(t *testing.T) {
	const ms = 0.001
	p := &provider{meters: newMeters(choked.MustLimits("requests 10/s burst 5; tokens 100/s"))}
	for i, step := range []struct {
		at     float64
		tokens int64
		ok     bool
		wait   time.Duration
		why    string
	}{
		{0, 1, true, 0, "a meter is empty at first"},
		{0, 1, true, 0, ""},
		{0, 1, true, 0, ""},
		{0, 1, true, 0, ""},
		{0, 1, true, 0, "the whole burst at once"},
		{0, 1, false, 80 * time.Millisecond, "the next one is 100 ms early, less the tolerance of 20 ms"},
		{79 * ms, 1, false, time.Millisecond, "a refusal costs nothing"},
		{81 * ms, 90, true, 0, "20 ms early, within the tolerance"},
		{190 * ms, 30, false, 0, "room for requests, not for tokens: the level is 95 − 11 of 100"},
		{1, 30, true, 0, "there is room now"},
		{9, 103, false, 0, "more tokens than fit at all"},
	} {
		wait, ok := p.admit(func() float64 { return step.at }, step.tokens)
		assert.Equal(t, step.ok, ok, "step %d at %v: %s", i, step.at, step.why)
		if step.wait > 0 {
			assert.InDelta(t, step.wait, wait, float64(time.Microsecond), "step %d at %v: wait", i, step.at)
		}
	}
}

func TestProviderAnswersUsageOr429(t *testing.T) {
	p, err := startProvider(choked.MustLimits("requests 1/h"), durationRange{})
	require.NoError(t, err)
	defer p.close()
	c := newClient(p.url(), 1)
	defer c.close()

	_, err = c.post(t.Context(), "")
	assert.ErrorContains(t, err, "400 Bad Request", "no prompt")
	out, err := c.post(t.Context(), "To be, or not to be.")
	require.NoError(t, err)
	used, ok := out.Used()
	assert.True(t, ok)
	assert.Equal(t, choked.Cost{Tokens: 8}, used, "six words and two marks")

	_, err = c.post(t.Context(), "That is the question.")
	var refused *refusedError
	require.ErrorAs(t, err, &refused)
	assert.Greater(t, refused.RetryAfter(), 59*time.Minute)
	assert.Equal(t, int64(1), p.refused.Load())
}

func TestRetryAfterPrefersMilliseconds(t *testing.T) {
	h := http.Header{}
	assert.Equal(t, time.Second, retryAfter(h), "without a header")
	h.Set("Retry-After", "3")
	assert.Equal(t, 3*time.Second, retryAfter(h))
	setRetryAfter(h, 1200*time.Microsecond)
	assert.Equal(t, "1", h.Get("Retry-After"), "whole seconds, rounded up")
	assert.Equal(t, 2*time.Millisecond, retryAfter(h), "milliseconds, rounded up")
	h.Set("Retry-After-Ms", "soon")
	assert.Equal(t, time.Second, retryAfter(h))
}
