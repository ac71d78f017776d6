package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/choked/choked/cluster"
	"github.com/choked/choked/server"
)

// serviceArg is the value of workerEnv in the process of the HTTP service for
// -store http. The process prints its URL and exits at the end of its input.
const serviceArg = "service"

// child runs a child process of the demo and returns its exit status.
func child() int {
	// Ctrl-C in a terminal signals all processes of a group. Only the parent reacts;
	// it ends this process by closing its input.
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	if os.Getenv(workerEnv) != serviceArg {
		return work(os.Stdin, os.Stdout, os.Stderr)
	}
	if err := runService(os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "service:", err)
		return 1
	}
	return 0
}

// runService serves a cluster of one node over HTTP, as `choked serve` does.
func runService(in io.Reader, out, logs io.Writer) error {
	log := slog.New(slog.NewTextHandler(logs, nil))
	node, err := cluster.Start(cluster.Config{Name: "service", Bind: "127.0.0.1:0", Voters: 1, Logger: log})
	if err != nil {
		return err
	}
	defer node.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	s := server.New(server.Config{Store: node, Ready: node.Health, Logger: log})
	served := make(chan error, 1)
	go func() { served <- s.Serve(l) }() // ends with Shutdown
	fmt.Fprintf(out, "http://%s\n", l.Addr())
	io.Copy(io.Discard, in)
	ctx, cancel := context.WithTimeout(context.Background(), exitTimeout)
	defer cancel()
	return errors.Join(s.Shutdown(ctx), <-served)
}

// startHTTPService starts the service in a process of its own and returns its URL.
func startHTTPService(logs io.Writer, verbose bool) (url string, stop func() error, err error) {
	program, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.Command(program, serviceArg)
	cmd.Env = append(os.Environ(), workerEnv+"="+serviceArg)
	if verbose {
		cmd.Stderr = logs
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", nil, err
	}
	if err := cmd.Start(); err != nil {
		return "", nil, err
	}
	stop = func() error {
		in.Close()
		killTimer := time.AfterFunc(exitTimeout, func() { cmd.Process.Kill() })
		defer killTimer.Stop()
		return cmd.Wait()
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("service: read URL: %w", err), stop())
	}
	return strings.TrimSpace(line), stop, nil
}
