//go:build linux || darwin

package history

import (
	"time"

	"golang.org/x/sys/unix"
)

// Now returns nanoseconds of CLOCK_MONOTONIC, which is the same clock in all
// processes of the machine. Package time does not expose its value.
func Now() int64 {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &t); err != nil {
		return time.Now().UnixNano() // does not happen: these systems have the clock
	}
	return t.Nano()
}
