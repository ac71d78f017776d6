package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/choked/choked"
	"github.com/choked/choked/cluster"
	"github.com/choked/choked/httpstore"
	"github.com/choked/choked/internal/testkit/redisserver"
	"github.com/choked/choked/redisstore"
)

// storeKinds are the values of -store. Another kind is a case in [openStore],
// and if it has demands on the other flags, in [checkStore].
var storeKinds = []string{"cluster", "http", "redis", "local", "none"}

const storeHelp = "where the workers keep their quota: a `kind`\n" +
	"cluster: among themselves, in memory\n" +
	"http: at a service over HTTP, in a process of its own\n" +
	"redis: in the Redis at -redis, or in one that is started for the demo. With -kill that\n" +
	"  one writes to disk all that it is told, and after a third of the time it is killed,\n" +
	"  too, and started again\n" +
	"local: nowhere shared; each has 1/workers of each limit for itself, and a worker that\n" +
	"  is started again does not know what it has spent before\n" +
	"none: nowhere; nothing holds them back but the provider's answers"

// checkStore reports what flags do not go together with -store.
func checkStore(o options) error {
	if o.redis != "" && o.store != "redis" {
		return fmt.Errorf("-redis %.80q: want -store redis, not %s", o.redis, o.store)
	}
	switch o.store {
	case "cluster":
		if o.kill && o.workers < 3 {
			return fmt.Errorf("-workers %d -kill: want 3 or more workers, or -kill=false: fewer are no majority without the leader", o.workers)
		}
	case "local":
		if _, err := shareOf(o); err != nil {
			return fmt.Errorf("-store local: a limit cannot be divided among %d workers: %w", o.workers, err)
		}
	}
	return nil
}

// shareOf returns the limits that each worker's limiter has.
func shareOf(o options) (choked.Limits, error) {
	if o.store != "local" {
		return o.limits, nil
	}
	share := func(rates []choked.Rate) (out []choked.Rate) {
		for _, r := range rates {
			r.Burst /= int64(o.workers)
			r.Per *= time.Duration(o.workers)
			out = append(out, r)
		}
		return out
	}
	l := choked.Limits{Requests: share(o.limits.Requests), Tokens: share(o.limits.Tokens)}
	return l, l.Check()
}

// service is what the workers' store needs beside them.
type service struct {
	url   string
	calls func() (int64, error) // that the workers have made; nil: nobody counts
	close func() error
}

func startService(o options, logs io.Writer) (service, error) {
	switch o.store {
	case "http":
		url, stop, err := startServer(logs, o.verbose)
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
		after := killAnyway
		if o.duration > 0 {
			after = o.duration / 3
		}
		var ctx context.Context
		ctx, r.stop = context.WithCancel(context.Background())
		r.killing.Go(func() { r.killOnce(ctx, after) }) // ends with stop
	}
	return service{url: url, calls: r.calls, close: r.close}, nil
}

// redisService is the Redis behind the workers.
type redisService struct {
	server *redisserver.Server // that was started for the demo, if one was
	client *redis.Client
	logs   io.Writer

	stop    context.CancelFunc
	killing sync.WaitGroup

	mu     sync.Mutex
	run    string // the server's run that was asked last
	before int64  // scripts of this run that were none of the demo's, less those of earlier runs that were
	killed string // what is to be told of that
}

func (r *redisService) connect(url string) error {
	opt, err := redis.ParseURL(url)
	if err != nil {
		return errors.New(`-redis: want a URL such as "redis://user:password@host:6379/0"`)
	}
	r.client = redis.NewClient(opt)
	if r.run, r.before, err = r.scripts(); err != nil {
		return fmt.Errorf("-redis: %w", err)
	}
	return nil
}

// calls is how many scripts Redis has run for the demo, or 0 if that is unknown.
func (r *redisService) calls() (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	run, n, err := r.scripts()
	if err == nil && run != r.run {
		fmt.Fprintln(r.logs, "demo: the calls are not counted: Redis was started again meanwhile")
		return 0, nil
	}
	return n - r.before, err
}

// killOnce kills the server, so long after the workers' first call, and starts
// it again.
func (r *redisService) killOnce(ctx context.Context, after time.Duration) {
	for begun := false; !begun; {
		if pause(ctx, tellEvery) != nil {
			return
		}
		n, err := r.calls()
		begun = err == nil && n > 0
	}
	if pause(ctx, after) != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := time.Now()
	_, n, err := r.scripts()
	r.server.Kill()
	err = errors.Join(err, r.server.Restart())
	n -= r.before
	if err == nil {
		r.run, r.before, err = r.scripts()
		r.before -= n
	}
	r.killed = fmt.Sprintf("kill -9 redis-server, which was back after %v", time.Since(at).Round(time.Millisecond))
	if err != nil {
		r.killed = fmt.Sprintf("kill -9 redis-server: %v", err)
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

// scripts is how many scripts a run of the server has run.
func (r *redisService) scripts() (run string, n int64, err error) {
	ctx := context.Background()
	about, err := r.client.Info(ctx, "server").Result()
	if err != nil {
		return "", 0, err
	}
	for line := range strings.Lines(about) {
		if id, ok := strings.CutPrefix(line, "run_id:"); ok {
			run = strings.TrimSpace(id)
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
	return run, n, nil
}

func (r *redisService) close() error {
	if r.stop != nil {
		r.stop()
		r.killing.Wait()
	}
	if r.killed != "" {
		fmt.Fprintln(r.logs, "demo:", r.killed)
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

// home is where one worker's quota comes from.
type home struct {
	store choked.Store // nil: nothing is limited

	// leader says who leads, and whether that is this worker. ok is false while
	// nobody does.
	leader func() (name string, self, ok bool)
	// ready returns nil when the worker has a part in the store, or what is
	// missing for that.
	ready func() error
	// complete reports whether the store can lose its leader and go on, as far
	// as this worker knows: such news may take a while to reach all.
	complete func() bool
}

func openStore(j job, log *slog.Logger) (home, error) {
	alone := home{
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
		store, err := httpstore.New(j.StoreURL, "")
		alone.store = store
		return alone, err
	case "redis":
		store, err := redisstore.Open(j.StoreURL, redisstore.Config{Prefix: "choked:demo:" + j.Secret[:8] + ":"})
		alone.store = store
		return alone, err
	case "cluster":
		return openCluster(j, log)
	}
	return home{}, fmt.Errorf("store %.80q: want %s", j.Store, alternatives(storeKinds))
}

func openCluster(j job, log *slog.Logger) (home, error) {
	node, err := cluster.Start(cluster.Config{Name: j.Name, Bind: j.Bind, Join: j.Join, Secret: j.Secret, Logger: log})
	if err != nil {
		return home{}, err
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
	return home{node, leader, node.Health, complete}, nil
}
