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
	return span(kernel) + span(user)
}

// span converts a Filetime that holds a duration, in units of 100 ns. Its method
// Nanoseconds would convert an instant.
func span(f syscall.Filetime) time.Duration {
	return time.Duration(int64(f.HighDateTime)<<32|int64(f.LowDateTime)) * 100
}
