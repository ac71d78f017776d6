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

// asService is the value of workerEnv in the process that is the service of
// -store http. It says its URL on its standard output, and ends with its input.
const asService = "service"

// child is the life of a process that this program started from itself.
func child() int {
	// A signal may reach all processes of a group, as Ctrl-C does those of a
	// terminal. The one that started this one decides what it means.
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	if os.Getenv(workerEnv) != asService {
		return work(os.Stdin, os.Stdout, os.Stderr)
	}
	if err := provideService(os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "service:", err)
		return 1
	}
	return 0
}

// provideService is what `choked serve` does, for one node alone.
func provideService(in io.Reader, out, logs io.Writer) error {
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
	ctx, cancel := context.WithTimeout(context.Background(), endWithin)
	defer cancel()
	return errors.Join(s.Shutdown(ctx), <-served)
}

// startServer starts the service and returns its URL.
func startServer(logs io.Writer, verbose bool) (url string, stop func() error, err error) {
	program, err := os.Executable()
	if err != nil {
		return "", nil, err
	}
	cmd := exec.Command(program, asService)
	cmd.Env = append(os.Environ(), workerEnv+"="+asService)
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
		late := time.AfterFunc(endWithin, func() { cmd.Process.Kill() })
		defer late.Stop()
		return cmd.Wait()
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("the service says no URL: %w", err), stop())
	}
	return strings.TrimSpace(line), stop, nil
}
