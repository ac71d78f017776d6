// Package redisserver starts a private Redis server, for tests and benchmarks.
package redisserver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/choked/choked/internal/testkit/ports"
)

// ErrNotInstalled means that no Redis server is installed.
var ErrNotInstalled = errors.New("neither redis-server nor valkey-server is installed: install one (apt install redis-server, brew install redis), or give the URL of a running server")

// Server is a Redis server on a loopback port. Its data is in memory only, unless
// options change that. On Linux it ends with the process that started it.
type Server struct {
	Addr string // host:port

	dir  string   // removed by Stop
	args []string // of the command
	cmd  *exec.Cmd
	out  *strings.Builder // standard output and error
	exit chan struct{}    // closed when the process has ended
}

// Start starts a server with the given options after its own, and returns when the
// server answers. [Server.Stop] removes its files.
func Start(options ...string) (*Server, error) {
	return launch(func(dir, port string) ([]string, error) {
		return append([]string{"--port", port, "--bind", "127.0.0.1", "--dir", dir, "--save", "", "--daemonize", "no"}, options...), nil
	})
}

// StartSentinel starts a sentinel with the only vote over the server at address
// master, which it monitors under name. It declares a server dead that does not answer
// for half a second.
func StartSentinel(name, master string) (*Server, error) {
	host, port, err := net.SplitHostPort(master)
	if err != nil {
		return nil, err
	}
	return launch(func(dir, own string) ([]string, error) {
		file := filepath.Join(dir, "sentinel.conf") // rewritten by the sentinel
		return []string{file, "--sentinel"}, os.WriteFile(file, fmt.Appendf(nil, `
port %[2]s
bind 127.0.0.1
dir %[3]s
sentinel monitor %[1]s %[4]s %[5]s 1
sentinel down-after-milliseconds %[1]s 500
sentinel failover-timeout %[1]s 3000
`, name, own, dir, host, port), 0o600)
	})
}

// launch starts a server in a new directory on a free port. args returns the arguments
// of its command.
func launch(args func(dir, port string) ([]string, error)) (*Server, error) {
	path, err := find()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "choked-redis-")
	if err != nil {
		return nil, err
	}
	for range 5 { // another process may take the port that was free
		addrs, e := ports.Free(1)
		if e != nil {
			err = e
			break
		}
		s := &Server{Addr: addrs[0], dir: dir}
		_, port, _ := net.SplitHostPort(s.Addr)
		own, e := args(dir, port)
		if e != nil {
			err = e
			break
		}
		s.args = append([]string{path}, own...)
		if err = s.Restart(); err == nil {
			return s, nil
		}
	}
	os.RemoveAll(dir)
	return nil, err
}

func find() (string, error) {
	for _, name := range []string{"redis-server", "valkey-server"} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", ErrNotInstalled
}

// URL returns the address of the server for clients.
func (s *Server) URL() string { return "redis://" + s.Addr + "/0" }

// Restart starts the server again on its port, after [Server.Kill].
func (s *Server) Restart() error {
	s.cmd, s.out, s.exit = exec.Command(s.args[0], s.args[1:]...), new(strings.Builder), make(chan struct{})
	s.cmd.Stdout, s.cmd.Stderr, s.cmd.SysProcAttr = s.out, s.out, attributes()
	cmd, exit, started := s.cmd, s.exit, make(chan error)
	go func() { // ends with the server
		runtime.LockOSThread() // Pdeathsig acts when this thread ends
		err := cmd.Start()
		if started <- err; err == nil {
			cmd.Wait() //nolint:errcheck // Kill makes it fail
			close(exit)
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	client := redis.NewClient(&redis.Options{Addr: s.Addr, MaxRetries: -1})
	defer client.Close()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := client.Ping(context.Background()).Err()
		if err == nil {
			return nil
		}
		select {
		case <-s.exit:
			return fmt.Errorf("%s ended: %.2000s", s.args[0], s.out)
		default:
		}
		if time.Now().After(end) {
			s.Kill()
			return fmt.Errorf("%s at %s does not answer: %w", s.args[0], s.Addr, err)
		}
	}
}

// Kill ends the server as a crash would, and returns when its process has ended.
func (s *Server) Kill() {
	s.cmd.Process.Kill() //nolint:errcheck // it may have ended already
	<-s.exit
}

// Pid returns the process id of the server.
func (s *Server) Pid() int { return s.cmd.Process.Pid }

// Stop ends the server and removes its files.
func (s *Server) Stop() error {
	s.Kill()
	return os.RemoveAll(s.dir)
}
