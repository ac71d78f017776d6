package redisstore

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/choked/choked"
)

// The script keeps token buckets. Another kind of rate is refused: a window that was kept
// as a bucket would admit twice its count.
func TestOtherKindsOfRateAreRefused(t *testing.T) {
	s, err := Open("redis://127.0.0.1:1", Config{})
	if !assert.NoError(t, err) {
		return
	}
	defer s.Close()
	for _, c := range []struct{ limits, want string }{
		{"requests 500/m window", "limit on requests: 500/m window is a window: want a token bucket, as in 500/m: Redis keeps token buckets only"},
		{"requests 5/s; spend $50/d reset UTC", "limit on spend: $50/d reset UTC is a calendar: want a token bucket, as in $50/m: Redis keeps token buckets only"},
	} {
		limits := choked.MustLimits(c.limits)
		_, err := s.Lease(t.Context(), choked.Ask{Key: "k", Limits: limits, Need: choked.Cost{Requests: 1}})
		assert.ErrorContains(t, err, c.want)
		assert.ErrorContains(t, s.Adjust(t.Context(), choked.Adjustment{Key: "k", Limits: limits}), c.want)
	}
}
