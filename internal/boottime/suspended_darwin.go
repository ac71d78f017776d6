package boottime

import "golang.org/x/sys/unix"

// suspended returns how long the machine has been suspended since it booted, in
// nanoseconds. On this system CLOCK_MONOTONIC counts that time, and CLOCK_UPTIME_RAW,
// which package time reads, does not.
func suspended() int64 {
	const uptimeRaw = 8
	return aheadOf(reader(uptimeRaw), reader(unix.CLOCK_MONOTONIC))
}

func reader(clock int32) func() (int64, error) {
	return func() (int64, error) {
		var ts unix.Timespec
		err := unix.ClockGettime(clock, &ts)
		return ts.Nano(), err
	}
}
