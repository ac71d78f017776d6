package redisserver

import "syscall"

// attributes has the server killed when the thread that starts it ends, and so
// when this process is; and puts it in a group of its own, so that Ctrl-C does not
// reach it: when it ends is for this process to say.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
