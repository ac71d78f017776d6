//go:build unix

package main

import (
	"syscall"
	"time"
)

// cpu returns the CPU time that this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u) //nolint:errcheck // cannot fail for the own process
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
