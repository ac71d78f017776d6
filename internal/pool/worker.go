package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
)

// Store is the part of choked.Store that a worker uses, with the same contract.
type Store interface {
	Lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error)
	Settle(ctx context.Context, done []bucket.Settlement) error
	Adjust(ctx context.Context, a bucket.Adjustment) error
}

// Worker is the shared state of the pools of one worker: the store, the clock, the
// identity of the holder, and the exchanges under way. Safe for concurrent use.
type Worker struct {
	Clock *boottime.Clock // set before the first pool is made, else by NewWorker

	store  Store
	holder uint64
	seq    atomic.Uint64

	defined atomic.Int64 // of the latest pool, in Unix nanoseconds

	ctx    context.Context // of exchanges with the store; ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup // exchanges under way

	mu       sync.Mutex
	draining map[*Pool]struct{} // pools without limiters that have something to report
}

// NewWorker returns a worker that leases from store. It starts no goroutines.
func NewWorker(store Store) *Worker {
	w := &Worker{Clock: boottime.New(), store: store, holder: rand.Uint64(), draining: make(map[*Pool]struct{})}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// Draining returns the pools that have lost their limiters and have not reported
// everything yet.
func (w *Worker) Draining() []*Pool {
	w.mu.Lock()
	defer w.mu.Unlock()
	pools := make([]*Pool, 0, len(w.draining))
	for p := range w.draining {
		pools = append(pools, p)
	}
	return pools
}

func (w *Worker) setDraining(p *Pool, draining bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if draining {
		w.draining[p] = struct{}{}
	} else {
		delete(w.draining, p)
	}
}

// nextDefined returns the time of a definition of limits, in Unix nanoseconds: now,
// and later than every definition before it.
func (w *Worker) nextDefined() int64 {
	for {
		last := w.defined.Load()
		next := max(time.Now().UnixNano(), last+1)
		if w.defined.CompareAndSwap(last, next) {
			return next
		}
	}
}

func (w *Worker) nextID() bucket.LeaseID {
	return bucket.LeaseID{Holder: w.holder, Seq: w.seq.Add(1)}
}

// Close waits until the exchanges under way have ended, and then reports the rest of
// pools, which are closed. It waits for the store at most within.
func (w *Worker) Close(within time.Duration, pools []*Pool) error {
	timer := time.AfterFunc(within, w.cancel)
	defer timer.Stop()
	defer w.cancel()
	w.work.Wait()
	var done []bucket.Settlement
	var errs []error
	var corrections []bucket.Adjustment
	for _, p := range pools {
		last, rest := p.unreported()
		done, corrections = append(done, last...), append(corrections, rest...)
	}
	if len(done) > 0 {
		if err := w.store.Settle(w.ctx, done); err != nil {
			others := ""
			if slices.ContainsFunc(done, func(s bucket.Settlement) bool { return s.Key != done[0].Key }) {
				others = ", with those of other keys"
			}
			errs = append(errs, fmt.Errorf("choked: key %.64q: return %d leases%s: %w", done[0].Key, len(done), others, err))
		}
	}
	for _, a := range corrections { // a refund counts after the settlement of its lease only
		if err := w.store.Adjust(w.ctx, a); err != nil {
			errs = append(errs, fmt.Errorf("choked: key %.64q: adjust: %w", a.Key, err))
		}
	}
	return errors.Join(errs...)
}
