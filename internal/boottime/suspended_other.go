//go:build !linux && !darwin

package boottime

// suspended is zero where package time's own clock goes on through a suspend,
// as on Windows, or where nothing can be asked.
func suspended() int64 { return 0 }
