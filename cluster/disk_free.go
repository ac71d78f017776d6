//go:build linux || darwin

package cluster

import "syscall"

// freeBytes returns how many bytes this process can still write to the file system of
// a directory, and whether that is known.
func freeBytes(dir string) (n uint64, known bool) {
	var s syscall.Statfs_t
	if syscall.Statfs(dir, &s) != nil {
		return 0, false
	}
	return s.Bavail * uint64(s.Bsize), true
}
