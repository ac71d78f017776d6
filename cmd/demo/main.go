// Command demo demonstrates choked on one machine: several worker processes
// share the limits of one account at a fake LLM provider.
//
// The provider enforces the limits with its own code, so that its count does not
// depend on choked. Halfway through the run the demo kills the worker that is
// the cluster's leader and starts it again a second later.
//
//	go run ./cmd/demo
//	go run ./cmd/demo -store none     # the same without choked
//	go run ./cmd/demo -h
//
// The demo prints a line a second, then a summary: the calls that choked
// admitted, the calls that the provider refused, the worst excess over the
// limits, the used share of the limits, and the factors by which the workers
// corrected their token estimates.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// workerEnv is the environment variable that is set in the child processes,
// which run this same program.
const workerEnv = "CHOKED_DEMO_WORKER"

func main() {
	if os.Getenv(workerEnv) != "" {
		os.Exit(child())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the demo with the given arguments and returns the exit status: 0, 1
// if the demo failed, or 2 if the flags are invalid.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parseFlags(args, stdout)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "demo:", err)
		return 2
	}
	table := stdout
	if o.json {
		table = stderr // standard output is for the JSON object alone
	}
	sum, err := show(ctx, o, table, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "demo:", err)
		return 1
	}
	sum.print(table)
	if o.json {
		if err := json.NewEncoder(stdout).Encode(sum); err != nil {
			fmt.Fprintln(stderr, "demo:", err)
			return 1
		}
	}
	if sum.Crashes > 0 {
		return 1
	}
	return 0
}
