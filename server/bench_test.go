package server_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
	"github.com/choked/choked/cluster"
	"github.com/choked/choked/httpstore"
	"github.com/choked/choked/server"
)

// serve serves store over loopback, to one token, until the benchmark ends.
func serve(b *testing.B, store choked.Store) (url, token string) {
	token, hash := server.NewToken()
	file := filepath.Join(b.TempDir(), "tokens")
	require.NoError(b, os.WriteFile(file, []byte(hash+" a\n"), 0o600))
	tokens, err := server.OpenTokens(file, nil)
	require.NoError(b, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	s := server.New(server.Config{Store: store, Tokens: tokens})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }()
	b.Cleanup(func() {
		s.Shutdown(b.Context())
		<-served
		store.Close()
	})
	return "http://" + l.Addr().String(), token
}

func stores(b *testing.B, f func(b *testing.B, store choked.Store)) {
	b.Run("memory", func(b *testing.B) { f(b, choked.NewLocal()) })
	b.Run("cluster", func(b *testing.B) {
		node, err := cluster.Start(cluster.Config{Bind: "127.0.0.1:0", Voters: 1})
		require.NoError(b, err)
		f(b, node)
	})
}

// BenchmarkAcquire measures acquires of plain clients with keep-alive over loopback,
// with enough quota for all. The clients use a part of the CPU.
func BenchmarkAcquire(b *testing.B) {
	stores(b, func(b *testing.B, store choked.Store) {
		url, token := serve(b, store)
		client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1000}}
		defer client.CloseIdleConnections()
		var key atomic.Int64
		b.SetParallelism(32)
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			r, err := http.NewRequest("GET", url+fmt.Sprintf("/choked/acquire?key=k%d&request_capacity=1000000&request_refill_rate=1000000.0&token_capacity=1000000000&token_refill_rate=1000000000.0&requests_needed=1&tokens_needed=10", key.Add(1)), nil)
			require.NoError(b, err)
			r.Header.Set("Authorization", "Bearer "+token)
			for pb.Next() {
				response, err := client.Do(r)
				if err != nil {
					b.Error(err)
					return
				}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
				if response.StatusCode != 200 {
					b.Error(response.Status)
				}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	})
}

// BenchmarkLease measures leases by package httpstore. Each settles the one before.
func BenchmarkLease(b *testing.B) {
	stores(b, func(b *testing.B, store choked.Store) {
		url, token := serve(b, store)
		p, err := httpstore.Open(httpstore.Config{URL: url, Token: token})
		require.NoError(b, err)
		defer p.Close()
		limits := choked.MustLimits("requests 1000000/s; tokens 1000000000/s")
		var holder atomic.Uint64
		b.SetParallelism(32)
		b.ReportAllocs()
		b.ResetTimer()
		b.RunParallel(func(pb *testing.PB) {
			id := bucket.LeaseID{Holder: holder.Add(1)}
			key := id.String()
			var done []choked.Settlement
			for pb.Next() {
				id.Seq++
				l, err := p.Lease(b.Context(), choked.Ask{Key: key, ID: id, Limits: limits, Defined: 1,
					Want: choked.Cost{Requests: 10, Tokens: 100}, Done: done})
				if err != nil || !l.OK {
					b.Errorf("%+v, %v", l, err)
					return
				}
				done = []choked.Settlement{{Key: key, ID: id, Spent: l.Granted}}
			}
		})
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "leases/s")
	})
}
