// Command demo shows choked at work on one machine: workers in processes of
// their own share the limits of one provider account, which is faked and
// counts for itself. Halfway, the worker that leads is killed.
//
//	go run ./cmd/demo
//	go run ./cmd/demo -store none     # the same without choked
//	go run ./cmd/demo -h
//
// It prints a line a second, and in the end what was admitted, what the
// provider refused, by how much the limits were exceeded at worst, how much of
// them was used, and what the workers have learnt about their estimates.
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

// workerEnv is set in the processes that this program starts from itself.
const workerEnv = "CHOKED_DEMO_WORKER"

func main() {
	if os.Getenv(workerEnv) != "" {
		os.Exit(child())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the program without what only a process can have. It returns the exit
// status: 2 for flags that cannot be, 1 for a demonstration that failed.
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
		table = stderr // so that standard output is the object and nothing else
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
