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

// server is the real one that tests share, unless there is one at CHOKED_REDIS.
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

// installed skips the test where there is no Redis to start, unless there has
// to be one.
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

// A store far away, on a busy machine, may answer late.
const slack = 250 * time.Millisecond

// inLine looks at who stands in line. Where Redis cannot be asked, nobody is seen.
func inLine(client *redis.Client) func(key string, id bucket.LeaseID) bool {
	return func(key string, id bucket.LeaseID) bool {
		line := client.HGet(context.Background(), "choked:"+key, "q").Val()
		return strings.Contains(line, "\n"+id.String()+" ")
	}
}

func TestStoreOnRedis(t *testing.T) {
	t.Parallel()
	url := realServer(t)
	opt, err := redis.ParseURL(url)
	require.NoError(t, err)
	client := redis.NewClient(opt)
	t.Cleanup(func() { client.Close() })
	t.Run("law", func(t *testing.T) { // ends before the client does
		storetest.Test(t, storetest.Harness{
			Open:   func(t *testing.T) storetest.Store { return open(t, url) },
			InLine: inLine(client),
			Slack:  slack,
		})
	})
}

func TestStoreOnMiniredis(t *testing.T) {
	t.Parallel()
	mini := miniredis.RunT(t)
	client := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	t.Cleanup(func() { client.Close() })
	t.Run("law", func(t *testing.T) { // ends before the server does
		storetest.Test(t, storetest.Harness{
			Open:   func(t *testing.T) storetest.Store { return redisstore.New(client, redisstore.Config{}) },
			InLine: inLine(client),
			Slack:  slack,
		})
	})
}
