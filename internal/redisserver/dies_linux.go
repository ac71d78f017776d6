package redisserver

import "syscall"

// diesWithUs has the server killed when the thread that starts it ends, and so
// when this process is.
func diesWithUs() *syscall.SysProcAttr { return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL} }
