package choked

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
)

// spy is a Store that notes what reaches it, and answers by a script where the
// test has one.
type spy struct {
	Store
	onLease  func(context.Context, Ask) (Lease, error)
	onSettle func([]Settlement) error
	onAdjust func(Adjustment) error

	mu       sync.Mutex
	start    time.Time
	asks     []Ask
	settled  []report // by Settle or with an ask
	alone    int      // calls of Settle
	adjusted []Adjustment
	last     error // of the context of the last adjustment
}

type report struct {
	Settlement
	at time.Duration
}

func newSpy() *spy { return &spy{Store: NewLocal(), start: time.Now()} }

func (s *spy) note(done []Settlement) {
	for _, d := range done {
		s.settled = append(s.settled, report{d, time.Since(s.start)})
	}
}

func (s *spy) Lease(ctx context.Context, a Ask) (Lease, error) {
	s.mu.Lock()
	s.asks = append(s.asks, a)
	s.note(a.Done)
	script := s.onLease
	s.mu.Unlock()
	if script != nil {
		return script(ctx, a)
	}
	return s.Store.Lease(ctx, a)
}

func (s *spy) Settle(ctx context.Context, done []Settlement) error {
	s.mu.Lock()
	s.alone++
	s.note(done)
	script := s.onSettle
	s.mu.Unlock()
	if script != nil {
		if err := script(done); err != nil {
			return err
		}
	}
	return s.Store.Settle(ctx, done)
}

func (s *spy) Adjust(ctx context.Context, a Adjustment) error {
	s.mu.Lock()
	s.adjusted, s.last = append(s.adjusted, a), ctx.Err()
	script := s.onAdjust
	s.mu.Unlock()
	if script != nil {
		if err := script(a); err != nil {
			return err
		}
	}
	return s.Store.Adjust(ctx, a)
}

func (s *spy) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onLease, s.onSettle, s.onAdjust = nil, nil, nil
	if err != nil {
		s.onLease = func(context.Context, Ask) (Lease, error) { return Lease{}, err }
		s.onSettle = func([]Settlement) error { return err }
		s.onAdjust = func(Adjustment) error { return err }
	}
}

// wants has so much leased with each ask, whatever it wants.
func (s *spy) wants(want Cost) {
	s.onLease = func(ctx context.Context, a Ask) (Lease, error) {
		a.Want = want
		return s.Store.Lease(ctx, a)
	}
}

func (s *spy) exchanges() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.asks) + s.alone + len(s.adjusted)
}

// The settings of package pool that these tests rely on.
const (
	settleWithin     = 50 * time.Millisecond
	settleSpentAfter = 200 * time.Millisecond
	idleAfter        = 500 * time.Millisecond
	reviewEvery      = 250 * time.Millisecond
)

// scene is one worker with a limiter on key "k" before a spied-on Local, in a
// bubble of virtual time.
type scene struct {
	*testing.T
	spy   *spy
	choke *Choke
	*Limiter
	start time.Time

	closeError error // that Close of the Choke is to return
}

// shortLimits reads limits on requests and on tokens, of which either may be empty.
func shortLimits(requests, tokens string) Limits {
	l, err := bucket.ParseShortLimits(requests, tokens)
	if err != nil {
		panic(err)
	}
	return l
}

func play(t *testing.T, requests, tokens string, f func(*scene)) {
	t.Helper()
	playLimits(t, shortLimits(requests, tokens), f)
}

func playLimits(t *testing.T, limits Limits, f func(*scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &scene{T: t, spy: newSpy(), start: time.Now()}
		s.choke = New(s.spy)
		var err error
		s.Limiter, err = s.choke.Limiter("k", limits, nil)
		require.NoError(t, err)
		f(s)
		s.spy.fail(nil)
		require.ErrorIs(t, s.choke.Close(), s.closeError)
		require.NoError(t, s.spy.Close())
	})
}

// now is the time since the scene began.
func (s *scene) now() time.Duration { return time.Since(s.start) }

// spend has cost admitted, and no time passes.
func (s *scene) spend(c Cost) { s.Helper(); s.reserve(c) }

// reserve is spend for a call that is settled.
func (s *scene) reserve(c Cost) *Reservation {
	s.Helper()
	before := s.now()
	r, err := s.Reserve(s.Context(), c)
	require.NoError(s, err)
	require.Equal(s, before, s.now(), "it had to wait")
	return r
}

// info describes the bucket of key "k" at the store.
func (s *scene) info() (bucket.Info, bool) {
	for _, b := range s.spy.Store.(interface{ Buckets() []bucket.Info }).Buckets() {
		if b.Key == "k" {
			return b, true
		}
	}
	return bucket.Info{}, false
}

// call is a Wait on a goroutine of its own.
type call struct {
	err  error
	at   time.Duration // when it returned
	done chan struct{}
}

// wait begins to wait for cost, and returns when it stands in line.
func (s *scene) wait(ctx context.Context, c Cost) *call {
	w := &call{done: make(chan struct{})}
	go func() {
		defer close(w.done)
		w.err = s.Wait(ctx, c)
		w.at = s.now()
	}()
	synctest.Wait()
	return w
}

func (w *call) returned() bool {
	synctest.Wait()
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// admittedAt holds w to having been admitted at the instant at, or later by what
// two clocks may differ and by twice the time that a settlement may take: a
// lease that is spent and not settled keeps a bucket from filling.
func (s *scene) admittedAt(w *call, at time.Duration) {
	s.Helper()
	<-w.done
	require.NoError(s, w.err)
	require.GreaterOrEqual(s, w.at, at)
	require.LessOrEqual(s, w.at, bucket.Late(at)+2*settleWithin)
}

// worker opens key "k" for another worker on the same store.
func (s *scene) worker() *Limiter {
	c := New(s.spy.Store)
	s.Cleanup(func() { c.Close() })
	l, err := c.Limiter("k", s.Limits(), nil)
	require.NoError(s, err)
	return l
}

func requests(n int64) Cost { return Cost{Requests: n} }

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

const second = time.Second
