package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/choked/choked"
)

// load is callers that take as much as they can get, or as they need.
type load struct {
	stores  []choked.Store // of the workers
	keys    []string
	limits  choked.Limits
	callers int           // on each worker, spread over the keys
	every   time.Duration // on average, at random, a caller needs one; zero: at once again
	span    time.Duration
}

// spent is what a load has cost, all nodes and callers of this process together.
type spent struct {
	admitted  int64
	exchanges int64
	cpu       time.Duration
	wire      int64 // bytes over loopback
}

func (s spent) each(n int64) float64 { return float64(n) / float64(max(s.admitted, 1)) }

// cpuEach is what an admission took of it.
func (s spent) cpuEach() time.Duration {
	return (s.cpu / time.Duration(max(s.admitted, 1))).Round(100 * time.Nanosecond)
}

func (l load) run(ctx context.Context) (s spent, err error) {
	ctx, cancel := context.WithTimeout(ctx, l.span)
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
			if j < len(l.keys) { // the first that this worker has of the key
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

// call takes until ctx ends. An error before is one.
func (l load) call(ctx context.Context, lim *choked.Limiter) error {
	for next := time.Now(); ; {
		if l.every > 0 {
			next = next.Add(time.Duration(rand.ExpFloat64() * float64(l.every)))
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(time.Until(next)):
			}
		}
		err := lim.Wait(ctx, l.limits.Limited(choked.Cost{Requests: 1, Tokens: 1}))
		switch {
		case err == nil:
		case ctx.Err() != nil, errors.Is(err, choked.ErrDeadline): // the end of the run comes before the turn
			return nil
		default:
			return err
		}
	}
}
