//go:build unix

package cluster

import "syscall"

// refusals are the errors of a file system that refuses a write.
var refusals = []error{syscall.ENOSPC, syscall.EDQUOT, syscall.EROFS}
