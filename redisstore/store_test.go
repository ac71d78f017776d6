package redisstore_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/testkit/redisserver"
	"github.com/choked/choked/redisstore"
	"github.com/choked/choked/storetest"
)

// server is the real server that tests share, unless CHOKED_REDIS names one.
var server = sync.OnceValues(func() (*redisserver.Server, error) {
	s, err := redisserver.Start()
	if err == nil {
		stop = s.Stop
	}
	return s, err
})

var stop = func() error { return nil }

func TestMain(m *testing.M) {
	code := m.Run()
	stop()
	os.Exit(code)
}

// installed skips the test if Redis is not installed, or fails it if
// CHOKED_REQUIRE_ALL is set.
func installed(t *testing.T, err error) {
	t.Helper()
	if err != nil && os.Getenv("CHOKED_REQUIRE_ALL") == "" {
		t.Skip(err)
	}
	require.NoError(t, err)
}

// realServer returns the URL of a real server.
func realServer(t *testing.T) string {
	t.Helper()
	if url := os.Getenv("CHOKED_REDIS"); url != "" {
		return url
	}
	s, err := server()
	installed(t, err)
	return s.URL()
}

func open(t *testing.T, url string) *redisstore.Store {
	t.Helper()
	s, err := redisstore.Open(url, redisstore.Config{})
	require.NoError(t, err)
	return s
}

// slack is how late a store may answer over a network, on a busy machine.
const slack = 250 * time.Millisecond

// queued reports whether an ask is in the queue of its key. If Redis cannot be asked,
// it is not.
func queued(client *redis.Client) func(key string, id bucket.LeaseID) bool {
	return func(key string, id bucket.LeaseID) bool {
		queue := client.HGet(context.Background(), "choked:"+key, "q").Val()
		return strings.Contains(queue, "\n"+id.String()+" ")
	}
}

func TestStoreOnRedis(t *testing.T) {
	t.Parallel()
	url := realServer(t)
	opt, err := redis.ParseURL(url)
	require.NoError(t, err)
	client := redis.NewClient(opt)
	t.Cleanup(func() { client.Close() })
	t.Run("rules", func(t *testing.T) { // ends before the client is closed
		storetest.Test(t, storetest.Harness{
			Open: func(t *testing.T) storetest.Store { return open(t, url) },
			Unavailable: func(t *testing.T) (storetest.Store, string) {
				s, err := redisstore.Open("redis://127.0.0.1:1", redisstore.Config{Timeout: 100 * time.Millisecond})
				require.NoError(t, err)
				return s, "connection refused"
			},
			Queued: queued(client),
			Slack:  slack,
		})
	})
}

func TestStoreOnMiniredis(t *testing.T) {
	t.Parallel()
	mini := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	t.Cleanup(func() { client.Close() })
	t.Run("rules", func(t *testing.T) { // ends before the server is stopped
		storetest.Test(t, storetest.Harness{
			Open: func(t *testing.T) storetest.Store { return redisstore.New(client, redisstore.Config{}) },
			Unavailable: func(t *testing.T) (storetest.Store, string) {
				loading := miniredis.RunT(t)
				loading.SetError("LOADING Redis is loading the dataset in memory")
				client := redis.NewClient(&redis.Options{Addr: loading.Addr()})
				t.Cleanup(func() { client.Close() })
				return redisstore.New(client, redisstore.Config{Timeout: time.Second}), "LOADING"
			},
			Queued: queued(client),
			Slack:  slack,
		})
	})
}
