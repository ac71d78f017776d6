//go:build !linux && !darwin

package history

import "time"

// Now returns nanoseconds of the wall clock, since this system has no monotonic clock
// that all processes share. Setting the clock invalidates the history.
func Now() int64 { return time.Now().UnixNano() }
