// Package redisstore keeps choked's buckets in Redis. Each operation is one run of
// one script, which decides by the rules of package bucket, as the other stores do.
// The clock is the server's.
//
// # Requirements
//
// The store needs Redis 5 or later, or Valkey: a single server, a server with
// Sentinels, or a cluster. It does not work behind twemproxy, which closes a
// connection that sends HELLO.
//
// A bucket takes up to 10 KB, and a few hundred bytes more for each worker. Its key
// expires a minute after the bucket is full again. It has a version, and a key of another
// version is an error: until the first release, all users of a prefix run one version.
//
// With access control lists, the store's user needs
//
//	~choked:* +@read +@write +@scripting +time
//
// or, with no command more than the script uses,
//
//	~choked:* +eval +evalsha +time +hget +hmget +hgetall +hset +hdel +hincrby +pexpireat
//
// with the prefix of [Config] in place of "choked:".
//
// # Failures
//
// While Redis cannot be reached or is not ready, an operation retries for
// [Config.Timeout] and then fails with [bucket.ErrUnavailable] and the cause. Not
// ready is a server that loads its data, runs another script, is a replica, has too
// few replicas (min-replicas-to-write) or belongs to a cluster that is down: the
// errors LOADING, BUSY, READONLY, MASTERDOWN, NOREPLICAS, CLUSTERDOWN and TRYAGAIN.
//
// A server that is full (OOM) refuses the grant of a lease, and one that cannot write
// to its disk (MISCONF) refuses everything, both with ErrUnavailable and at once. A
// refused ask spends no units. A full server can still settle leases. The
// maxmemory-policy must be noeviction, which is the default, or the memory must
// suffice: every other policy silently deletes buckets, and a deleted bucket is full
// again.
//
// Redis may lose data: a server that restarts without its data, or a replica that
// takes over without the last writes, has fuller buckets than before. Then up to one
// burst more is admitted for each key. A server whose clock steps forward refills the
// buckets by as much. Everything else holds as with any store. Where that does not
// suffice, package cluster keeps quota in a replicated log.
//
// Up to 128 waiters of a key are queued in Redis. A later one is told when to
// retry. Until then a few others may overtake it, and more if many of the waiters
// before it were killed.
//
// Time is counted in microseconds, so that the window of a rate must be a whole
// number of them.
//
// # Constructors
//
// As in every package of choked, New takes a dependency that is ready and stays the
// caller's, and Open opens connections that the store then owns and closes.
package redisstore

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
)

// Store is a store of choked in Redis. It is safe for concurrent use.
type Store struct {
	cfg       Config
	clock     *boottime.Clock
	pipelines pipelines
	queues    localQueues
	client    string // this store's random name in adjustments

	adjusting keyLocks
	seq       atomic.Int64 // number of the last adjustment

	ctx       context.Context // ends when the store closes
	callers   sync.WaitGroup
	returning sync.WaitGroup // asks that were given up, until they are withdrawn in Redis
	close     func() error

	mu     sync.Mutex
	closed bool // no operation begins any more
}

// returnsOnClose is how long Close goes on withdrawing asks. The rest expires in
// Redis.
const returnsOnClose = time.Second

// newStore returns a store whose Close ends with release, which is given a function
// that waits for the calls under way.
func newStore(client redis.UniversalClient, cfg Config, release func(wait func()) error) *Store {
	s := &Store{cfg: cfg.withDefaults(), clock: boottime.New(), client: strconv.FormatUint(rand.Uint64(), 36)}
	var cancel, giveUp context.CancelCauseFunc
	s.ctx, cancel = context.WithCancelCause(context.Background())
	s.pipelines.client, s.pipelines.servers = client, make(map[string]*serverQueue)
	s.pipelines.ctx, giveUp = context.WithCancelCause(context.Background())
	s.close = sync.OnceValue(func() error {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		cancel(bucket.ErrClosed)
		s.callers.Wait()
		timer := time.AfterFunc(returnsOnClose, func() { giveUp(bucket.ErrClosed) })
		s.returning.Wait()
		timer.Stop()
		giveUp(bucket.ErrClosed)
		return release(s.pipelines.work.Wait)
	})
	return s
}

// begin begins an operation. Its context ends with the store, too.
func (s *Store) begin(ctx context.Context) (in context.Context, end func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, bucket.ErrClosed
	}
	if s.pipelines.client == nil {
		return nil, nil, errors.New("redisstore: the client given to New is nil")
	}
	s.callers.Add(1)
	in, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(context.Cause(s.ctx)) })
	return in, func() {
		stop()
		cancel(nil)
		s.callers.Done()
	}, nil
}

// Lease implements choked.Store.
func (s *Store) Lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error) {
	if err := errors.Join(ask.Check(), checkRates(&ask.Limits)); err != nil {
		return bucket.Lease{}, err
	}
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return bucket.Lease{}, err
	}
	defer end()
	if err := s.settleOtherKeys(ctx, &ask); err != nil {
		return bucket.Lease{}, err
	}
	began := s.clock.Now()
	deadline := began + int64(min(max(ask.MaxWait, 0), math.MaxInt64/4))
	left := func() time.Duration { return time.Duration(max(deadline-s.clock.Now(), 0)) }
	var w *waiter
	defer func() {
		if w != nil {
			s.queues.remove(ask.Key, w)
		}
	}()
	slot := int64(0)
	for done := ask.Done; ; done = nil {
		c, err := s.call(ctx, ask.Key, askWords(&ask, done, left(), slot, tick))
		if err != nil {
			if c != nil || w != nil {
				s.withdraw(&ask, slot, c)
			}
			return bucket.Lease{}, err
		}
		if len(done) > 0 {
			s.queues.wakeFirst(ask.Key)
		}
		r, err := parse(c.answer, tick)
		switch {
		case err != nil:
			return bucket.Lease{}, fmt.Errorf("redis: %w", err)
		case r.exceed != "":
			return bucket.Lease{}, exceeds(r.exceed, ask.Need)
		case r.wait == 0:
			lease := r.Grant.Lease(ask.ID, 0)
			lease.ValidFor += time.Duration(c.sent - began)
			return lease, nil
		}
		if slot = r.slot; w == nil {
			w = s.queues.add(ask.Key)
		}
		awaitRetry(ctx, w, min(r.wait, left()))
	}
}

// probeEvery is how often a waiter with a long wait asks again, in case leases were
// settled by other processes. Of an even longer wait it is half.
const probeEvery = time.Second

// awaitRetry waits for d, or until a probe is due, w is woken or ctx ends.
func awaitRetry(ctx context.Context, w *waiter, d time.Duration) {
	timer := time.NewTimer(min(d, max(d/2, probeEvery)))
	defer timer.Stop()
	select {
	case <-w.woken:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// withdraw removes an ask from the queue in Redis and returns the lease that its
// last call may get. That call may still be under way.
func (s *Store) withdraw(ask *bucket.Ask, slot int64, last *call) {
	ctx, key, words := s.pipelines.ctx, ask.Key, leaveWords(ask, slot)
	s.returning.Go(func() {
		if last != nil {
			select {
			case <-last.done:
			case <-ctx.Done():
				return
			}
		}
		// After the TTL the lease has expired, and a place in the queue lapses when
		// its time has come.
		for begun := s.clock.Now(); s.clock.Since(begun) < bucket.TTL; {
			_, err := s.call(ctx, key, words)
			if err == nil {
				s.queues.wakeFirst(key)
			}
			if !errors.Is(err, errNoAnswer) {
				return
			}
		}
	})
}

// settleOtherKeys settles the settlements of an ask that belong to other keys than
// its own, which its script cannot reach, and leaves the rest in ask.Done.
func (s *Store) settleOtherKeys(ctx context.Context, ask *bucket.Ask) error {
	other := func(d bucket.Settlement) bool { return d.Key != ask.Key }
	if !slices.ContainsFunc(ask.Done, other) {
		return nil
	}
	var own, others []bucket.Settlement
	for _, d := range ask.Done {
		if other(d) {
			others = append(others, d)
		} else {
			own = append(own, d)
		}
	}
	ask.Done = own
	return s.settle(ctx, others)
}

// Settle implements choked.Store.
func (s *Store) Settle(ctx context.Context, done []bucket.Settlement) error {
	for i := range done {
		if err := done[i].Check(); err != nil {
			return err
		}
	}
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	return s.settle(ctx, done)
}

func (s *Store) settle(ctx context.Context, done []bucket.Settlement) error {
	keys := make(map[string][]bucket.Settlement)
	for i := range done {
		keys[done[i].Key] = append(keys[done[i].Key], done[i])
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(keys))
	for key, done := range keys {
		wg.Go(func() {
			c, err := s.call(ctx, key, settleWords(done))
			if err == nil && c.answer == "freed" {
				s.queues.wakeFirst(key)
			}
			errs <- err
		})
	}
	wg.Wait()
	close(errs)
	var err error
	for e := range errs {
		err = errors.Join(err, e)
	}
	return err
}

// Adjust implements choked.Store.
func (s *Store) Adjust(ctx context.Context, a bucket.Adjustment) error {
	if err := errors.Join(a.Check(), checkRates(&a.Limits)); err != nil {
		return err
	}
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	// The script recognizes an adjustment that arrives twice, after a broken
	// connection, by its number. So a key has one adjustment under way at a time.
	unlock, err := s.adjusting.lock(ctx, a.Key)
	if err != nil {
		return err
	}
	defer unlock()
	_, err = s.call(ctx, a.Key, adjustWords(s.client, s.seq.Add(1), s.cfg.Timeout, &a, tick))
	if err == nil {
		s.queues.wakeFirst(a.Key)
	}
	return err
}

// Close implements choked.Store. Waiting asks fail with ErrClosed and are withdrawn
// if Redis answers within a second. Calls under way then end with the connection
// or, with a client that was given to [New], at its timeouts.
func (s *Store) Close() error { return s.close() }

// checkRates returns an error that names a rate which the script cannot keep: one that is
// no token bucket, or whose time is not a whole number of ticks.
func checkRates(l *bucket.Limits) error {
	if err := l.CheckTokenBuckets(); err != nil {
		return fmt.Errorf("%w: Redis keeps token buckets only", err)
	}
	for u := range bucket.NumUnits {
		for _, r := range l.Of(u) {
			if r.Per%tick != 0 {
				return fmt.Errorf("rate %v: want a window of whole microseconds", r)
			}
		}
	}
	return nil
}

// exceeds returns the error of an ask that needs more than the burst of the limits
// in force.
func exceeds(inForce string, need bucket.Cost) error {
	var l bucket.Limits
	if err := l.UnmarshalText([]byte(inForce)); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	if err := l.Fits(need); err != nil {
		return err
	}
	return fmt.Errorf("redis: %w: %v under %q", bucket.ErrCostExceedsBurst, need, inForce)
}

// keyLocks is a mutex for each key whose Lock can be canceled.
type keyLocks struct {
	mu   sync.Mutex
	keys map[string]*keyLock
}

type keyLock struct {
	held chan struct{} // capacity 1; full while the lock is held
	n    int           // holder and waiters
}

func (x *keyLocks) lock(ctx context.Context, key string) (unlock func(), err error) {
	x.mu.Lock()
	if x.keys == nil {
		x.keys = make(map[string]*keyLock)
	}
	l := x.keys[key]
	if l == nil {
		l = &keyLock{held: make(chan struct{}, 1)}
		x.keys[key] = l
	}
	l.n++
	x.mu.Unlock()
	forget := func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if l.n--; l.n == 0 {
			delete(x.keys, key)
		}
	}
	select {
	case l.held <- struct{}{}:
		return func() { <-l.held; forget() }, nil
	case <-ctx.Done():
		forget()
		return nil, context.Cause(ctx)
	}
}
