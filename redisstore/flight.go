package redisstore

import (
	"context"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Bounds of what is under way at a time. Calls beyond them wait and go together.
const (
	maxFlights = 4
	maxCalls   = 256 // in one flight
)

// call is one run of the script.
type call struct {
	key    string
	args   words
	answer string
	err    error
	done   chan struct{} // closed once answer or err is set
}

// flights sends calls. Those that come while others are under way share a
// pipeline.
type flights struct {
	client redis.UniversalClient

	mu      sync.Mutex
	waiting []*call
	flying  int
}

// send sends c, which is over when c.done is closed.
func (f *flights) send(c *call) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.waiting = append(f.waiting, c)
	if f.flying < maxFlights {
		f.flying++
		go f.fly()
	}
}

func (f *flights) fly() {
	for {
		f.mu.Lock()
		n := min(len(f.waiting), maxCalls)
		calls := f.waiting[:n:n]
		if f.waiting = f.waiting[n:]; n == 0 {
			f.flying--
			f.mu.Unlock()
			return
		}
		f.mu.Unlock()
		f.run(calls)
		for _, c := range calls {
			close(c.done)
		}
	}
}

// run runs the calls by the script's hash, and those for which the server does
// not know it, by its text. It cannot be ended: what is on its way to Redis
// may be carried out whether or not the answer is awaited.
func (f *flights) run(calls []*call) {
	ctx := context.Background()
	cmds := make([]*redis.Cmd, len(calls))
	_, err := f.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for i, c := range calls {
			cmds[i] = script.EvalSha(ctx, p, []string{c.key}, c.args...)
		}
		return nil
	})
	for i, c := range calls {
		if err != nil && cmds[i].Val() == nil && cmds[i].Err() == nil {
			c.err = err // it was not sent
			continue
		}
		if c.answer, c.err = cmds[i].Text(); redis.HasErrorPrefix(c.err, "NOSCRIPT") {
			c.answer, c.err = script.Eval(ctx, f.client, []string{c.key}, c.args...).Text()
		}
	}
}
