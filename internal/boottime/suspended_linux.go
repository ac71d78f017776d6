package boottime

import "golang.org/x/sys/unix"

// suspended returns how long the machine has been suspended since it booted, in
// nanoseconds.
func suspended() int64 { return aheadOf(reader(unix.CLOCK_MONOTONIC), reader(unix.CLOCK_BOOTTIME)) }

func reader(clock int32) func() (int64, error) {
	return func() (int64, error) {
		var ts unix.Timespec
		err := unix.ClockGettime(clock, &ts)
		return ts.Nano(), err
	}
}
