// Package httpstore is a store at a service over HTTP, such as `choked serve` or a
// handler of package server. It is for workers that cannot be members of a cluster
// themselves.
//
//	store, err := httpstore.Open(httpstore.Config{URL: "https://choked.internal", Token: os.Getenv("CHOKED_TOKEN")})
//	choke := choked.New(store)
//
// While the service cannot be reached or does not answer, an operation retries for
// [Config.Timeout] and then fails with [bucket.ErrUnavailable] and the cause. If the
// store behind the service cannot decide, the operation fails at once, with
// [bucket.ErrNoQuorum] or ErrUnavailable as that store did.
//
// There is no New: in packages of choked, New takes a dependency that is ready and
// stays the caller's, and Open opens connections that the store then owns.
package httpstore

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/boottime"
	"github.com/choked/choked/internal/httpapi"
)

// ErrUnauthorized means that the service does not accept the token.
var ErrUnauthorized = errors.New("token refused")

// Store is a store at a service. It owns a few connections. It runs goroutines only
// for operations under way and leases that are being returned. It is safe for
// concurrent use.
type Store struct {
	cfg   Config
	base  string
	http  *http.Client
	pool  *http.Transport
	clock *boottime.Clock

	ctx    context.Context // ends when the store closes
	cancel context.CancelCauseFunc
	work   sync.WaitGroup // operations under way, and leases that are being returned

	mu      sync.Mutex
	closed  bool
	aliases map[leaseName]alias
}

// Lease implements choked.Store.
//
// An attempt whose answer was lost is withdrawn: the retry has an id of its own and
// settles the lost attempt as not spent. It cannot use the same id. The service
// returns a lease whose client is gone, and might do so just after it has granted
// the same lease again.
func (s *Store) Lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error) {
	if err := ask.Check(); err != nil {
		return bucket.Lease{}, err
	}
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return bucket.Lease{}, err
	}
	defer end()
	return s.lease(ctx, ask)
}

func (s *Store) lease(ctx context.Context, ask bucket.Ask) (bucket.Lease, error) {
	name := leaseName{ask.Key, ask.ID}
	start := s.clock.Now()
	until := start + int64(min(max(ask.MaxWait, 0), 1<<60))
	ask.ID, ask.Done = s.wireID(name), s.wireIDs(ask.Done)
	retries := s.retries(ctx, until)
	resume := false // the service has the ask already
	for {
		if err := s.settleMany(ctx, &ask); err != nil {
			s.giveBack(ask)
			return bucket.Lease{}, err
		}
		sent := s.clock.Now()
		ask.MaxWait = time.Duration(max(until-sent, 0))
		lease, pending, err := s.postLease(ctx, ask, resume)
		switch {
		case pending:
			resume, retries = true, s.retries(ctx, until)
			continue
		case err == nil:
			if lease.ID, lease.ValidFor = name.id, lease.ValidFor+time.Duration(sent-start); lease.OK {
				s.granted(name, ask.ID, lease.ValidFor)
			}
			return lease, nil
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case isFinal(err):
			if !errors.Is(err, errHTTP1) { // which is noticed after the service has decided
				return bucket.Lease{}, err
			}
		default:
			if unclear(err) { // otherwise an ask that waits at the service still does
				ask.Done = append(ask.Done, bucket.Settlement{Key: ask.Key, ID: ask.ID})
				ask.ID.Seq = rand.Uint64() | 1<<63
				resume = false
			}
			if err = retries.next(err); err == nil {
				continue
			}
		}
		s.giveBack(ask)
		return bucket.Lease{}, err
	}
}

// settleMany settles the settlements of an ask that do not fit into its request.
func (s *Store) settleMany(ctx context.Context, ask *bucket.Ask) error {
	if len(ask.Done) <= batch(ask.Done) {
		return nil
	}
	if err := s.settle(ctx, ask.Done); err != nil {
		return err
	}
	ask.Done = nil
	return nil
}

// postLease makes one attempt at a lease. With pending, the ask waits at the service
// and must be resumed.
func (s *Store) postLease(ctx context.Context, ask bucket.Ask, resume bool) (lease bucket.Lease, pending bool, err error) {
	request := httpapi.LeaseRequestOf(ask)
	if request.Resume = resume; resume {
		request.Limits, request.Done = httpapi.Limits{}, nil
	}
	var answer httpapi.Lease
	if err := s.post(ctx, httpapi.Version+"/lease", request, &answer); err != nil || answer.Pending {
		return bucket.Lease{}, err == nil, err
	}
	lease, err = answer.Value()
	return lease, false, err
}

// returnTimeout bounds the return of a lease that its caller has given up.
const returnTimeout = 2 * time.Second

// giveBack returns the lease that an abandoned ask may have been granted, and sends
// the settlements of the ask. If this fails, the lease expires, and the caller sends
// the settlements again.
func (s *Store) giveBack(ask bucket.Ask) {
	s.spawn(func() {
		ctx, cancel := context.WithTimeout(s.ctx, returnTimeout)
		defer cancel()
		_ = s.settle(ctx, append(ask.Done, bucket.Settlement{Key: ask.Key, ID: ask.ID}))
	})
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
	return s.settle(ctx, s.wireIDs(done))
}

func (s *Store) settle(ctx context.Context, done []bucket.Settlement) error {
	for len(done) > 0 {
		n := batch(done)
		request := httpapi.SettleRequest{Done: httpapi.SettlementsOf(done[:n])}
		if err := s.retry(ctx, httpapi.Version+"/settle", request, func(error) bool { return true }); err != nil {
			return err
		}
		done = done[n:]
	}
	return nil
}

// batch returns how many settlements fit into one request, in addition to an ask.
func batch(done []bucket.Settlement) (n int) {
	const (
		ask     = 16 << 10 // bytes of a key and its rates
		numbers = 256      // bytes of a settlement without its key
		escaped = 6        // bytes that a byte of a key takes at most, as in \u001f
	)
	size := ask
	for ; n < min(len(done), httpapi.MaxSettlements); n++ {
		if size += numbers + escaped*len(done[n].Key); size > httpapi.MaxBody {
			break
		}
	}
	return n
}

// Adjust implements choked.Store.
func (s *Store) Adjust(ctx context.Context, a bucket.Adjustment) error {
	if err := a.Check(); err != nil {
		return err
	}
	ctx, end, err := s.begin(ctx)
	if err != nil {
		return err
	}
	defer end()
	again := func(err error) bool { return !unclear(err) } // an adjustment must not be applied twice
	return s.retry(ctx, httpapi.Version+"/adjust", httpapi.AdjustRequestOf(a), again)
}

// Close implements choked.Store. Operations under way fail with ErrClosed, and Close
// waits for them.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel(bucket.ErrClosed)
	s.work.Wait()
	s.pool.CloseIdleConnections()
	return nil
}

// begin begins an operation. Its context ends with the store, too.
func (s *Store) begin(ctx context.Context) (context.Context, func(), error) {
	if err := context.Cause(ctx); err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, nil, bucket.ErrClosed
	}
	s.work.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.ctx, func() { cancel(bucket.ErrClosed) })
	return ctx, func() {
		stop()
		cancel(nil)
		s.work.Done()
	}, nil
}

// spawn runs f on a goroutine that Close waits for.
func (s *Store) spawn(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.work.Go(f)
	}
}
