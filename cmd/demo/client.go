package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/choked/choked/estimator"
)

// prompt is one call on its way: what is sent, and since when.
type prompt struct {
	text   string
	tokens int64 // that the provider will count
	ready  int64 // instants of history.Now
	asked  int64 // for admission
	turn   int64 // of the caller, see history.Queue
}

// guess estimates a prompt by the provider's own tokenizer, wrong by a factor.
type guess struct {
	count *estimator.Counted
	bias  float64
}

type tokenizer struct{}

func (tokenizer) Count(text string) int { return int(countTokens(text)) }

// newEstimator returns an estimator that is wrong by the factor bias at first
// and corrected by what the provider reports.
func newEstimator(bias float64) *estimator.Calibrated {
	return estimator.Calibrate(guess{estimator.Using(tokenizer{}, estimator.Exact()), bias})
}

// Estimate implements [choked.Estimator].
func (g guess) Estimate(input any) (int64, error) {
	p, ok := input.(*prompt)
	if !ok {
		return 0, fmt.Errorf("estimate of a %T: want a *prompt", input)
	}
	n, err := g.count.Estimate(p.text)
	return biased(n, g.bias), err
}

func biased(tokens int64, bias float64) int64 {
	return int64(math.Round(float64(tokens) * bias))
}

// client posts prompts to the provider.
type client struct {
	url  string
	http *http.Client
}

func newClient(url string, callers int) *client {
	// One connection for each caller, and none to a proxy on the way.
	return &client{url, &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: callers, MaxIdleConns: callers,
	}}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// refusedError is a status of 429.
type refusedError struct{ retryAfter time.Duration }

func (e *refusedError) Error() string { return fmt.Sprintf("refused, again in %v", e.retryAfter) }

// RetryAfter implements [choked.RetryAfter].
func (e *refusedError) RetryAfter() time.Duration { return e.retryAfter }

// post sends one prompt. Its error is a *refusedError if the provider has
// refused it for now.
func (c *client) post(ctx context.Context, text string) (out reply, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, strings.NewReader(text))
	if err != nil {
		return out, err
	}
	req.Header.Set("Content-Type", "text/plain; charset=utf-8")
	resp, err := c.http.Do(req)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // all of it, so that the connection is kept
	switch {
	case err != nil:
		return out, err
	case resp.StatusCode == http.StatusTooManyRequests:
		return out, &refusedError{retryAfter(resp.Header)}
	case resp.StatusCode != http.StatusOK:
		return out, fmt.Errorf("provider: %s: %.200q", resp.Status, body)
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return out, fmt.Errorf("provider: reply %.200q: %w", body, err)
	}
	return out, nil
}
