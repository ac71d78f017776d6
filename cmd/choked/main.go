// Command choked runs a rate limiter as a service, for workers that cannot be nodes
// of a cluster themselves, and prints the status of a service.
//
//	choked serve -tokens /etc/choked/tokens -tls-cert cert.pem -tls-key key.pem
//	choked status -url https://choked.internal:7980
//	choked token -file /etc/choked/tokens team-a
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

const usage = `Usage: choked <command> [flags]

  serve    run a node of the service
  status   print the status of a service; the exit status is 3 if voters are missing,
           4 if the service is not ready
  acquire  wait for quota and spend it; the exit status is 5 if it was not spent
  token    create a token

choked <command> -h prints the flags of a command. An environment variable can set a
flag, as CHOKED_TLS_CERT sets -tls-cert, and so can a line of the file that -config
names, such as "tls-cert = cert.pem". The command line overrides the environment, and
the environment overrides the file.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal kills the process
	os.Exit(run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr))
}

// exitStatus is an exit status with which a command ends that has printed its result.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// run runs the program with the given arguments, environment and outputs. It returns
// the exit status: 0, 1 for a failure, 2 for a usage error, or that of a command.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	commands := map[string]func(context.Context, *flags, []string) error{"serve": serve, "status": status, "acquire": acquire, "token": token}
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return 2
	}
	if args[0] == "-h" || args[0] == "-help" || args[0] == "--help" || args[0] == "help" {
		fmt.Fprint(stdout, usage)
		return 0
	}
	command, ok := commands[args[0]]
	if !ok {
		fmt.Fprintf(stderr, "choked: command %.40q: want serve, status, acquire or token\n", args[0])
		return 2
	}
	err := command(ctx, newFlags("choked "+args[0], getenv, stdout, stderr), args[1:])
	var wrong *usageError
	var status exitStatus
	switch {
	case errors.As(err, &status):
		return int(status)
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &wrong):
		fmt.Fprintf(stderr, "choked %s: %v\n", args[0], err)
		return 2
	}
	fmt.Fprintf(stderr, "choked %s: %v\n", args[0], err)
	return 1
}
