package choked

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/pool"
)

// Choke makes the limiters of one worker over one store. They share the worker's
// leases, so a worker needs one Choke for each store. Safe for
// concurrent use. The zero Choke makes no limiters.
type Choke struct {
	worker *pool.Worker // nil: there is no store

	mu       sync.Mutex
	pools    map[string]*sharedPool // by key
	closed   chan struct{}          // nil: open; closed when Close has ended
	closeErr error                  // what Close returned, once closed is
}

// sharedPool is a pool and the number of limiters that use it.
type sharedPool struct {
	*pool.Pool
	limiters int
}

// New returns a Choke over store. It does not own the store: close the Choke
// first, then the store. New starts no goroutines.
func New(store Store) *Choke {
	c := &Choke{pools: make(map[string]*sharedPool)}
	if v := reflect.ValueOf(store); store != nil && (v.Kind() != reflect.Pointer || !v.IsNil()) { // a constructor that failed returns a nil pointer
		c.worker = pool.NewWorker(store)
	}
	return c
}

// LimiterConfig describes a [Limiter]. Key and Limits are required.
type LimiterConfig struct {
	// Key names the limited resource: all limiters with this key, on all workers of
	// the store, share its quota. 1 to 512 bytes of any value.
	Key string

	// Limits of the key. Workers may disagree for a while, as in a rolling update:
	// the definition made last is in force. A unit that this worker's Limits omit is
	// not counted here, even if other workers limit it.
	Limits Limits

	// Estimator returns the cost of a call before it is made. Nil: a call costs one
	// request and no tokens.
	Estimator Estimator

	// FailOpen admits calls without quota while the store cannot decide. The
	// promise does not hold then. That the store cannot decide is known when an
	// exchange with it has failed with [ErrUnavailable], after the Timeout of the store;
	// calls with shorter deadlines fail until then. By default such calls get the
	// store's error.
	FailOpen bool

	// MaxOveruse bounds what one settlement charges beyond its reservation, in
	// bursts of the unit, so that a usage reported in error cannot stop the key for
	// long. 0: 10 bursts.
	MaxOveruse int64

	// OnError, if not nil, is called with errors that no caller gets: a usage that
	// [Wrap] could not settle. It is called on the goroutine of the call.
	OnError func(error)
}

// Estimator returns the cost of a call before it is made. Safe for concurrent use.
// Package estimator has several.
//
// An Estimator that has a method Observe(estimated, actual Cost) learns: it gets the
// cost as it was reserved and the usage with which it was settled.
type Estimator interface {
	// Estimate returns the cost of a call with this input, or an error that says why
	// it has no estimate. Input are the tokens of the prompt, Output those that the
	// reply may take, and Tokens what a provider counts that does not divide them.
	// Requests of zero stand for one.
	Estimate(input any) (Cost, error)
}

// Limiter is [Choke.Open] with a key, limits and an estimator, which may be nil.
func (c *Choke) Limiter(key string, limits Limits, e Estimator) (*Limiter, error) {
	return c.Open(LimiterConfig{Key: key, Limits: limits, Estimator: e})
}

// Open returns a limiter, which its user or Close of the Choke closes. Limiters of one key share its
// quota and its queue; they may differ in all of LimiterConfig but Limits. The limits
// of a key can be changed once its limiters are closed.
func (c *Choke) Open(cfg LimiterConfig) (*Limiter, error) {
	if c == nil || c.worker == nil {
		return nil, keyError(cfg.Key, errors.New("no store: want one such as choked.NewLocal() in choked.New"))
	}
	if err := cmp.Or(bucket.CheckKey(cfg.Key), cfg.Limits.Check()); err != nil {
		return nil, keyError(cfg.Key, err)
	}
	if cfg.MaxOveruse < 0 {
		return nil, keyError(cfg.Key, fmt.Errorf("MaxOveruse of %d bursts: want 0 or more", cfg.MaxOveruse))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed != nil {
		return nil, keyError(cfg.Key, ErrClosed)
	}
	p := c.pools[cfg.Key]
	switch {
	case p == nil:
		p = &sharedPool{Pool: pool.New(c.worker, cfg.Key, cfg.Limits)}
		c.pools[cfg.Key] = p
	case !p.Limits().Equal(cfg.Limits):
		return nil, keyError(cfg.Key, fmt.Errorf("limits %q: open limiters of this worker have %q", cfg.Limits, p.Limits()))
	}
	p.limiters++
	l := &Limiter{pool: p.Pool, estimator: cfg.Estimator, failOpen: cfg.FailOpen,
		maxOveruse: cmp.Or(cfg.MaxOveruse, defaultMaxOveruse), onError: cfg.OnError}
	l.handle = handle{choke: c, pool: p}
	l.cleanup = runtime.AddCleanup(l, handle.abandon, l.handle)
	return l, nil
}

// defaultMaxOveruse is how many bursts one settlement may charge beyond its
// reservation. A reply uses more than was reserved by a factor of a few; ten whole
// bursts are ten minutes of "100000/m".
const defaultMaxOveruse = 10

// handle is a limiter's use of its pool. It is released once: by Close, or by the
// garbage collector when the limiter has become unreachable.
type handle struct {
	choke *Choke
	pool  *sharedPool
}

// release takes the limiter from its pool and reports whether it was the last one,
// whose pool the caller drains.
func (h handle) release() (last bool) {
	h.choke.mu.Lock()
	defer h.choke.mu.Unlock()
	if h.pool.limiters--; h.pool.limiters > 0 {
		return false
	}
	delete(h.choke.pools, h.pool.Key())
	return true
}

// abandon releases an unreachable limiter. It runs on a goroutine of the runtime, so
// it starts no exchange: the pool returns its leases when its timer fires.
func (h handle) abandon() {
	if h.release() {
		h.pool.Abandon()
	}
}

// closeWithin is how long Close waits for the store.
const closeWithin = 2 * time.Second

// Close refuses all calls that wait, with [ErrClosed], and returns to the store
// the quota that is leased and not spent. If the store does not answer within 2 s,
// Close returns its error, and the leases count as spent when they expire. A second
// Close waits for the first and returns its error.
func (c *Choke) Close() error {
	if c == nil || c.worker == nil {
		return nil
	}
	c.mu.Lock()
	if c.closed != nil {
		c.mu.Unlock()
		<-c.closed
		return c.closeErr
	}
	c.closed = make(chan struct{})
	pools := c.worker.Draining()
	for _, p := range c.pools {
		pools = append(pools, p.Pool)
	}
	c.mu.Unlock()
	for _, p := range pools {
		p.Close()
	}
	c.closeErr = c.worker.Close(closeWithin, pools)
	close(c.closed)
	return c.closeErr
}

// ParseLimits reads the limits of a key: the rates of one or more units, as in
// "requests 500/m,10000/d; input 40000/m; output 8000/m; spend $50/d".
func ParseLimits(s string) (Limits, error) {
	l, err := bucket.ParseLimits(s)
	if err != nil {
		return Limits{}, fmt.Errorf("choked: %w", err)
	}
	return l, nil
}

// MustLimits is [ParseLimits] for limits that stand in the program. It panics on
// an error.
func MustLimits(s string) Limits {
	l, err := ParseLimits(s)
	if err != nil {
		panic(err.Error())
	}
	return l
}

// keyError is err with the library's prefix and the key. It is the only place that
// adds either.
func keyError(key string, err error) error { return fmt.Errorf("choked: key %.64q: %w", key, err) }
