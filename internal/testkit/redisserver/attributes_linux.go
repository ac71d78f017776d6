package redisserver

import "syscall"

// attributes makes the kernel kill the server when the thread that started it ends,
// and so when this process ends. It also puts the server into its own process group,
// so that Ctrl-C reaches only this process, which then stops the server.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}
