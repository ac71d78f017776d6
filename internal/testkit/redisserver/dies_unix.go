//go:build unix && !linux

package redisserver

import "syscall"

// attributes puts the server in a group of its own, so that Ctrl-C does not reach
// it: when it ends is for this process to say.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
