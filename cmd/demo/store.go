package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster"
	"github.com/choked/choked/httpstore"
	"github.com/choked/choked/internal/testkit/redisserver"
	"github.com/choked/choked/redisstore"
)

// storeKinds are the values of -store. [openStore] opens each kind; [checkStore]
// checks that the other flags suit it.
var storeKinds = []string{"cluster", "http", "redis", "local", "none"}

const storeHelp = "`kind` of store that holds the quota of the workers\n" +
	"cluster: the workers are the nodes of a cluster that keeps its state in memory\n" +
	"http: an HTTP service in a process of its own\n" +
	"redis: the Redis server at -redis, or one that the demo starts. With -kill, the demo\n" +
	"  lets its server sync each write to disk, and kills and restarts it after a third of\n" +
	"  the run\n" +
	"local: none is shared: each worker has 1/workers of each limit, and a restarted worker\n" +
	"  begins with a full burst\n" +
	"none: no limiter: workers wait only when the provider answers 429"

// checkStore returns an error if the other flags do not suit -store.
func checkStore(o options) error {
	if o.redis != "" && o.store != "redis" {
		return fmt.Errorf("-redis %.80q: want -store redis, not %s", o.redis, o.store)
	}
	switch o.store {
	case "cluster":
		if o.kill && o.workers < 3 {
			return fmt.Errorf("-workers %d -kill: want 3 or more workers, or -kill=false: without the leader, fewer have no majority", o.workers)
		}
	case "local":
		if _, err := shareOf(o); err != nil {
			return fmt.Errorf("-store local: a limit cannot be divided among %d workers: %w", o.workers, err)
		}
	}
	return nil
}

// shareOf returns the limits of each worker's limiter.
func shareOf(o options) (choked.Limits, error) {
	if o.store != "local" {
		return o.limits, nil
	}
	var l choked.Limits
	for u := range bucket.NumUnits {
		rates := slices.Clone(o.limits.Of(u))
		for i := range rates {
			rates[i].Burst /= int64(o.workers)
			rates[i].Per *= time.Duration(o.workers)
		}
		l.Set(u, rates)
	}
	return l, l.Check()
}

// service is the server that the workers' store needs, if any.
type service struct {
	url   string
	calls func() (int64, error) // calls that the workers have made; nil: not counted
	close func() error
}

// startService starts the server that the store needs.
func startService(o options, logs io.Writer) (service, error) {
	switch o.store {
	case "http":
		url, stop, err := startHTTPService(logs, o.verbose)
		if err != nil {
			return service{}, fmt.Errorf("-store http: %w", err)
		}
		return service{url: url, close: stop}, nil
	case "redis":
		return startRedis(o, logs)
	}
	return service{close: func() error { return nil }}, nil
}

func startRedis(o options, logs io.Writer) (service, error) {
	r := &redisService{logs: logs}
	url := o.redis
	if url == "" {
		var options []string
		if o.kill {
			options = []string{"--appendonly", "yes", "--appendfsync", "always"}
		}
		var err error
		if r.server, err = redisserver.Start(options...); err != nil {
			return service{}, fmt.Errorf("-store redis: %w", err)
		}
		url = r.server.URL()
	}
	if err := r.connect(url); err != nil {
		return service{}, errors.Join(err, r.close())
	}
	if r.server != nil && o.kill {
		after := killAfter
		if o.duration > 0 {
			after = o.duration / 3
		}
		var ctx context.Context
		ctx, r.stop = context.WithCancel(context.Background())
		r.killer.Go(func() { r.killOnce(ctx, after) }) // ends with stop
	}
	return service{url: url, calls: r.calls, close: r.close}, nil
}

// redisService is the Redis server of -store redis. It counts the scripts that
// the server runs for the workers.
type redisService struct {
	server *redisserver.Server // started by the demo; nil with -redis
	client *redis.Client
	logs   io.Writer

	stop   context.CancelFunc
	killer sync.WaitGroup

	mu         sync.Mutex
	runID      string // run_id of the server: each start has another one
	baseline   int64  // the server's count of scripts minus those that it has run for the workers
	killReport string // printed by close
}

func (r *redisService) connect(url string) error {
	opt, err := redis.ParseURL(url)
	if err != nil {
		return errors.New(`-redis: want a URL such as "redis://user:password@host:6379/0"`)
	}
	r.client = redis.NewClient(opt)
	if r.runID, r.baseline, err = r.scriptCalls(); err != nil {
		return fmt.Errorf("-redis: %w", err)
	}
	return nil
}

// calls returns how many scripts Redis has run for the workers, or 0 if that is
// unknown.
func (r *redisService) calls() (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	runID, n, err := r.scriptCalls()
	if err == nil && runID != r.runID {
		fmt.Fprintln(r.logs, "demo: the calls to Redis are not counted: the server was restarted during the run")
		return 0, nil
	}
	return n - r.baseline, err
}

// killOnce waits for the first call of a worker and for the given time after it,
// then kills the server and starts it again. It keeps the count of scripts.
func (r *redisService) killOnce(ctx context.Context, after time.Duration) {
	for started := false; !started; {
		if pause(ctx, statusEvery) != nil {
			return
		}
		n, err := r.calls()
		started = err == nil && n > 0
	}
	if pause(ctx, after) != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := time.Now()
	_, n, err := r.scriptCalls()
	r.server.Kill()
	err = errors.Join(err, r.server.Restart())
	n -= r.baseline
	if err == nil {
		r.runID, r.baseline, err = r.scriptCalls()
		r.baseline -= n
	}
	r.killReport = fmt.Sprintf("kill -9 redis-server, which was back after %v", time.Since(at).Round(time.Millisecond))
	if err != nil {
		r.killReport = fmt.Sprintf("kill -9 redis-server: %v", err)
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// scriptCalls returns the run_id of the server and how many scripts the server has
// run since its start.
func (r *redisService) scriptCalls() (runID string, n int64, err error) {
	ctx := context.Background()
	about, err := r.client.Info(ctx, "server").Result()
	if err != nil {
		return "", 0, err
	}
	for line := range strings.Lines(about) {
		if id, ok := strings.CutPrefix(line, "run_id:"); ok {
			runID = strings.TrimSpace(id)
		}
	}
	stats, err := r.client.Info(ctx, "commandstats").Result()
	if err != nil {
		return "", 0, err
	}
	for line := range strings.Lines(stats) {
		name, rest, _ := strings.Cut(line, ":calls=")
		if name == "cmdstat_evalsha" || name == "cmdstat_eval" {
			count, _, _ := strings.Cut(rest, ",")
			calls, err := strconv.ParseInt(count, 10, 64)
			if err != nil {
				return "", 0, fmt.Errorf("INFO commandstats: %q: %w", line, err)
			}
			n += calls
		}
	}
	return runID, n, nil
}

func (r *redisService) close() error {
	if r.stop != nil {
		r.stop()
		r.killer.Wait()
	}
	if r.killReport != "" {
		fmt.Fprintln(r.logs, "demo:", r.killReport)
	}
	var err error
	if r.client != nil {
		err = r.client.Close()
	}
	if r.server != nil {
		err = errors.Join(err, r.server.Stop())
	}
	return err
}

// workerStore is the store of one worker, with its state.
type workerStore struct {
	store choked.Store // nil: no limit applies

	// leader returns the name of the leader and whether it is this worker. ok is
	// false if there is no leader.
	leader func() (name string, self, ok bool)
	// ready returns nil once the worker has joined the store, or why it has not.
	ready func() error
	// complete reports whether the store would survive the loss of its leader, as
	// far as this worker knows. Other workers may learn of it later.
	complete func() bool
}

func openStore(j job, log *slog.Logger) (workerStore, error) {
	alone := workerStore{
		leader:   func() (string, bool, bool) { return "", false, false },
		ready:    func() error { return nil },
		complete: func() bool { return true },
	}
	switch j.Store {
	case "none":
		return alone, nil
	case "local":
		alone.store = choked.NewLocal()
		return alone, nil
	case "http":
		store, err := httpstore.Open(httpstore.Config{URL: j.StoreURL})
		alone.store = store
		return alone, err
	case "redis":
		store, err := redisstore.Open(j.StoreURL, redisstore.Config{Prefix: "choked:demo:" + j.Secret[:8] + ":"})
		alone.store = store
		return alone, err
	case "cluster":
		return openCluster(j, log)
	}
	return workerStore{}, fmt.Errorf("store %.80q: want %s", j.Store, alternatives(storeKinds))
}

func openCluster(j job, log *slog.Logger) (workerStore, error) {
	node, err := cluster.Start(cluster.Config{Name: j.Name, Bind: j.Bind, Join: j.Join, Secret: j.Secret, Logger: log})
	if err != nil {
		return workerStore{}, err
	}
	leader := func() (string, bool, bool) {
		m, ok := node.Leader()
		return m.Name, m.Self, ok
	}
	complete := func() bool {
		voters := 0
		for _, m := range node.Members() {
			if m.Voter {
				voters++
			}
		}
		_, led := node.Leader()
		return led && voters >= j.Voters
	}
	return workerStore{node, leader, node.Health, complete}, nil
}
