//go:build !linux && !darwin

package boottime

// suspended returns zero: either the clock of package time counts the time of a
// suspend, as on Windows, or the system does not report it.
func suspended() int64 { return 0 }
