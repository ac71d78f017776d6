package choked

import (
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A worker may see any number of keys in its time: each user's, say.
func TestAKeyWithoutLimitersIsForgotten(t *testing.T) {
	spy := newSpy()
	choke := New(spy)
	keys := func() int {
		choke.mu.Lock()
		defer choke.mu.Unlock()
		return len(choke.pools)
	}
	kept, err := choke.Limiter("kept", MustLimits("10/s", ""), nil)
	require.NoError(t, err)
	for i := range 100 {
		l, err := choke.Limiter(fmt.Sprint(i), MustLimits("1000/m", ""), nil)
		require.NoError(t, err)
		require.NoError(t, l.Wait(t.Context(), requests(1)))
		require.NoError(t, l.Settle(time.Now(), requests(1), requests(3)))
	}
	require.Eventually(t, func() bool {
		runtime.GC()
		return keys() == 1
	}, 20*time.Second, time.Millisecond)
	spy.mu.Lock()
	assert.Len(t, spy.settled, 100, "not before the leases are back")
	assert.Len(t, spy.adjusted, 100, "nor before all that was used is charged")
	spy.mu.Unlock()

	again, err := choke.Limiter("kept", MustLimits("10/s", ""), nil)
	require.NoError(t, err)
	require.NoError(t, kept.Wait(t.Context(), requests(1)))
	assert.EqualValues(t, 1, again.Stats().Admitted, "one that is in use is not")
	runtime.KeepAlive(kept)
	require.NoError(t, choke.Close())
}
