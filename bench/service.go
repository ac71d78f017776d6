package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/server"
)

// service measures calls of the HTTP service's acquire endpoint, which clients without a
// library call for each admission.
func service(ctx context.Context, c *config) (tables []table, err error) {
	t := table{
		note: fmt.Sprintf("64 clients with persistent connections and a bearer token, each on its own key with quota for all calls, over loopback for %v; medians of %d runs. The clients run in the same process and use a part of the CPU.", c.runTime/2, c.repeats),
		head: []string{"store", "calls a second", "p50", "p99"},
	}
	nodes, stop, err := startNodes(ctx, 3, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, stop()) }()
	local := choked.NewLocal()
	defer local.Close()
	for _, s := range []struct {
		name  string
		store choked.Store
	}{{"in memory", local}, {"cluster of three, called at the first node", nodes[0]}} {
		var runs [][]float64
		for range c.repeats {
			took, err := acquires(ctx, s.store, 64, c.runTime/2)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.name, err)
			}
			runs = append(runs, []float64{float64(len(took)) / (c.runTime / 2).Seconds(), float64(quantile(took, 0.5)), float64(quantile(took, 0.99))})
		}
		m := medians(runs)
		t.row(s.name, fmt.Sprintf("%.0f", m[0]), time.Duration(m[1]), time.Duration(m[2]))
	}
	return []table{t}, nil
}

// acquires lets clients call a service over store for d, and returns how long each
// call took.
func acquires(ctx context.Context, store choked.Store, clients int, d time.Duration) (took []time.Duration, err error) {
	dir, err := os.MkdirTemp("", "choked-bench-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	token, hash := server.NewToken()
	file := filepath.Join(dir, "tokens")
	if err := os.WriteFile(file, []byte(hash+" bench\n"), 0o600); err != nil {
		return nil, err
	}
	tokens, err := server.OpenTokens(file, nil)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := server.New(server.Config{Store: store, Tokens: tokens})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	defer func() { err = errors.Join(err, s.Shutdown(ctx), <-served) }()

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: clients}}
	defer client.CloseIdleConnections()
	times := make([][]time.Duration, clients)
	errs := make([]error, clients)
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			url := fmt.Sprintf("http://%s/choked/acquire?key=k%d&request_capacity=1000000&request_refill_rate=1000000.0&token_capacity=1000000000&token_refill_rate=1000000000.0&requests_needed=1&tokens_needed=10", l.Addr(), i)
			times[i], errs[i] = acquireRepeatedly(ctx, client, url, token, d)
		})
	}
	wg.Wait()
	return slices.Concat(times...), errors.Join(errs...)
}

// acquireRepeatedly makes one request after the other for d, and returns how long each
// of them took.
func acquireRepeatedly(ctx context.Context, client *http.Client, url, token string, d time.Duration) (took []time.Duration, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	for end := time.Now().Add(d); ; {
		started := time.Now()
		if started.After(end) {
			return took, nil
		}
		response, err := client.Do(r)
		if err != nil {
			return took, err
		}
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return took, errors.New(response.Status)
		}
		took = append(took, time.Since(started))
	}
}
