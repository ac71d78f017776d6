package choked

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
)

// Choke hands out the limiters of one worker over one store. All of them share
// what the worker has leased, so a worker needs one Choke for each store. Safe
// for concurrent use.
type Choke struct {
	store  Store
	clock  *boottime.Clock
	holder uint64
	seq    atomic.Uint64

	ctx    context.Context // of exchanges with the store; ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // exchanges under way

	mu     sync.Mutex
	pools  map[string]weak.Pointer[pool] // in use: by a limiter, or by leases in hand
	closed bool
}

// New returns a Choke over store, which it does not close. It starts no
// goroutines until a limiter is used.
func New(store Store) *Choke {
	c := &Choke{store: store, clock: boottime.New(), holder: rand.Uint64(), pools: make(map[string]weak.Pointer[pool])}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Config is a [Limiter] in full. Key and Limits are required.
type Config struct {
	// Key names what is limited: all limiters with this key, on all workers of
	// the store, share its quota. 1 to 512 bytes, of any value.
	Key string

	// Limits of the key. Workers may disagree for a while, as in a rolling
	// update: the store goes by the definition that was made last. What a worker's
	// own does not limit, requests or tokens, it does not count.
	Limits Limits

	// Estimator says how many tokens an input will use. Nil: inputs cost one
	// request and no tokens.
	Estimator Estimator

	// FailOpen admits calls without limit while the store cannot decide. The
	// promise does not hold then. By default such calls get the store's error,
	// for instance [ErrNoQuorum].
	FailOpen bool
}

// Estimator says how many tokens an input will use, before it is sent. Safe for
// concurrent use. The package estimator has several.
type Estimator interface {
	// Estimate returns at least 0; the error says why input has no estimate.
	Estimate(input any) (int64, error)
}

// Limiter returns a limiter for key. See [Config] for what can be set besides.
func (c *Choke) Limiter(key string, limits Limits, e Estimator) (*Limiter, error) {
	return c.Open(Config{Key: key, Limits: limits, Estimator: e})
}

// Open returns a limiter. Those of one key share their quota and their line;
// they may differ in estimator and failure policy, not in limits while any of
// them is in use. A key without limiters is forgotten once its leases are back.
func (c *Choke) Open(cfg Config) (*Limiter, error) {
	if c.store == nil {
		return nil, fmt.Errorf("choked: limiter %.64q: no store: want one such as choked.NewLocal() in choked.New", cfg.Key)
	}
	if err := cmp.Or(bucket.CheckKey(cfg.Key), cfg.Limits.Check()); err != nil {
		return nil, fmt.Errorf("choked: limiter %.64q: %w", cfg.Key, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	p := c.pools[cfg.Key].Value()
	switch {
	case p == nil:
		p = newPool(c, cfg.Key, cfg.Limits)
		c.pools[cfg.Key] = weak.Make(p)
		runtime.AddCleanup(p, c.forget, cfg.Key)
	case !p.limits.Equal(cfg.Limits):
		return nil, fmt.Errorf("choked: limiter %.64q: limits %q, but this worker has it with %q", cfg.Key, cfg.Limits, p.limits)
	}
	return &Limiter{pool: p, estimator: cfg.Estimator, failOpen: cfg.FailOpen}, nil
}

// forget makes room when no limiter of a key is left and nothing is leased for
// it: a service may see any number of keys in its time.
func (c *Choke) forget(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.pools[key]; ok && p.Value() == nil { // and nobody has opened it again
		delete(c.pools, key)
	}
}

// closeWithin is how long Close waits for the store.
const closeWithin = 2 * time.Second

// Close turns away all who wait, with [ErrClosed], and returns to the store
// what is leased and not spent. If the store does not answer in time, Close
// returns its error, and the store takes the leases for lost when they expire.
// Close may be called twice.
func (c *Choke) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	var pools []*pool
	for _, ref := range c.pools {
		if p := ref.Value(); p != nil {
			pools = append(pools, p)
		}
	}
	c.mu.Unlock()

	patience := time.AfterFunc(closeWithin, c.cancel)
	defer patience.Stop()
	defer c.cancel()
	for _, p := range pools {
		p.close()
	}
	c.work.Wait()
	var done []Settlement
	var errs []error
	for _, p := range pools {
		last, a := p.rest()
		done = append(done, last...)
		if a == nil {
			continue
		}
		if err := c.store.Adjust(c.ctx, *a); err != nil {
			errs = append(errs, fmt.Errorf("choked: adjust %.64q: %w", a.Key, err))
		}
	}
	if len(done) > 0 {
		if err := c.store.Settle(c.ctx, done); err != nil {
			errs = append(errs, fmt.Errorf("choked: return %d leases: %w", len(done), err))
		}
	}
	return errors.Join(errs...)
}

func (c *Choke) leaseID() bucket.LeaseID {
	return bucket.LeaseID{Holder: c.holder, Seq: c.seq.Add(1)}
}

// ParseLimits reads the limits of a key: rates on requests and rates on tokens,
// as in "50/s" and "500/m,10000/d"; either may be empty, not both.
func ParseLimits(requests, tokens string) (Limits, error) {
	return bucket.ParseLimits(requests, tokens)
}

// MustLimits is [ParseLimits] for limits that stand in the program. It panics
// on an error.
func MustLimits(requests, tokens string) Limits {
	l, err := ParseLimits(requests, tokens)
	if err != nil {
		panic("choked: " + err.Error())
	}
	return l
}
