package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/httpapi"
)

// exitRefused is the exit status of the command acquire when the cost was not spent.
const exitRefused exitStatus = 5

// answerWithin is how long an answer may take beyond the wait in the queue.
const answerWithin = 10 * time.Second

// acquire waits for quota and spends it, for scripts.
func acquire(ctx context.Context, f *flags, args []string) error {
	var key, limitsText, costText string
	var wait time.Duration
	c := newClient(f)
	f.StringVar(&key, "key", "", "`name` of what is limited")
	f.StringVar(&limitsText, "limits", "", "`rates` of the key, as in \"requests 500/m; input 40000/m; spend $50/d\"")
	f.StringVar(&costText, "cost", "requests 1", "`cost` of the call, as in \"input 900; output 300; spend $0.05\"; it is one request unless it says otherwise")
	f.DurationVar(&wait, "wait", 30*time.Second, "longest time in the queue, up to 10m")
	if err := f.parse(args, 0, 0, ""); err != nil {
		return err
	}
	limits, err := bucket.ParseLimits(limitsText)
	if err != nil {
		return wrong("-limits: %w", err)
	}
	cost, err := httpapi.ParseCost(costText)
	if err != nil {
		return wrong("-cost: %w", err)
	}
	request := httpapi.AcquireRequest{Key: httpapi.KeyOf(key), Limits: httpapi.Limits(limits), Cost: &cost, Wait: &wait}
	body, err := json.Marshal(request)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, max(wait, 0)+answerWithin)
	defer cancel()
	status, answer, err := c.do(ctx, "POST", "/acquire", body)
	if err != nil {
		return err
	}
	var a httpapi.Acquired
	if json.Unmarshal(answer, &a) != nil || !a.OK && (status != http.StatusTooManyRequests || a.RetryAfter == 0) {
		return failure(status, answer)
	}
	level := ofLimited(limits, bucket.Cost(a.Level))
	if !a.OK {
		fmt.Fprintf(f.stdout, "not spent: retry after %v; left: %s\n", a.RetryAfter.Round(time.Millisecond), level)
		return exitRefused
	}
	fmt.Fprintf(f.stdout, "spent after %v; left: %s\n", a.Waited.Round(time.Millisecond), level)
	return nil
}
