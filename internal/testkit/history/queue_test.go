package history

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
)

// TestQueue compares the estimates of a Queue with a known history of a limiter's
// queue.
func TestQueue(t *testing.T) {
	var stats choked.Stats
	q := &Queue{Stats: func() choked.Stats { return stats }}
	stats = choked.Stats{Admitted: 7, Failed: 1, Waiting: 2}
	asked, position := q.Join()
	assert.Equal(t, int64(10), position, "eight have left, two are ahead")

	stats = choked.Stats{Admitted: 9, Failed: 1, Waiting: 1}
	ahead, _ := q.Join()
	assert.Equal(t, ahead, q.Since(position, asked), "both have left: it may be admitted from then on")

	stats = choked.Stats{Admitted: 9, Failed: 1, Waiting: 3}
	later, _ := q.Join()
	assert.Equal(t, later, q.Since(position, asked), "no caller has left since: it still waits")

	stats = choked.Stats{Admitted: 10, Failed: 1, Waiting: 2}
	q.Join()
	assert.Equal(t, later, q.Since(position, asked), "it has left by now: it was admitted before")
	assert.Equal(t, int64(1), q.Since(3, 1), "the position is older than all observations: only the ask is known")
}

// Queue relies on the order of a limiter: the wait of a caller ends after all callers
// ahead of it have left the queue.
func TestLimiterServesInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := choked.NewLocal()
		defer store.Close()
		choke := choked.New(store)
		defer choke.Close()
		l, err := choke.Limiter("k", choked.MustLimits("requests 50/s"), nil)
		require.NoError(t, err)
		q := &Queue{Stats: l.Stats}
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		done := make(chan struct{})
		for range 8 {
			go func() {
				defer func() { done <- struct{}{} }()
				for ctx.Err() == nil {
					_, position := q.Join()
					if l.Wait(ctx, choked.Cost{Requests: 1}) != nil {
						return
					}
					s := l.Stats()
					left := s.Admitted + s.Failed + s.Refused + s.FailedOpen
					assert.Greater(t, left, position, "more callers than its position have left when a caller is admitted")
					time.Sleep(time.Millisecond)
				}
			}()
		}
		for range 8 {
			<-done
		}
	})
}
