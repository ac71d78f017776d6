package redisstore

import (
	"container/list"
	"context"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Bounds of what is under way at a time to one server. Calls beyond them wait
// and go together.
const (
	maxFlights = 4
	maxCalls   = 256 // in one flight
)

// call is one run of the script.
type call struct {
	key    string
	args   words
	sent   int64 // when, of the store's clock
	answer string
	err    error
	done   chan struct{} // closed once answer or err is set

	// Of these, flights.mu is the lock.
	queue   *list.List // where it waits, once its server is known
	place   *list.Element
	flown   bool // it is under way, or over
	dropped bool
}

// flights sends calls. Those that come while others are under way to the same
// server share a pipeline. One server does not wait for another.
type flights struct {
	client redis.UniversalClient
	ctx    context.Context // with which all is given up that has not been sent
	work   sync.WaitGroup

	mu      sync.Mutex
	servers map[string]*departures // by address; those for which there is something to do
}

type departures struct {
	waiting list.List // of *call
	flying  int
}

// next takes those who go together out of the queue.
func (d *departures) next() []*call {
	calls := make([]*call, min(d.waiting.Len(), maxCalls))
	for i := range calls {
		calls[i] = d.waiting.Remove(d.waiting.Front()).(*call)
		calls[i].flown = true
	}
	return calls
}

// send sends c, which is over when c.done is closed, unless it is dropped.
func (f *flights) send(c *call) {
	f.work.Go(func() { // ends when nothing waits for the server
		addr := f.server(c.key)
		f.mu.Lock()
		defer f.mu.Unlock()
		if c.dropped {
			return
		}
		d := f.servers[addr]
		if d == nil {
			d = new(departures)
			f.servers[addr] = d
		}
		c.queue, c.place = &d.waiting, d.waiting.PushBack(c)
		if d.flying == maxFlights {
			return
		}
		d.flying++
		for d.waiting.Len() > 0 {
			calls := d.next()
			f.mu.Unlock()
			f.run(calls)
			for _, c := range calls {
				close(c.done)
			}
			f.mu.Lock()
		}
		if d.flying--; d.flying == 0 {
			delete(f.servers, addr)
		}
	})
}

// drop gives c up and reports whether it will not be sent. While a server does
// not answer nothing piles up that would have to be done first later.
func (f *flights) drop(c *call) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if c.flown {
		return false
	}
	if c.dropped = true; c.queue != nil {
		c.queue.Remove(c.place)
	}
	return true
}

// server is the address of the one of a cluster that keeps key, as far as the
// client knows, which may ask for that when it is first used.
func (f *flights) server(key string) string {
	cluster, ok := f.client.(interface {
		MasterForKey(context.Context, string) (*redis.Client, error)
	})
	if !ok {
		return ""
	}
	master, err := cluster.MasterForKey(f.ctx, key)
	if err != nil {
		return "" // the call will meet the same error
	}
	return master.Options().Addr
}

// run runs the calls by the script's hash, and those for which the server does
// not know it, by its text. What is on its way to Redis may be carried out
// whether or not the answer is awaited.
func (f *flights) run(calls []*call) {
	cmds := make([]*redis.Cmd, len(calls))
	_, err := f.client.Pipelined(f.ctx, func(p redis.Pipeliner) error {
		for i, c := range calls {
			cmds[i] = script.EvalSha(f.ctx, p, []string{c.key}, c.args...)
		}
		return nil
	})
	for i, c := range calls {
		if err != nil && cmds[i].Val() == nil && cmds[i].Err() == nil {
			c.err = err // it was not sent
			continue
		}
		if c.answer, c.err = cmds[i].Text(); redis.HasErrorPrefix(c.err, "NOSCRIPT") {
			c.answer, c.err = script.Eval(f.ctx, f.client, []string{c.key}, c.args...).Text()
		}
	}
}
