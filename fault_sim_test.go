package choked

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
)

// wild is a Store behind a bad network: round trips of any length, asks and
// settlements that are lost on the way or whose answer is. Once its worker is
// dead nothing passes.
type wild struct {
	Store
	dead atomic.Bool

	mu   sync.Mutex
	rand *rand.Rand
}

var errLost = errors.New("lost")

// cross passes one way, or reports that what was sent was lost on it.
func (w *wild) cross(ctx context.Context) error {
	w.mu.Lock()
	d := time.Duration(w.rand.Int64N(int64(5 * time.Millisecond)))
	if w.rand.IntN(200) == 0 {
		d = time.Duration(w.rand.Int64N(int64(3 * bucket.TTL / 2)))
	}
	lost := w.rand.IntN(100) == 0
	w.mu.Unlock()
	if lost || w.dead.Load() {
		d = time.Second
	}
	select {
	case <-time.After(d):
	case <-ctx.Done():
		return ctx.Err()
	}
	if lost || w.dead.Load() {
		return errLost
	}
	return nil
}

func (w *wild) Lease(ctx context.Context, a Ask) (Lease, error) {
	if err := w.cross(ctx); err != nil {
		return Lease{}, err
	}
	came := time.Now()
	l, err := w.Store.Lease(ctx, a)
	stood := time.Since(came)
	l.ValidFor -= stood - bucket.Early(stood) // for how long it stood there is by the store's clock
	if lost := w.cross(ctx); lost != nil {
		return Lease{}, lost
	}
	return l, err
}

func (w *wild) Settle(ctx context.Context, done []Settlement) error {
	if err := w.cross(ctx); err != nil {
		return err
	}
	err := w.Store.Settle(ctx, done)
	return errors.Join(err, w.cross(ctx))
}

func (w *wild) Adjust(ctx context.Context, a Adjustment) error {
	if err := w.cross(ctx); err != nil {
		return err
	}
	err := w.Store.Adjust(ctx, a)
	return errors.Join(err, w.cross(ctx))
}

// TestNothingGoesOverTheBound runs fleets whose clocks drift apart by as much
// as they may, whose network loses what it carries or delays it for longer than
// a lease is valid, whose workers crash with leases in hand, with costs and
// limits of any kind.
func TestNothingGoesOverTheBound(t *testing.T) {
	seeds := 60
	if testing.Short() {
		seeds = 10
	}
	for seed := range uint64(seeds) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			f := &fleet{rand: rand.New(rand.NewPCG(seed, 1))}
			synctest.Test(t, f.run)
			for key, adm := range f.admitted {
				slices.SortStableFunc(adm, func(a, b admission) int { return int(a.at - b.at) })
				for u := range bucket.NumUnits {
					for _, r := range f.limits[key].Of(u) {
						over := excess(adm, r, func(c Cost) int64 { return c.Of(u) })
						assert.LessOrEqual(t, over, 1e-6, "over %v on %v", r, u)
					}
				}
				assert.Greater(t, len(adm), 20, "calls admitted on %q under %v", key, f.limits[key])
			}
		})
	}
}

type fleet struct {
	rand     *rand.Rand // for what is drawn before the bubble's goroutines begin
	limits   map[string]Limits
	mu       sync.Mutex
	admitted map[string][]admission
}

const fleetTime = 40 * time.Second

func (f *fleet) run(t *testing.T) {
	some := func(s ...string) string { return s[f.rand.IntN(len(s))] }
	f.limits = map[string]Limits{
		"a": shortLimits(some("50/s", "20/s burst 5", "300/m", "7/s", "40/s,600/m burst 60", "50/s window", "300/20s window pace 30", "30/2s window,500/m"),
			some("", "60000/m burst 3000", "5000/s", "20000/5s window pace 2000", "3000/s window,400000/d reset Europe/Berlin")),
		"b": MustLimits("requests " + some("1000/s", "50/s burst 1", "120/m burst 10", "100/10s window pace 10", "1000/s window")),
	}
	f.admitted = make(map[string][]admission)
	store := NewLocal()
	start := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), fleetTime)
	defer cancel()
	var all sync.WaitGroup
	for w := range 6 {
		rnd := rand.New(rand.NewPCG(f.rand.Uint64(), 2))
		all.Go(func() {
			for life := 0; ctx.Err() == nil; life++ {
				f.worker(t, ctx, store, w, start, rnd, &all)
			}
		})
	}
	all.Wait()
	store.Close()
}

// worker lives until it crashes, and dies without a word.
func (f *fleet) worker(t *testing.T, ctx context.Context, store Store, id int, start time.Time, rnd *rand.Rand, all *sync.WaitGroup) {
	drift := rnd.Int64N(199) - 99 // tenths of a thousandth
	network := &wild{Store: store, rand: rand.New(rand.NewPCG(rnd.Uint64(), 3))}
	c := New(network)
	c.worker.Clock = boottime.Distorted(func(ns int64) int64 { return ns + ns*drift/10000 })
	life, crash := context.WithTimeout(ctx, time.Duration(rnd.Int64N(int64(fleetTime))))
	defer crash()
	var callers sync.WaitGroup
	for key, limits := range f.limits {
		l, err := c.Limiter(key, limits, nil)
		if err != nil {
			t.Error(err)
			return
		}
		for range 3 {
			rnd := rand.New(rand.NewPCG(rnd.Uint64(), 4))
			callers.Go(func() { f.caller(life, l, id, start, rnd) })
		}
	}
	callers.Wait()
	network.dead.Store(true)
	all.Go(func() { // only so that the bubble ends: nothing of it reaches the store
		<-ctx.Done()
		c.Close()
	})
}

func (f *fleet) caller(ctx context.Context, l *Limiter, id int, start time.Time, rnd *rand.Rand) {
	limits := l.Limits()
	burst := limits.Burst()
	for ctx.Err() == nil {
		cost := limits.Limited(Cost{
			Requests: 1 + rnd.Int64N(min(burst.Requests, 3)),
			Tokens:   rnd.Int64N(min(burst.Tokens, 400)),
		})
		if rnd.IntN(50) == 0 {
			cost = limits.Limited(burst)
		}
		wait, cancel := context.WithTimeout(ctx, time.Duration(rnd.Int64N(int64(10*time.Second))))
		var err error
		if rnd.IntN(4) == 0 {
			var v Verdict
			if v, err = l.Allow(wait, cost); err == nil && !v.OK {
				err = errLost
			}
		} else {
			err = l.Wait(wait, cost)
		}
		cancel()
		if err != nil {
			time.Sleep(time.Duration(rnd.Int64N(int64(100 * time.Millisecond))))
			continue
		}
		f.mu.Lock()
		f.admitted[l.Key()] = append(f.admitted[l.Key()], admission{at: time.Since(start), worker: id, cost: cost})
		f.mu.Unlock()
		time.Sleep(time.Duration(rnd.Int64N(int64(20 * time.Millisecond))))
	}
}
