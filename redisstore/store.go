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
// It needs Redis 5 or later, or Valkey, alone, with Sentinels, or as a cluster,
// and a maxmemory-policy of noeviction, which is the default, or enough memory:
// what a server evicts are debts, and it does so without a word. A bucket takes
// up to 10 KB and some hundred bytes for each worker, and expires a minute after
// it is full again.
//
// Of those who wait for a key 128 stand in line. Who comes later is told when its
// turn will be, and a few may overtake it until then, or more where many of those
// before it were killed.
//
// Time is counted in microseconds: limits whose windows are no whole number of
// them are refused.
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
	"net/url"
	"slices"
	"strconv"
	"strings"
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

func (c Config) patience() time.Duration {
	if c.Patience <= 0 {
		return 2 * time.Second
	}
	return c.Patience
}

// Store is a store of choked in Redis. Safe for concurrent use.
type Store struct {
	cfg     Config
	clock   *boottime.Clock
	flights flights
	lines   lines
	client  string // this store's name in adjustments

	adjusting exclusive
	seq       atomic.Int64 // of the last adjustment

	ctx     context.Context // of those who call
	callers sync.WaitGroup
	leaving sync.WaitGroup // asks that were given up, until they are taken back
	close   func() error

	mu     sync.Mutex
	closed bool // callers are turned away
}

// closing is how long Close goes on taking asks back. What is left then is
// passed over, and expires.
const closing = time.Second

// New returns a store in the Redis that client is connected to: a single
// server, a failover client, or a cluster. Close leaves the client open.
func New(client redis.UniversalClient, cfg Config) *Store {
	return newStore(client, cfg, func() error { return nil })
}

func newStore(client redis.UniversalClient, cfg Config, release func() error) *Store {
	if cfg.Prefix == "" {
		cfg.Prefix = "choked:"
	}
	cfg.Patience = cfg.patience()
	s := &Store{cfg: cfg, clock: boottime.New(), client: strconv.FormatUint(rand.Uint64(), 36)}
	var cancel, giveUp context.CancelCauseFunc
	s.ctx, cancel = context.WithCancelCause(context.Background())
	s.flights.client, s.flights.servers = client, make(map[string]*departures)
	s.flights.ctx, giveUp = context.WithCancelCause(context.Background())
	s.close = sync.OnceValue(func() error {
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
		cancel(bucket.ErrClosed)
		s.callers.Wait()
		late := time.AfterFunc(closing, func() { giveUp(bucket.ErrClosed) })
		s.leaving.Wait()
		late.Stop()
		giveUp(bucket.ErrClosed)
		err := release()
		s.flights.work.Wait()
		return err
	})
	return s
}

// Open returns a store in the Redis at url, such as
// "redis://user:password@host:6379/0", "rediss://host:6380" for TLS, or
// "unix:///run/redis.sock". It connects when it is first used. Options of the
// client library may follow, as in "?pool_size=20"; see redis.ParseURL. Without
// them its timeouts are cfg.Patience, and it leaves it to the store to try
// again. Its notices go where redis.SetLogger says.
func Open(url string, cfg Config) (*Store, error) {
	opt, err := redis.ParseURL(url)
	if err != nil {
		return nil, urlError(url)
	}
	opt.MaxRetries = cmp.Or(opt.MaxRetries, -1)
	for _, timeout := range []*time.Duration{&opt.DialTimeout, &opt.ReadTimeout, &opt.WriteTimeout} {
		*timeout = cmp.Or(*timeout, cfg.patience())
	}
	client := redis.NewClient(opt)
	return newStore(client, cfg, client.Close), nil
}

// urlError says what is wrong with a URL without repeating it, as it may hold a
// password. An option is named if it is surely one.
func urlError(s string) error {
	u, err := url.Parse(s)
	if err == nil && !strings.ContainsAny(u.RawQuery, "@:/") {
		for name, values := range u.Query() {
			option := url.Values{name: values}
			if _, err := redis.ParseURL("rediss://host?" + option.Encode()); err != nil {
				return fmt.Errorf("redis: option %.40q of the URL: want one that redis.ParseURL knows, and a value of its type", name)
			}
		}
	}
	return errors.New(`redis: want a URL such as "redis://user:password@host:6379/0"`)
}

// enter lets a caller in. Its context then ends with the store, too.
func (s *Store) enter(ctx context.Context) (in context.Context, leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, bucket.ErrClosed
	}
	if s.flights.client == nil {
		return nil, nil, errors.New("redis: the client given to New is nil")
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
	if err := errors.Join(ask.Check(), checkWindows(ask.Limits)); err != nil {
		return bucket.Lease{}, err
	}
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return bucket.Lease{}, err
	}
	defer leave()
	if err := s.settleElsewhere(ctx, &ask); err != nil {
		return bucket.Lease{}, err
	}
	began := s.clock.Now()
	deadline := began + int64(min(max(ask.MaxWait, 0), math.MaxInt64/4))
	left := func() time.Duration { return time.Duration(max(deadline-s.clock.Now(), 0)) }
	var w *waiter
	defer func() {
		if w != nil {
			s.lines.leave(ask.Key, w)
		}
	}()
	turn := int64(0)
	for done := ask.Done; ; done = nil {
		c, err := s.call(ctx, ask.Key, askWords(&ask, done, left(), turn, tick))
		if err != nil {
			if c != nil || w != nil {
				s.takeBack(&ask, turn, c)
			}
			return bucket.Lease{}, err
		}
		if len(done) > 0 {
			s.lines.freed(ask.Key)
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
		if turn = r.turn; w == nil {
			w = s.lines.enter(ask.Key)
		}
		await(ctx, w, min(r.wait, left()))
	}
}

// lookAgain is when one who was told to wait for longer looks whether others
// have settled meanwhile: after this time, or half the wait if that is longer.
const lookAgain = time.Second

// await waits for d, or until something has happened that may change it.
func await(ctx context.Context, w *waiter, d time.Duration) {
	timer := time.NewTimer(min(d, max(d/2, lookAgain)))
	defer timer.Stop()
	select {
	case <-w.woken:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// takeBack gives up an ask: its place in line, and what it may be granted by
// the last call, which may still be under way.
func (s *Store) takeBack(ask *bucket.Ask, turn int64, last *call) {
	ctx, key, words := s.flights.ctx, ask.Key, leaveWords(ask, turn)
	s.leaving.Go(func() {
		if last != nil {
			select {
			case <-last.done:
			case <-ctx.Done():
				return
			}
		}
		// After that the lease has expired. A place is passed over when its time
		// has come.
		for begun := s.clock.Now(); s.clock.Since(begun) < bucket.TTL; {
			_, err := s.call(ctx, key, words)
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
	return s.settle(ctx, others)
}

// Settle implements choked.Store.
func (s *Store) Settle(ctx context.Context, done []bucket.Settlement) error {
	for i := range done {
		if err := done[i].Check(); err != nil {
			return err
		}
	}
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
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
			c, err := s.call(ctx, key, words{"settle"}.settlements(done))
			if err == nil && c.answer == "freed" {
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
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	// One that comes twice, because a connection broke, is told by its number,
	// so they go one at a time.
	next, err := s.adjusting.enter(ctx, a.Key)
	if err != nil {
		return err
	}
	defer next()
	_, err = s.call(ctx, a.Key, adjustWords(s.client, s.seq.Add(1), s.cfg.Patience, &a, tick))
	if err == nil {
		s.lines.freed(a.Key)
	}
	return err
}

// Close implements choked.Store. Asks in line end with an error, and are taken
// back as long as Redis answers within a second. What is on its way then ends
// with the connection, or with the timeouts of a client that was given to [New].
func (s *Store) Close() error { return s.close() }

// call runs the script until there is an answer, or an error that trying again
// does not change, or ctx or patience ends. It returns the last attempt that was
// sent, if there was one; in case of an error it may still be under way.
func (s *Store) call(ctx context.Context, key string, args words) (*call, error) {
	patience := time.NewTimer(s.cfg.Patience)
	defer patience.Stop()
	var c *call
	var last error // of c
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		if ctx.Err() != nil {
			return c, context.Cause(ctx)
		}
		next := &call{key: s.cfg.Prefix + key, args: args, sent: s.clock.Now(), done: make(chan struct{})}
		s.flights.send(next)
		if err := s.upTo(ctx, patience, next.done, last); err != nil {
			if s.flights.drop(next) {
				return c, err
			}
			return next, err
		}
		c = next
		if c.err == nil {
			return c, nil
		}
		last = fmt.Errorf("redis: %w", c.err)
		if !passing(c.err) {
			return c, last
		}
		wait := make(chan struct{})
		timer := time.AfterFunc(pause, func() { close(wait) })
		err := s.upTo(ctx, patience, wait, last)
		timer.Stop()
		if err != nil {
			return c, err
		}
	}
}

// upTo waits for done, at most until ctx or patience ends.
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

func (x *exclusive) enter(ctx context.Context, key string) (leave func(), err error) {
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
	}
}
