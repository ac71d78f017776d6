//go:build unix && !linux

package redisserver

import "syscall"

// attributes puts the server into its own process group, so that Ctrl-C reaches only
// this process, which then stops the server.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
