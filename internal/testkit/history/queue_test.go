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

// TestQueue holds what is said of the instant of an admission against a line
// whose every move is known.
func TestQueue(t *testing.T) {
	var stats choked.Stats
	q := &Queue{Stats: func() choked.Stats { return stats }}
	stats = choked.Stats{Admitted: 7, Failed: 1, Waiting: 2}
	asked, turn := q.Join()
	assert.Equal(t, int64(10), turn, "eight have left, two are ahead")

	stats = choked.Stats{Admitted: 9, Failed: 1, Waiting: 1}
	ahead, _ := q.Join()
	assert.Equal(t, ahead, q.Since(turn, asked), "both have left: it may be its turn from then on")

	stats = choked.Stats{Admitted: 9, Failed: 1, Waiting: 3}
	later, _ := q.Join()
	assert.Equal(t, later, q.Since(turn, asked), "it was not yet, if nobody has left since")

	stats = choked.Stats{Admitted: 10, Failed: 1, Waiting: 2}
	q.Join()
	assert.Equal(t, later, q.Since(turn, asked), "it has left by now, so it was before")
	assert.Equal(t, int64(1), q.Since(3, 1), "of a turn before all that was seen nothing is known but the ask")
}

// What Queue takes for granted of a limiter: a caller's wait ends after all who
// stood before it have left the line.
func TestALimiterServesInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := choked.NewLocal()
		defer store.Close()
		choke := choked.New(store)
		defer choke.Close()
		l, err := choke.Limiter("k", choked.MustLimits("50/s", ""), nil)
		require.NoError(t, err)
		q := &Queue{Stats: l.Stats}
		ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
		defer stop()
		done := make(chan struct{})
		for range 8 {
			go func() {
				defer func() { done <- struct{}{} }()
				for ctx.Err() == nil {
					_, turn := q.Join()
					if l.Wait(ctx, choked.Cost{Requests: 1}) != nil {
						return
					}
					s := l.Stats()
					left := s.Admitted + s.Failed + s.Refused + s.FailedOpen
					assert.Greater(t, left, turn, "when a caller is admitted, more than its turn have left")
					time.Sleep(time.Millisecond)
				}
			}()
		}
		for range 8 {
			<-done
		}
	})
}
