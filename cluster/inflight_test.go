package cluster

import (
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

// inflightStep is one call on an inflight, some time after the start.
type inflightStep struct {
	at   time.Duration
	call string // "add", "answered", "granted", "cancel" or "expire"
	n    uint64
	req  string // which request: given to the call, or returned by cancel
}

func TestInflight(t *testing.T) {
	const ms = time.Millisecond
	for _, tt := range []struct {
		name  string
		steps []inflightStep
		held  []string // drained at the end
	}{
		{"a request that waits is held, and abandoned at the end", []inflightStep{
			{call: "add", n: 1, req: "a"},
			{at: time.Hour, call: "expire"},
		}, []string{"a"}},
		{"a refusal or an error is forgotten at once", []inflightStep{
			{call: "add", n: 1, req: "a"},
			{call: "add", n: 2, req: "b"},
			{call: "answered", n: 1, req: "a"},
			{call: "cancel", n: 1, req: ""},
		}, []string{"b"}},
		{"a cancel returns the request once", []inflightStep{
			{call: "add", n: 1, req: "a"},
			{call: "cancel", n: 1, req: "a"},
			{call: "cancel", n: 1, req: ""},
			{call: "answered", n: 1, req: "a"},
		}, nil},
		{"a cancel may come up to lostAfter after the grant", []inflightStep{
			{call: "add", n: 1, req: "a"},
			{call: "granted", n: 1, req: "a"},
			{at: lostAfter, call: "expire"},
			{at: lostAfter, call: "cancel", n: 1, req: "a"},
			{at: 2 * lostAfter, call: "expire"},
		}, nil},
		{"a grant is forgotten after lostAfter, a later one is not", []inflightStep{
			{call: "add", n: 1, req: "a"},
			{call: "add", n: 2, req: "b"},
			{call: "granted", n: 2, req: "b"},
			{at: ms, call: "granted", n: 1, req: "a"},
			{at: lostAfter + ms, call: "expire"},
			{at: lostAfter + ms, call: "cancel", n: 2, req: ""},
		}, []string{"a"}},
		{"a number that is used again names the later request", []inflightStep{
			{call: "add", n: 1, req: "a"},
			{call: "granted", n: 1, req: "a"},
			{call: "add", n: 1, req: "b"},
			{call: "answered", n: 1, req: "a"},
			{at: lostAfter + ms, call: "expire"},
		}, []string{"b"}},
		{"a number that was never used names nothing", []inflightStep{
			{call: "cancel", n: 7, req: ""},
			{call: "answered", n: 7, req: "a"},
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var f inflight
			start := time.Now()
			requests := map[string]*request{"a": new(request), "b": new(request), "": nil}
			for i, step := range tt.steps {
				at, req := start.Add(step.at), requests[step.req]
				switch step.call {
				case "add":
					f.add(step.n, req)
				case "answered":
					f.answered(step.n, req)
				case "granted":
					f.granted(step.n, req, at)
				case "cancel":
					assert.Same(t, req, f.cancel(step.n), "step %d", i)
				case "expire":
					f.expire(at)
				}
			}
			var held []*request
			for _, name := range tt.held {
				held = append(held, requests[name])
			}
			assert.ElementsMatch(t, held, f.drain())
			assert.Empty(t, f.drain(), "drained twice")
		})
	}
}

func TestInflightIsSafeForConcurrentUse(t *testing.T) {
	var f inflight
	var all sync.WaitGroup
	for n := range uint64(8) {
		all.Go(func() {
			for range 1000 {
				req := new(request)
				f.add(n, req)
				switch n % 3 {
				case 0:
					f.answered(n, req)
				case 1:
					f.granted(n, req, time.Now())
				}
				f.cancel(n)
				f.expire(time.Now())
			}
		})
	}
	all.Wait()
	assert.Empty(t, f.drain())
}
