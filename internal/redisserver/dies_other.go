//go:build !linux

package redisserver

import "syscall"

func diesWithUs() *syscall.SysProcAttr { return nil }
