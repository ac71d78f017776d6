package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/estimator"
	"github.com/choked/choked/internal/testkit/history"
)

const (
	tellEvery = 200 * time.Millisecond // status
	leaveIn   = 10 * time.Second       // after the end of input, or the process just ends
)

// worker is what one process of the fleet does: callers that send prompts, each
// admitted by the limiter and written down.
type worker struct {
	job     job
	log     *slog.Logger
	home    home
	limiter *choked.Limiter // nil: nothing is limited
	guesses *estimator.Calibrated
	records *history.Writer
	queue   *history.Queue
	client  *client
	prompts []string

	sent   atomic.Int64 // calls, admitted
	failed atomic.Int64
	mu     sync.Mutex
	err    error         // the last
	unmet  time.Duration // the longest wait that the end cut short
}

// work is the whole life of a worker process. It returns the exit status.
func work(in io.Reader, out, logs io.Writer) int {
	err := func() error {
		lines := bufio.NewReader(in)
		var j job
		if line, err := lines.ReadBytes('\n'); err != nil {
			return fmt.Errorf("read what to do: %w", err)
		} else if err := json.Unmarshal(line, &j); err != nil {
			return fmt.Errorf("read what to do: %w", err)
		}
		level := slog.LevelInfo
		if !j.Verbose {
			level = slog.LevelError
		}
		w := &worker{job: j, log: slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: level}))}
		return w.run(lines, json.NewEncoder(out))
	}()
	if err != nil {
		fmt.Fprintln(logs, "worker:", err)
		return 1
	}
	return 0
}

func (w *worker) run(orders *bufio.Reader, out *json.Encoder) (err error) {
	ended := make(chan struct{})
	defer close(ended)
	if _, w.prompts, err = loadPrompts(w.job.Prompts); err != nil {
		return err
	}
	if w.records, err = history.Open(w.job.Records); err != nil {
		return err
	}
	defer w.records.Close()
	if w.home, err = openStore(w.job, w.log); err != nil {
		return err
	}
	stats := func() choked.Stats { return choked.Stats{} }
	if w.home.store != nil {
		defer w.home.store.Close()
		choke := choked.New(w.home.store)
		defer choke.Close()
		w.guesses = newEstimator(w.job.Bias)
		if w.limiter, err = choke.Limiter("demo", w.job.Limits, w.guesses); err != nil {
			return err
		}
		stats = w.limiter.Stats
	}
	w.queue = &history.Queue{Stats: stats}
	w.client = newClient(w.job.Provider, w.job.Callers)
	defer w.client.close()

	ctx, stop := context.WithCancel(context.Background())
	begin := make(chan struct{})
	go func() { // ends after the input, and so after the parent
		if _, err := orders.ReadBytes('\n'); err == nil {
			close(begin)
			io.Copy(io.Discard, orders)
		}
		stop()
		select {
		case <-ended:
		case <-time.After(leaveIn): // nobody waits for a store that cannot be left
			os.Exit(1)
		}
	}()

	var callers, others sync.WaitGroup
	others.Go(func() { w.queue.Watch(ctx) })
	others.Go(func() { w.tell(ctx, out) })
	select {
	case <-begin:
		for range w.job.Callers {
			callers.Go(func() { w.call(ctx) })
		}
	case <-ctx.Done():
	}
	callers.Wait()
	others.Wait()
	final := w.status()
	final.Final = true
	return out.Encode(final)
}

// call sends prompts until ctx ends, one after the other.
func (w *worker) call(ctx context.Context) {
	send := w.send
	if w.limiter != nil {
		send = choked.Wrap(w.limiter, w.send)
	}
	for ctx.Err() == nil {
		p := &prompt{text: w.prompts[rand.IntN(len(w.prompts))], ready: history.Now()}
		p.tokens = countTokens(p.text)
		for ctx.Err() == nil {
			p.asked, p.turn = w.queue.Join()
			_, err := send(ctx, p)
			if err == nil {
				break
			}
			if ctx.Err() != nil {
				w.cutShort(time.Duration(history.Now() - p.ready))
				break
			}
			var refused *refusedError
			pause := 100 * time.Millisecond
			if errors.As(err, &refused) {
				pause = refused.retryAfter
				if w.limiter != nil {
					pause = 0 // the limiter makes all workers wait
				}
			} else {
				w.fail(err)
			}
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			if errors.Is(err, choked.ErrCostExceedsBurst) {
				break // another one then
			}
		}
	}
}

// send posts a prompt that is admitted, and writes its admission down first.
func (w *worker) send(ctx context.Context, p *prompt) (reply, error) {
	now := history.Now()
	before := p.asked
	if w.limiter == nil {
		before = now // nobody else decides
	} else if ctx.Err() == nil { // else some may have left the line unserved
		before = w.queue.Since(p.turn, p.asked)
	}
	err := w.records.Append(history.Record{
		Before: before, After: now, Waited: time.Duration(now - p.ready), Requests: 1, Tokens: p.tokens,
		Worker: uint32(w.job.Slot), Incarnation: uint32(w.job.Incarnation),
	})
	if err != nil {
		return reply{}, err
	}
	w.sent.Add(1)
	// It is admitted: let it go through although the worker is to stop.
	return w.client.post(context.WithoutCancel(ctx), p.text)
}

// cutShort notes a wait that has not come to its end: a caller that is never
// served leaves no record.
func (w *worker) cutShort(wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.unmet = max(w.unmet, wait)
}

func (w *worker) fail(err error) {
	w.failed.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// tell writes the status until ctx ends, or until nobody reads it.
func (w *worker) tell(ctx context.Context, out *json.Encoder) {
	tick := time.NewTicker(tellEvery)
	defer tick.Stop()
	for out.Encode(w.status()) == nil {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (w *worker) status() status {
	s := status{Complete: w.home.complete(), Sent: w.sent.Load(), Failed: w.failed.Load()}
	if err := w.home.ready(); err != nil {
		s.Missing = err.Error()
	} else {
		s.Ready = true
	}
	s.Leader, s.Leads, _ = w.home.leader()
	if w.limiter != nil {
		stats := w.limiter.Stats()
		s.Waiting, s.Exchanges = stats.Waiting, stats.Exchanges
		s.Calibration = w.guesses.Factor()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.Unmet = w.unmet
	if w.err != nil {
		s.Error = w.err.Error()
	}
	return s
}
