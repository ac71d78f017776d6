//go:build linux

// Command storm does to a fleet of workers, for as long as one likes, what
// happens to workers: they are killed, paused, restarted, lose their directories, and,
// where it may make network namespaces and mount disks, are cut off from each other and
// have full disks.
//
//	go run ./integration/storm -for 1h -seed 1
//
// What comes when is decided by the seed: rounds of six faults, some half a minute
// each. After a round all is well for a while: then all workers have to be served,
// in time. It prints a line every ten seconds and in the end what came of each
// fault. It ends with status 1, and with all logs and records kept, when more was
// admitted than burst + rate · window, when the books do not balance, when calls
// fail for another reason than the want of a quorum, or when the fleet does not
// recover.
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
	"time"

	"github.com/choked/choked/integration/internal/fleet"
)

func main() {
	fleet.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

type options struct {
	span    time.Duration
	seed    uint64
	workers int
	network bool
	disks   bool
	dir     string
	keep    bool
	drift   int
	busy    int
}

func parse(args []string, out io.Writer) (o options, err error) {
	f := flag.NewFlagSet("storm", flag.ContinueOnError)
	f.SetOutput(out)
	f.DurationVar(&o.span, "for", 5*time.Minute, "how `long`")
	f.Uint64Var(&o.seed, "seed", 1, "decides what comes when")
	f.IntVar(&o.workers, "workers", 5, "how many, 3 at least")
	f.BoolVar(&o.network, "network", fleet.NeedsForNetwork() == nil, "give each worker a host of its own, and have the network fail, too")
	f.BoolVar(&o.disks, "disks", fleet.NeedsForMount() == nil, "give each worker a small disk of its own, and fill disks, too")
	f.StringVar(&o.dir, "dir", "", "where to keep logs and records; default: a new `directory`, removed when all went well")
	f.IntVar(&o.drift, "drift", 0, "by how many `percent` the clocks of the workers may be fast, and the rates with them")
	f.IntVar(&o.busy, "busy", 0, "`loops` in each worker that do nothing and never rest, beside it on its only processor")
	f.BoolVar(&o.keep, "keep", false, "keep it anyway")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("argument %q: want flags only", f.Arg(0))
	case o.workers < 3:
		return o, fmt.Errorf("-workers %d: want 3 or more: fewer are no majority when one fails", o.workers)
	case o.drift < 0 || o.drift > 50:
		return o, fmt.Errorf("-drift %d: want 0 to 50", o.drift)
	case o.busy < 0 || o.busy > 100:
		return o, fmt.Errorf("-busy %d: want 0 to 100", o.busy)
	case o.span <= 0:
		return o, fmt.Errorf("-for %v: want more than 0", o.span)
	}
	return o, nil
}

// run is the program without what only a process can have. It returns the exit
// status: 2 for flags that cannot be, 1 for a fleet that failed.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "storm:", err)
		return 2
	}
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "choked-storm-"); err != nil {
			fmt.Fprintln(stderr, "storm:", err)
			return 1
		}
	}
	if err := rage(ctx, o, stdout); err != nil {
		fmt.Fprintf(stderr, "storm: seed %d: %v\nstorm: logs and records are in %s\n", o.seed, err, o.dir)
		return 1
	}
	if o.keep {
		fmt.Fprintln(stdout, "logs and records are in", o.dir)
		return 0
	}
	os.RemoveAll(o.dir)
	return 0
}
