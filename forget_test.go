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
	kept, err := choke.Limiter("kept", MustLimits("requests 10/s"), nil)
	require.NoError(t, err)
	for i := range 100 {
		l, err := choke.Limiter(fmt.Sprint(i), MustLimits("requests 1000/m"), nil)
		require.NoError(t, err)
		r, err := l.Reserve(t.Context(), requests(1))
		require.NoError(t, err)
		require.NoError(t, r.Settle(requests(3)))
	}
	require.Eventually(t, func() bool {
		runtime.GC()
		spy.mu.Lock()
		defer spy.mu.Unlock()
		return keys() == 1 && len(spy.settled) == 100 && len(spy.adjusted) == 100
	}, 20*time.Second, time.Millisecond, "their leases are returned, and all that was used is charged")

	again, err := choke.Limiter("kept", MustLimits("requests 10/s"), nil)
	require.NoError(t, err)
	require.NoError(t, kept.Wait(t.Context(), requests(1)))
	assert.EqualValues(t, 1, again.Stats().Admitted, "one that is in use is not")
	runtime.KeepAlive(kept)
	require.NoError(t, choke.Close())
}
