package cluster

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
)

const (
	// heldFor is how long a voter that knows no leader keeps a client waiting for
	// one. Otherwise all members would ask all voters again and again while there
	// is no leader, and the cost of the handshakes could keep the voters from
	// electing one.
	heldFor = time.Second

	// The pause after a search that found no leader doubles from searchPauseMin to
	// searchPauseMax.
	searchPauseMin = 50 * time.Millisecond
	searchPauseMax = 400 * time.Millisecond

	nonvotersAsked = 2 // most members that are not known to vote in one search
)

// router finds the leader and keeps the stream to it. It searches only while an
// operation needs a leader.
type router struct {
	ctx        context.Context // ends when the node closes
	tasks      *tasks
	clock      *boottime.Clock
	self       string                       // this node's address
	queue      *atomic.Pointer[leaderQueue] // not nil while this node leads
	candidates func() ([]string, error)     // addresses of members, the most likely leader first
	ask        askFunc

	unavailable func() error // returns why no operation can succeed any more, or nil
	health      func() error // returns what may keep this node from a leader, or nil

	mu        sync.Mutex
	client    *rpcClient // of the leader; nil: none yet
	searching bool
	changed   chan struct{} // closed, and replaced, when there may be a leader
	failure   error         // of the last search
	pause     time.Duration // after the next search, if it fails
}

// leader returns the leader, this node or another, and waits for one until the
// given time of the clock. Then the error is ErrNoQuorum. It does not wait if no
// operation can succeed any more.
func (r *router) leader(ctx context.Context, until int64) (leader, error) {
	for {
		if r.ctx.Err() != nil {
			return nil, bucket.ErrClosed
		}
		if err := r.unavailable(); err != nil {
			return nil, err
		}
		lead, changed, failure := r.current()
		if lead != nil {
			return lead, nil
		}
		left := time.Duration(until - r.clock.Now())
		if left <= 0 {
			if why := cmp.Or(r.health(), failure); why != nil {
				return nil, fmt.Errorf("%w: %w", bucket.ErrNoQuorum, why)
			}
			return nil, bucket.ErrNoQuorum
		}
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, context.Cause(ctx)
		case <-r.ctx.Done():
		}
		timer.Stop()
	}
}

// current returns the leader if it is known. Otherwise it sees to it that a search
// is running, and returns a channel that is closed when there may be a leader, and
// the error of the last search.
func (r *router) current() (lead leader, changed <-chan struct{}, failure error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if q := r.queue.Load(); q != nil { // if it is stored after this, reroute closes changed
		return q, nil, nil
	}
	if r.client != nil && r.client.alive() {
		return r.client, nil, nil
	}
	if !r.searching {
		r.searching = true
		r.tasks.spawn(r.search)
	}
	return nil, r.changed, r.failure
}

// reroute wakes the operations that wait for a leader.
func (r *router) reroute() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.changed)
	r.changed = make(chan struct{})
}

// mayHaveChanged returns a channel that is closed when there may be a leader.
func (r *router) mayHaveChanged() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// search makes one search and keeps the stream to the leader.
func (r *router) search() {
	r.mu.Lock()
	pause, changed, before := r.pause, r.changed, r.client
	r.mu.Unlock()
	found, err := r.find(r.successor(before))
	next := searchPauseMin
	if err != nil {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			next = min(2*pause, searchPauseMax)
		case <-changed: // this node leads, or its Raft knows the leader
		case <-r.ctx.Done():
		}
		timer.Stop()
	}
	var c *rpcClient
	if found != nil {
		c = newRPCClient(found.conn, found.addr)
	}
	r.mu.Lock()
	r.client, r.failure, r.searching, r.pause = c, err, false, next
	r.mu.Unlock()
	if c != nil {
		r.tasks.spawn(func() {
			defer context.AfterFunc(r.ctx, func() { c.end(bucket.ErrClosed) })()
			c.run(found.r)
		})
	}
	r.reroute()
}

// find searches for the leader, first at the given address unless that is empty.
func (r *router) find(first string) (*peer, error) {
	if err := r.unavailable(); err != nil {
		return nil, err
	}
	candidates, err := r.candidates()
	if err != nil {
		return nil, err
	}
	return newSearch(r.self, first, candidates).run(r.ctx, r.tasks.spawn, r.ask)
}

// successor returns the address to which a former leader sends its clients; empty:
// it names none. So after a transfer of leadership no client has to search.
func (r *router) successor(c *rpcClient) string {
	if c == nil {
		return ""
	}
	timer := time.NewTimer(askNextHeld)
	defer timer.Stop()
	select {
	case addr := <-c.next:
		return addr
	case <-timer.C:
	case <-r.ctx.Done():
	}
	return ""
}

// likelyLeaders returns addresses of members, the most likely leader first. Only
// voters can know the leader; if gossip knows no voter, a few other members are
// listed instead.
func likelyLeaders(r *consensus, g *gossip) []string {
	var leaders, voters, others []string
	if _, id := r.LeaderWithID(); id != "" {
		if m, ok := g.member(string(id)); ok {
			leaders = append(leaders, m.Addr)
		}
	}
	for _, m := range g.members() {
		switch {
		case m.Leader:
			leaders = append(leaders, m.Addr)
		case m.Voter:
			voters = append(voters, m.Addr)
		default:
			others = append(others, m.Addr)
		}
	}
	// Not all members begin with the same one when all of them search at once.
	shuffle(voters)
	if len(voters) == 0 {
		shuffle(others)
		voters = others[:min(len(others), nonvotersAsked)]
	}
	return append(leaders, voters...)
}

func shuffle(addrs []string) {
	rand.Shuffle(len(addrs), func(i, j int) { addrs[i], addrs[j] = addrs[j], addrs[i] })
}
