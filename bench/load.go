package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/choked/choked"
)

// load is a number of callers that wait for admission again and again.
type load struct {
	stores   []choked.Store // one for each worker
	keys     []string
	limits   choked.Limits
	callers  int           // of each worker, spread over the keys
	interval time.Duration // mean time between the calls of a caller, at random; zero: the next call follows at once
	duration time.Duration
}

// loadCost is the cost of a load, of all nodes and callers of this process together.
type loadCost struct {
	admitted  int64
	exchanges int64
	cpu       time.Duration
	wire      int64 // bytes sent over loopback
}

// perAdmission returns n divided by the number of admissions.
func (s loadCost) perAdmission(n int64) float64 { return float64(n) / float64(max(s.admitted, 1)) }

// cpuPerAdmission returns the CPU time of an admission.
func (s loadCost) cpuPerAdmission() time.Duration {
	return (s.cpu / time.Duration(max(s.admitted, 1))).Round(100 * time.Nanosecond)
}

// run runs the callers for the duration of the load.
func (l load) run(ctx context.Context) (s loadCost, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.duration)
	defer cancel()
	var chokes []*choked.Choke
	defer func() {
		for _, c := range chokes {
			err = errors.Join(err, c.Close())
		}
	}()
	var limiters, callers []*choked.Limiter
	for i, store := range l.stores {
		c := choked.New(store)
		chokes = append(chokes, c)
		for j := range l.callers {
			lim, err := c.Limiter(l.keys[(i*l.callers+j)%len(l.keys)], l.limits, nil)
			if err != nil {
				return s, err
			}
			callers = append(callers, lim)
			if j < len(l.keys) { // Stats of a key are the same at all limiters of a worker
				limiters = append(limiters, lim)
			}
		}
	}
	errs := make([]error, len(callers))
	var wg sync.WaitGroup
	sent, used := loopback(), cpu()
	for i, lim := range callers {
		wg.Go(func() { errs[i] = l.call(ctx, lim) })
	}
	wg.Wait()
	s.cpu, s.wire = cpu()-used, loopback()-sent
	for _, lim := range limiters {
		st := lim.Stats()
		s.admitted, s.exchanges = s.admitted+st.Admitted, s.exchanges+st.Exchanges
	}
	return s, errors.Join(errs...)
}

// call waits for admission again and again until ctx ends. It returns an error that
// ctx did not cause.
func (l load) call(ctx context.Context, lim *choked.Limiter) error {
	for next := time.Now(); ; {
		if l.interval > 0 {
			next = next.Add(time.Duration(rand.ExpFloat64() * float64(l.interval)))
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Until(next)):
			}
		}
		err := lim.Wait(ctx, l.limits.Limited(choked.Cost{Requests: 1, Tokens: 1}))
		switch {
		case err == nil:
		case ctx.Err() != nil, errors.Is(err, choked.ErrDeadline): // not admitted before the end of the run
			return nil
		default:
			return err
		}
	}
}
