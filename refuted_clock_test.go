package choked

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/internal/boottime"
)

// The promise is over every window of time, with clocks that run up to 1% too
// fast. That goes for the clock of the one who decides, too.
func TestADecidingClockThatRunsFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := NewLocal()
		defer store.Close()
		store.clock = boottime.Distorted(func(ns int64) int64 { return ns + ns*9/1000 })
		c := New(store)
		defer c.Close()
		l, err := c.Limiter("k", MustLimits("50/s", ""), nil)
		require.NoError(t, err)
		start := time.Now()
		var adm []admission
		for time.Since(start) < 5*time.Minute {
			require.NoError(t, l.Wait(t.Context(), requests(1)))
			adm = append(adm, admission{at: time.Since(start), cost: requests(1)})
		}
		assert.LessOrEqual(t, excess(adm, l.Limits().Requests[0], func(c Cost) int64 { return c.Requests }), 1e-6)
	})
}
