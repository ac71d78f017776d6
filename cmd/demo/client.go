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

	"github.com/choked/choked"
	"github.com/choked/choked/estimator"
)

// prompt is one call to the provider. Its times are those of [history.Now], in
// nanoseconds.
type prompt struct {
	text   string
	tokens int64 // as the provider counts them
	ready  int64 // when the caller had the prompt
	asked  int64 // when the caller asked the limiter for admission
	turn   int64 // the caller's position in the limiter's queue, see history.Queue
}

// biasedEstimator estimates the tokens of a prompt by the provider's own
// tokenizer and multiplies them by bias, so that the estimates are wrong.
type biasedEstimator struct {
	count *estimator.Counted
	bias  float64
}

type tokenizer struct{}

func (tokenizer) Count(text string) int { return int(countTokens(text)) }

// newEstimator returns an estimator whose first estimates are wrong by the
// factor bias. The usage that the provider reports corrects later estimates.
func newEstimator(bias float64) *estimator.Calibrated {
	return estimator.Calibrate(biasedEstimator{estimator.Using(tokenizer{}, estimator.Exact()), bias})
}

// Estimate implements [choked.Estimator].
func (g biasedEstimator) Estimate(input any) (choked.Cost, error) {
	p, ok := input.(*prompt)
	if !ok {
		return choked.Cost{}, fmt.Errorf("estimate of a %T: want a *prompt", input)
	}
	c, err := g.count.Estimate(p.text)
	return choked.Cost{Tokens: biased(c.Tokens, g.bias)}, err
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
	// The transport keeps one connection for each caller and uses no HTTP proxy.
	return &client{url, &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		MaxIdleConnsPerHost: callers, MaxIdleConns: callers,
	}}}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// refusedError reports that the provider answered a call with status 429.
type refusedError struct{ retryAfter time.Duration }

func (e *refusedError) Error() string {
	return fmt.Sprintf("provider: 429: retry after %v", e.retryAfter)
}

// RetryAfter implements [choked.RetryAfter].
func (e *refusedError) RetryAfter() time.Duration { return e.retryAfter }

// post sends one prompt and returns the provider's reply. The error is a
// *refusedError if the provider answered 429.
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
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20)) // read to the end, so that the connection is reused
	switch {
	case err != nil:
		return out, err
	case resp.StatusCode == http.StatusTooManyRequests:
		return out, &refusedError{retryAfter(resp.Header)}
	case resp.StatusCode != http.StatusOK:
		return out, fmt.Errorf("provider: %s: %.200q", resp.Status, body)
	}
	if err := json.Unmarshal(body, &out); err != nil {
		return out, fmt.Errorf("provider: parse reply %.200q: %w", body, err)
	}
	return out, nil
}
