package redisstore

import (
	"container/list"
	"context"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Bounds for one server. Calls beyond maxPipelines wait in the server's queue and
// then share a pipeline.
const (
	maxPipelines = 4   // under way at a time
	maxCalls     = 256 // in one pipeline
)

// call is one run of the script.
type call struct {
	key    string
	args   words
	sent   int64 // reading of the store's clock
	answer string
	err    error
	done   chan struct{} // closed once answer or err is set

	// The mutex of pipelines guards the following fields.
	server  *serverQueue  // nil until the server is known
	entry   *list.Element // in server.waiting
	taken   bool          // a pipeline has taken the call
	dropped bool
}

// pipelines sends calls. Calls that are made while maxPipelines pipelines to their
// server are under way share the next one. Servers do not wait for each other.
type pipelines struct {
	client redis.UniversalClient
	ctx    context.Context // its end fails all calls that have not been sent
	work   sync.WaitGroup

	mu      sync.Mutex
	servers map[string]*serverQueue // by address; servers without calls are removed
}

// serverQueue holds the calls that wait for a pipeline to one server.
type serverQueue struct {
	waiting list.List // of *call
	running int       // pipelines under way
	lastErr error     // of the last pipeline that ended: nil if the server answered
}

// take removes the calls of the next pipeline from the queue.
func (q *serverQueue) take() []*call {
	calls := make([]*call, min(q.waiting.Len(), maxCalls))
	for i := range calls {
		calls[i] = q.waiting.Remove(q.waiting.Front()).(*call)
		calls[i].taken = true
	}
	return calls
}

// send queues c. Unless c is dropped, c.done is closed once there is an answer or
// an error.
func (p *pipelines) send(c *call) {
	p.work.Go(func() { // ends when the server's queue is empty
		addr := p.server(c.key)
		p.mu.Lock()
		defer p.mu.Unlock()
		if c.dropped {
			return
		}
		q := p.servers[addr]
		if q == nil {
			q = new(serverQueue)
			p.servers[addr] = q
		}
		c.server, c.entry = q, q.waiting.PushBack(c)
		if q.running == maxPipelines {
			return
		}
		q.running++
		for q.waiting.Len() > 0 {
			calls := q.take()
			p.mu.Unlock()
			p.run(calls)
			lastErr := calls[0].err
			if !passing(lastErr) {
				lastErr = nil
			}
			for _, c := range calls {
				close(c.done)
			}
			p.mu.Lock()
			q.lastErr = lastErr
		}
		if q.running--; q.running == 0 {
			delete(p.servers, addr)
		}
	})
}

// drop gives up c and reports whether it will not be sent. The error of a dropped
// call is the last one of its server, if any. Since callers that leave take their
// calls along, a server that does not answer accumulates no calls which it would
// have to execute later.
func (p *pipelines) drop(c *call) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c.taken {
		return false
	}
	if c.dropped = true; c.server != nil {
		c.server.waiting.Remove(c.entry)
		c.err = c.server.lastErr
	}
	return true
}

// server returns the address of the cluster's server for key, as far as the client
// knows it. The client may ask the cluster when it is first used.
func (p *pipelines) server(key string) string {
	cluster, ok := p.client.(interface {
		MasterForKey(context.Context, string) (*redis.Client, error)
	})
	if !ok {
		return ""
	}
	master, err := cluster.MasterForKey(p.ctx, key)
	if err != nil {
		return "" // the call will fail with the same error
	}
	return master.Options().Addr
}

// run executes calls by the script's hash, and by its text where the server does
// not have the script. Redis may execute a call even if its answer is lost.
func (p *pipelines) run(calls []*call) {
	cmds := make([]*redis.Cmd, len(calls))
	_, err := p.client.Pipelined(p.ctx, func(pipe redis.Pipeliner) error {
		for i, c := range calls {
			cmds[i] = script.EvalSha(p.ctx, pipe, []string{c.key}, c.args...)
		}
		return nil
	})
	for i, c := range calls {
		if err != nil && cmds[i].Val() == nil && cmds[i].Err() == nil {
			c.err = err // the command was not sent
			continue
		}
		if c.answer, c.err = cmds[i].Text(); redis.HasErrorPrefix(c.err, "NOSCRIPT") {
			c.answer, c.err = script.Eval(p.ctx, p.client, []string{c.key}, c.args...).Text()
		}
	}
}
