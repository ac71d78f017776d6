package cluster

import (
	"sync"
	"time"
)

// inflight holds the requests of one client that can still be cancelled or
// abandoned, by the client's sequence number. The goroutine that reads from the
// client adds and cancels requests, that of the leader's queue marks them as
// answered. inflight is safe for concurrent use; the zero value is empty.
type inflight struct {
	mu       sync.Mutex
	requests map[uint64]*request
	grants   []grant // in the order of their instants
}

// grant is a request that was answered with a lease, at an instant.
type grant struct {
	n   uint64
	req *request
	at  time.Time
}

// add adds a request. The call comes before the request is submitted, which may be
// answered at once.
func (f *inflight) add(n uint64, req *request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.requests == nil {
		f.requests = make(map[uint64]*request)
	}
	f.requests[n] = req
}

// answered forgets a request that was answered without a lease.
func (f *inflight) answered(n uint64, req *request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.forget(n, req)
}

// granted notes that a request was answered with a lease at an instant, which is
// not before that of an earlier call. The request can be cancelled for lostAfter
// from then on: the client may have sent the cancel before the answer arrived.
func (f *inflight) granted(n uint64, req *request, at time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.requests[n] == req { // not cancelled meanwhile
		f.grants = append(f.grants, grant{n, req, at})
	}
}

// cancel forgets request n and returns it, or nil if there is none.
func (f *inflight) cancel(n uint64) *request {
	f.mu.Lock()
	defer f.mu.Unlock()
	req := f.requests[n]
	delete(f.requests, n)
	return req
}

// expire forgets the requests that were granted more than lostAfter before now.
func (f *inflight) expire(now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for len(f.grants) > 0 && now.Sub(f.grants[0].at) > lostAfter {
		f.forget(f.grants[0].n, f.grants[0].req)
		f.grants = f.grants[1:]
	}
}

// drain forgets all requests and returns them, in no order.
func (f *inflight) drain() []*request {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := make([]*request, 0, len(f.requests))
	for _, req := range f.requests {
		all = append(all, req)
	}
	clear(f.requests)
	f.grants = nil
	return all
}

// forget removes req, unless the client has used its number again since. The lock
// is held.
func (f *inflight) forget(n uint64, req *request) {
	if f.requests[n] == req {
		delete(f.requests, n)
	}
}
