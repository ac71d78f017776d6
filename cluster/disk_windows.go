package cluster

import "syscall"

// refusals are the errors of a file system that refuses a write: ERROR_HANDLE_DISK_FULL,
// ERROR_DISK_FULL and ERROR_DISK_QUOTA_EXCEEDED.
var refusals = []error{syscall.Errno(39), syscall.Errno(112), syscall.Errno(1295)}
