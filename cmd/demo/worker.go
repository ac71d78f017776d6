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
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/estimator"
	"github.com/choked/choked/internal/testkit/history"
)

const (
	statusEvery  = 200 * time.Millisecond // interval of the status reports
	leaveTimeout = 10 * time.Second       // from the end of input until the process exits in any case
)

// worker is the work of one worker process: callers that send prompts. Each call
// is admitted by the limiter and recorded.
type worker struct {
	job       job
	log       *slog.Logger
	store     workerStore
	limiter   *choked.Limiter // nil: no limit applies
	estimates *estimator.Calibrated
	records   *history.Writer
	queue     *history.Queue
	client    *client
	prompts   []string

	sent            atomic.Int64 // admitted calls
	failed          atomic.Int64
	mu              sync.Mutex
	err             error         // the last
	longestUnserved time.Duration // the longest wait that the end of the run cut short
}

// work runs a worker process and returns its exit status.
func work(in io.Reader, out, logs io.Writer) int {
	err := func() error {
		lines := bufio.NewReader(in)
		var j job
		if line, err := lines.ReadBytes('\n'); err != nil {
			return fmt.Errorf("read job: %w", err)
		} else if err := json.Unmarshal(line, &j); err != nil {
			return fmt.Errorf("read job: %w", err)
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

func (w *worker) run(input *bufio.Reader, out *json.Encoder) (err error) {
	ended := make(chan struct{})
	defer close(ended)
	if _, w.prompts, err = loadPrompts(w.job.Prompts); err != nil {
		return err
	}
	if w.records, err = history.Open(w.job.Records); err != nil {
		return err
	}
	defer w.records.Close()
	if w.store, err = openStore(w.job, w.log); err != nil {
		return err
	}
	stats := func() choked.Stats { return choked.Stats{} }
	if w.store.store != nil {
		defer w.store.store.Close()
		choke := choked.New(w.store.store)
		defer choke.Close()
		w.estimates = newEstimator(w.job.Bias)
		if w.limiter, err = choke.Limiter("demo", w.job.Limits, w.estimates); err != nil {
			return err
		}
		stats = w.limiter.Stats
	}
	w.queue = &history.Queue{Stats: stats}
	w.client = newClient(w.job.Provider, w.job.Callers)
	defer w.client.close()

	ctx, stop := context.WithCancel(context.Background())
	begin := make(chan struct{})
	go func() { // ends after the input, which ends with the parent process at the latest
		if _, err := input.ReadBytes('\n'); err == nil {
			close(begin)
			io.Copy(io.Discard, input)
		}
		stop()
		select {
		case <-ended:
		case <-time.After(leaveTimeout): // the store does not close
			os.Exit(1)
		}
	}()

	var callers, others sync.WaitGroup
	others.Go(func() { w.queue.Watch(ctx) })
	others.Go(func() { w.reportStatus(ctx, out) })
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

// call sends prompts one after the other until ctx ends.
func (w *worker) call(ctx context.Context) {
	send := w.send
	if w.limiter != nil {
		send = choked.Wrap(w.limiter, w.send)
	}
	for ctx.Err() == nil {
		p := &prompt{text: w.prompts[rand.IntN(len(w.prompts))], ready: history.Now()}
		p.tokens = countTokens(p.text)
		w.sendUntilServed(ctx, send, p)
	}
}

// sendUntilServed sends p until it is served, can never be served, or ctx ends.
func (w *worker) sendUntilServed(ctx context.Context, send func(context.Context, *prompt) (reply, error), p *prompt) {
	for ctx.Err() == nil {
		p.asked, p.turn = w.queue.Join()
		_, err := send(ctx, p)
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			w.noteUnserved(time.Duration(history.Now() - p.ready))
			return
		}
		select {
		case <-ctx.Done():
		case <-time.After(w.pauseAfter(err)):
		}
		if errors.Is(err, choked.ErrCostExceedsBurst) {
			return
		}
	}
}

// pauseAfter returns how long a caller pauses after a failed call. It counts the
// failure unless the provider answered with 429.
func (w *worker) pauseAfter(err error) time.Duration {
	var refused *refusedError
	if !errors.As(err, &refused) {
		w.fail(err)
		return 100 * time.Millisecond
	}
	if w.limiter != nil {
		return 0 // the limiter lets all workers wait for the time in Retry-After
	}
	return refused.retryAfter
}

// send records the admission of a prompt, then posts it to the provider.
func (w *worker) send(ctx context.Context, p *prompt) (reply, error) {
	now := history.Now()
	decided := p.asked
	if w.limiter == nil {
		decided = now // without a limiter, sending is the decision
	} else if ctx.Err() == nil { // once ctx has ended, callers leave the queue unserved and Since does not hold
		decided = w.queue.Since(p.turn, p.asked)
	}
	err := w.records.Append(history.Record{
		Before: decided, After: now, Waited: time.Duration(now - p.ready), Cost: choked.Cost{Requests: 1, Tokens: p.tokens},
		Worker: uint32(w.job.Slot), Incarnation: uint32(w.job.Incarnation),
	})
	if err != nil {
		return reply{}, err
	}
	w.sent.Add(1)
	// An admitted call completes even if the worker is about to stop.
	return w.client.post(context.WithoutCancel(ctx), p.text)
}

// noteUnserved notes a wait that the end of the run cut short. The caller was not
// admitted, so no record has its wait.
func (w *worker) noteUnserved(wait time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.longestUnserved = max(w.longestUnserved, wait)
}

func (w *worker) fail(err error) {
	w.failed.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.err = err
}

// reportStatus writes the status until ctx ends or the output is closed.
func (w *worker) reportStatus(ctx context.Context, out *json.Encoder) {
	tick := time.NewTicker(statusEvery)
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
	s := status{Complete: w.store.complete(), Sent: w.sent.Load(), Failed: w.failed.Load()}
	if err := w.store.ready(); err != nil {
		s.NotReady = err.Error()
	} else {
		s.Ready = true
	}
	s.Leader, s.Leads, _ = w.store.leader()
	if w.limiter != nil {
		stats := w.limiter.Stats()
		s.Waiting, s.Exchanges = stats.Waiting, stats.Exchanges
		s.Calibration = w.estimates.Factor(bucket.Tokens)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	s.LongestUnserved = w.longestUnserved
	if w.err != nil {
		s.Error = w.err.Error()
	}
	return s
}
