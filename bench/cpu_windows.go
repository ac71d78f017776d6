package main

import (
	"syscall"
	"time"
)

// cpu returns the CPU time that this process has used.
func cpu() time.Duration {
	self, _ := syscall.GetCurrentProcess() // cannot fail: returns a constant
	var created, exited, kernel, user syscall.Filetime
	syscall.GetProcessTimes(self, &created, &exited, &kernel, &user) //nolint:errcheck // cannot fail for the own process
	return duration(kernel) + duration(user)
}

// duration converts a Filetime that holds a duration in units of 100 ns. The method
// Filetime.Nanoseconds is for points in time.
func duration(f syscall.Filetime) time.Duration {
	return time.Duration(int64(f.HighDateTime)<<32|int64(f.LowDateTime)) * 100
}
