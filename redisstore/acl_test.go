package redisstore_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
)

// A user with the rights that the package documentation lists can do everything, and
// a user without the last of them cannot.
func TestAccessControlLists(t *testing.T) {
	t.Parallel()
	server, client := ownServer(t)
	limits := choked.MustLimits("requests 10/s")
	use := func(t *testing.T, user string) error {
		url := strings.Replace(server.URL(), "redis://", "redis://"+user+":secret@", 1)
		s := openOn(t, url, time.Minute)
		require.NoError(t, client.ScriptFlush(t.Context()).Err())
		a := ask("k", limits, 10, 0)
		if _, err := s.Lease(t.Context(), a); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := s.Lease(ctx, ask("k", limits, 5, time.Minute))
			left <- err
		}()
		require.Eventually(t, func() bool { return client.HExists(t.Context(), "choked:k", "q").Val() }, 20*time.Second, time.Millisecond)
		cancel()
		require.ErrorIs(t, <-left, context.Canceled)
		require.Eventually(t, func() bool { return !client.HExists(t.Context(), "choked:k", "q").Val() }, 20*time.Second, time.Millisecond)
		if err := s.Settle(t.Context(), []choked.Settlement{{Key: "k", ID: a.ID}}); err != nil {
			return err
		}
		if err := s.Adjust(t.Context(), choked.Adjustment{Key: "k", Limits: limits, Charge: bucket.Cost{Requests: 1}}); err != nil {
			return err
		}
		require.NoError(t, client.Del(t.Context(), "choked:k").Err())
		return s.Close()
	}
	for name, rights := range map[string]string{
		"categories": "~choked:* +@read +@write +@scripting +time",
		"commands":   "~choked:* +eval +evalsha +time +hget +hmget +hgetall +hset +hdel +hincrby +pexpireat",
	} {
		words := strings.Fields(rights)
		setUser := func(words []string) {
			args := []any{"ACL", "SETUSER", name, "reset", "on", ">secret"}
			for _, w := range words {
				args = append(args, w)
			}
			require.NoError(t, client.Do(t.Context(), args...).Err())
		}
		setUser(words)
		require.NoError(t, use(t, name), name)
		setUser(words[:len(words)-1])
		assert.ErrorContains(t, use(t, name), "can't run this command", name)
	}
}
