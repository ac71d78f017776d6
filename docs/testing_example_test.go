// Package docs_test has the examples of docs/testing.md.
package docs_test

import (
	"context"
	"errors"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/providertest"
)

// Summarise stands for code that uses choked: it gets a limiter.
func Summarise(ctx context.Context, limiter *choked.Limiter, text string) (string, error) {
	if err := limiter.Wait(ctx, choked.Cost{Requests: 1}); err != nil {
		return "", err
	}
	return "In short: " + text, nil
}

// newLimiter returns a limiter of this test alone.
func newLimiter(t *testing.T, limits choked.Limits) *choked.Limiter {
	t.Helper()
	store := choked.NewLocal()
	choke := choked.New(store)
	t.Cleanup(func() {
		choke.Close()
		store.Close()
	})
	limiter, err := choke.Limiter("test", limits, nil)
	if err != nil {
		t.Fatal(err)
	}
	return limiter
}

func TestThirdCallWaitsForTheRefill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limiter := newLimiter(t, choked.MustLimits("requests 1/m burst 2"))
		start := time.Now()
		for range 3 {
			if _, err := Summarise(t.Context(), limiter, "a text"); err != nil {
				t.Fatal(err)
			}
		}
		if waited := time.Since(start).Round(time.Second); waited != time.Minute {
			t.Errorf("three calls took %v, want a minute", waited)
		}
	})
}

func TestLimiterThatNeverRefuses(t *testing.T) {
	limiter := newLimiter(t, choked.MustLimits("requests 1000000000/s; tokens 1000000000/s"))
	for range 10_000 {
		if _, err := Summarise(t.Context(), limiter, "a text"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLimiterThatRefuses(t *testing.T) {
	limiter := newLimiter(t, choked.MustLimits("requests 1/d"))
	if err := limiter.Wait(t.Context(), choked.Cost{Requests: 1}); err != nil { // spends all there is
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	_, err := Summarise(ctx, limiter, "a text") // fails at once: a day is longer than an hour
	if !errors.Is(err, choked.ErrDeadline) {
		t.Errorf("error %v, want ErrDeadline", err)
	}
}

// away is a store that cannot decide.
type away struct{ err error }

func (a away) Lease(context.Context, choked.Ask) (choked.Lease, error) { return choked.Lease{}, a.err }
func (a away) Settle(context.Context, []choked.Settlement) error       { return a.err }
func (a away) Adjust(context.Context, choked.Adjustment) error         { return a.err }
func (a away) Close() error                                            { return nil }

func TestStoreThatIsAway(t *testing.T) {
	choke := choked.New(away{choked.ErrNoQuorum})
	defer choke.Close()
	limiter, err := choke.Limiter("test", choked.MustLimits("requests 50/s"), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Summarise(t.Context(), limiter, "a text")
	if !errors.Is(err, choked.ErrNoQuorum) {
		t.Errorf("error %v, want ErrNoQuorum", err)
	}
}

func TestLimitsKeepToTheProvider(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		provider, err := providertest.New(providertest.Config{
			Provider: providertest.Anthropic, Requests: "60/m burst 10",
			Jitter: 250 * time.Millisecond, ClockPPM: -500,
		})
		if err != nil {
			t.Fatal(err)
		}
		client := &http.Client{Transport: provider}
		limiter := newLimiter(t, choked.MustLimits("requests 59/m burst 9"))
		for range 300 {
			if err := limiter.Wait(t.Context(), choked.Cost{Requests: 1}); err != nil {
				t.Fatal(err)
			}
			req, err := providertest.NewRequest(t.Context(), providertest.Anthropic, "http://test", providertest.Prompt{Text: "Hello"})
			if err != nil {
				t.Fatal(err)
			}
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
		}
		if refused := provider.Stats().Refused; refused > 0 {
			t.Errorf("%d of 300 calls refused", refused)
		}
	})
}
