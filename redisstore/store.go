// Package redisstore keeps choked's buckets in Redis. It decides as the other
// stores do, by the rules of package bucket, in one script for each call; the
// clock is the server's.
//
// What Redis keeps, it may lose: a server that is restarted without its data, or
// a replica that takes over without the last writes, has the buckets fuller than
// they are. Then up to a burst is admitted once more. A server whose clock steps
// forward refills the buckets by as much. Everything else holds as with any
// store. Where that is not enough, package cluster keeps quota in a log.
//
// It needs Redis 5 or later, or Valkey, alone, with Sentinels, or as a cluster.
package redisstore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
)

// Config configures a [Store]. The zero value is ready to use.
type Config struct {
	// Prefix begins the names of the store's keys in Redis; the rest is the key
	// as it is, hash tags included. Default: "choked:". Stores with the same
	// prefix share their buckets.
	Prefix string

	// Patience is how long a call goes on trying while Redis cannot be reached,
	// or is not ready, before it returns an error. Default: 2s.
	Patience time.Duration
}

// Store is a store of choked in Redis. Safe for concurrent use.
type Store struct {
	cfg     Config
	clock   *boottime.Clock
	flights flights
	lines   lines
	client  string // this store's name in adjustments
	owned   io.Closer

	adjusting exclusive
	seq       atomic.Int64 // of the last adjustment

	ctx    context.Context
	cancel context.CancelCauseFunc

	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup // what takes asks back that were given up
}

// New returns a store in the Redis that client is connected to: a single
// server, a failover client, or a cluster. Close leaves the client open.
func New(client redis.UniversalClient, cfg Config) *Store {
	if cfg.Prefix == "" {
		cfg.Prefix = "choked:"
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 2 * time.Second
	}
	s := &Store{cfg: cfg, clock: boottime.New(), client: strconv.FormatUint(rand.Uint64(), 36)}
	s.flights.client = client
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// Open returns a store in the Redis at url, such as
// "redis://user:password@host:6379/0", "rediss://host:6380" for TLS, or
// "unix:///run/redis.sock". It connects when it is first used. Notices of the
// client library go where redis.SetLogger says.
func Open(url string, cfg Config) (*Store, error) {
	opt, err := redis.ParseURL(url)
	if err != nil {
		// The error of a URL repeats it, and with it the password.
		return nil, errors.New(`redis: want a URL such as "redis://user:password@host:6379/0"`)
	}
	s := New(nil, cfg)
	opt.MaxRetries = -1 // the store tries again by itself
	opt.DialTimeout, opt.ReadTimeout, opt.WriteTimeout = s.cfg.Patience, s.cfg.Patience, s.cfg.Patience
	client := redis.NewClient(opt)
	s.flights.client, s.owned = client, client
	return s, nil
}

// Lease implements choked.Store.
func (s *Store) Lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error) {
	if err := errors.Join(ask.Check(), checkWindows(ask.Limits)); err != nil {
		return bucket.Lease{}, err
	}
	if err := s.settleElsewhere(ctx, &ask); err != nil {
		return bucket.Lease{}, err
	}
	began := s.clock.Now()
	deadline := began + int64(min(max(ask.MaxWait, 0), math.MaxInt64/4))
	var w *waiter
	defer func() {
		if w != nil {
			s.lines.leave(ask.Key, w)
		}
	}()
	turn := int64(0)
	for done := ask.Done; ; done = nil {
		sent := s.clock.Now()
		left := time.Duration(max(deadline-sent, 0))
		answer, err := s.call(ctx, ask.Key, askWords(&ask, done, left, turn, tick), func(c *call) { s.takeBack(&ask, turn, c) })
		if err != nil {
			return bucket.Lease{}, err
		}
		if len(done) > 0 {
			s.lines.freed(ask.Key)
		}
		r, err := parse(answer, tick)
		switch {
		case err != nil:
			return bucket.Lease{}, fmt.Errorf("redis: %w", err)
		case r.exceed != "":
			return bucket.Lease{}, exceeds(r.exceed, ask.Need)
		case r.wait == 0:
			return r.Grant.Lease(ask.ID, time.Duration(sent-began)), nil
		}
		if turn = r.turn; w == nil {
			w = s.lines.enter(ask.Key)
		}
		if err := s.await(ctx, w, r.wait); err != nil {
			s.takeBack(&ask, turn, nil)
			return bucket.Lease{}, err
		}
	}
}

// lookAgain is when one who was told to wait for longer looks whether others
// have settled meanwhile: after this time, or half the wait if that is longer.
const lookAgain = time.Second

// await waits for d, or until something has happened that may change it.
func (s *Store) await(ctx context.Context, w *waiter, d time.Duration) error {
	timer := time.NewTimer(min(d, max(d/2, lookAgain)))
	defer timer.Stop()
	select {
	case <-w.woken:
		return nil
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

// takeBack gives up an ask: its place in line, and what it may be granted by
// the call that is still under way, if there is one.
func (s *Store) takeBack(ask *bucket.Ask, turn int64, underWay *call) {
	key, leave := ask.Key, leaveWords(ask, turn)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return // the place lapses, and the lease expires
	}
	s.work.Go(func() {
		if underWay != nil {
			select {
			case <-underWay.done:
			case <-s.ctx.Done():
				return
			}
		}
		// After that the place has lapsed, and the lease has expired.
		for begun := s.clock.Now(); s.clock.Since(begun) < bucket.TTL; {
			_, err := s.call(s.ctx, key, leave, nil)
			if err == nil {
				s.lines.freed(key)
			}
			if err == nil || !passing(err) && !errors.Is(err, errNoAnswer) {
				return
			}
		}
	})
}

// settleElsewhere settles what an ask has done on other keys than its own, and
// leaves it the rest.
func (s *Store) settleElsewhere(ctx context.Context, ask *bucket.Ask) error {
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
	return s.Settle(ctx, others)
}

// Settle implements choked.Store.
func (s *Store) Settle(ctx context.Context, done []bucket.Settlement) error {
	keys := make(map[string][]bucket.Settlement)
	for i := range done {
		if err := done[i].Check(); err != nil {
			return err
		}
		keys[done[i].Key] = append(keys[done[i].Key], done[i])
	}
	if err := context.Cause(s.ctx); err != nil {
		return err
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(keys))
	for key, done := range keys {
		wg.Go(func() {
			answer, err := s.call(ctx, key, words{"settle"}.settlements(done), nil)
			if answer == "freed" {
				s.lines.freed(key)
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
	if err := errors.Join(a.Check(), checkWindows(a.Limits)); err != nil {
		return err
	}
	// One that comes twice, because a connection broke, is told by its number,
	// so they go one at a time.
	leave, err := s.adjusting.enter(ctx, s.ctx, a.Key)
	if err != nil {
		return err
	}
	defer leave()
	_, err = s.call(ctx, a.Key, adjustWords(s.client, s.seq.Add(1), &a, tick), nil)
	if err == nil {
		s.lines.freed(a.Key)
	}
	return err
}

// Close implements choked.Store. Asks in line end with an error.
func (s *Store) Close() error {
	s.mu.Lock()
	again := s.closed
	s.closed = true
	s.mu.Unlock()
	s.cancel(bucket.ErrClosed)
	s.work.Wait()
	if s.owned != nil && !again {
		return s.owned.Close()
	}
	return nil
}

// call runs the script until there is an answer, or an error that trying again
// does not change, or patience ends. If it ends with a call under way, that
// call is handed to abandoned.
func (s *Store) call(ctx context.Context, key string, args words, abandoned func(*call)) (string, error) {
	if s.ctx.Err() != nil || ctx.Err() != nil {
		return "", cmp.Or(context.Cause(s.ctx), context.Cause(ctx))
	}
	patience := time.NewTimer(s.cfg.Patience)
	defer patience.Stop()
	var last error
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		c := &call{key: s.cfg.Prefix + key, args: args, done: make(chan struct{})}
		s.flights.send(c)
		if err := s.upTo(ctx, patience, c.done, last); err != nil {
			if abandoned != nil {
				abandoned(c)
			}
			return "", err
		}
		if last = c.err; last == nil {
			return c.answer, nil
		}
		last = fmt.Errorf("redis: %w", last)
		if !passing(c.err) {
			return "", last
		}
		wait := make(chan struct{})
		timer := time.AfterFunc(pause, func() { close(wait) })
		err := s.upTo(ctx, patience, wait, last)
		timer.Stop()
		if err != nil {
			if abandoned != nil {
				abandoned(nil)
			}
			return "", err
		}
	}
}

// upTo waits for done, at most until a context or patience ends.
func (s *Store) upTo(ctx context.Context, patience *time.Timer, done <-chan struct{}, last error) error {
	select {
	case <-done:
		return nil
	default:
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	case <-patience.C:
	}
	if last == nil {
		last = errNoAnswer
	}
	return fmt.Errorf("%w, for %v", last, s.cfg.Patience)
}

var errNoAnswer = errors.New("redis: no answer")

// passing reports whether an error may be gone if one tries again: Redis cannot
// be reached, is starting, or is changing its roles.
func passing(err error) bool {
	for _, prefix := range [...]string{"LOADING", "READONLY", "CLUSTERDOWN", "TRYAGAIN", "MASTERDOWN", "MOVED", "ASK"} {
		if redis.HasErrorPrefix(err, prefix) {
			return true
		}
	}
	var network net.Error
	return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// checkWindows reports what limits cannot be kept in ticks.
func checkWindows(l bucket.Limits) error {
	for u := range bucket.Tokens + 1 {
		for _, r := range l.Of(u) {
			if r.Per%tick != 0 {
				return fmt.Errorf("rate %v: want a window of whole microseconds", r)
			}
		}
	}
	return nil
}

// exceeds is the error of an ask that needs more than the limits in force let
// through at once.
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

// exclusive lets one at a time in, for each key.
type exclusive struct {
	mu   sync.Mutex
	keys map[string]*door
}

type door struct {
	open chan struct{} // holds one while someone is in
	n    int           // who is in or wants to be
}

func (x *exclusive) enter(ctx, closed context.Context, key string) (leave func(), err error) {
	x.mu.Lock()
	if x.keys == nil {
		x.keys = make(map[string]*door)
	}
	d := x.keys[key]
	if d == nil {
		d = &door{open: make(chan struct{}, 1)}
		x.keys[key] = d
	}
	d.n++
	x.mu.Unlock()
	gone := func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if d.n--; d.n == 0 {
			delete(x.keys, key)
		}
	}
	select {
	case d.open <- struct{}{}:
		return func() { <-d.open; gone() }, nil
	case <-ctx.Done():
		gone()
		return nil, context.Cause(ctx)
	case <-closed.Done():
		gone()
		return nil, context.Cause(closed)
	}
}
