package boottime

import "golang.org/x/sys/unix"

// suspended is how long the machine has been suspended since it booted: on
// this system CLOCK_MONOTONIC goes on through a suspend, and CLOCK_UPTIME_RAW,
// which package time reads, does not.
func suspended() int64 {
	const uptimeRaw = 8
	var all, awake unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &all) != nil || unix.ClockGettime(uptimeRaw, &awake) != nil {
		return 0
	}
	return all.Nano() - awake.Nano()
}
