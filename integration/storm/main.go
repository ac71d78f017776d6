//go:build linux

// Command storm injects random faults into a fleet of choked workers and checks
// that the bound holds and the fleet recovers. Workers are killed, paused and
// restarted, lose their directories, or find a copy of another one's there. With the
// permission to create network namespaces they are also cut off from each other, and
// with the permission to mount file systems their disks become full.
//
//	go run ./integration/storm -for 1h -seed 1
//
// The faults follow from the seed, in rounds of six faults of some half a minute.
// After each round all faults end, and all workers must be served in time. The
// program prints a line every ten seconds and at the end a table of the faults.
//
// The exit status is 1, and all logs and records are kept, if more than
// burst + rate · window was admitted, if the granted quota is not the sum of spent,
// returned, expired and live quota, if calls fail for another reason than a missing
// quorum, or if the fleet does not recover.
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
	duration time.Duration
	seed     uint64
	workers  int
	network  bool
	disks    bool
	dir      string
	keep     bool
	drift    int
	busy     int
}

func parse(args []string, out io.Writer) (o options, err error) {
	f := flag.NewFlagSet("storm", flag.ContinueOnError)
	f.SetOutput(out)
	f.DurationVar(&o.duration, "for", 5*time.Minute, "`duration` of the run")
	f.Uint64Var(&o.seed, "seed", 1, "seed of the random faults")
	f.IntVar(&o.workers, "workers", 5, "number of workers, at least 3")
	f.BoolVar(&o.network, "network", fleet.NeedsForNetwork() == nil, "give each worker a network namespace, and inject network faults too")
	f.BoolVar(&o.disks, "disks", fleet.NeedsForMount() == nil, "give each worker a small disk, and inject full disks too")
	f.StringVar(&o.dir, "dir", "", "`directory` for logs and records, removed if the run succeeds; default: a new one")
	f.IntVar(&o.drift, "drift", 0, "`percent` by which the clocks of the workers may be fast; the checked rates are higher by as much")
	f.IntVar(&o.busy, "busy", 0, "busy `loops` in each worker, which share one processor with it")
	f.BoolVar(&o.keep, "keep", false, "keep the directory even if the run succeeds")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("argument %q: want flags only", f.Arg(0))
	case o.workers < 3:
		return o, fmt.Errorf("-workers %d: want 3 or more: with fewer, a failure leaves no majority", o.workers)
	case o.drift < 0 || o.drift > 50:
		return o, fmt.Errorf("-drift %d: want 0 to 50", o.drift)
	case o.busy < 0 || o.busy > 100:
		return o, fmt.Errorf("-busy %d: want 0 to 100", o.busy)
	case o.duration <= 0:
		return o, fmt.Errorf("-for %v: want more than 0", o.duration)
	}
	return o, nil
}

// sayWhatIsMissing names the faults that this machine does not allow. A run without
// them looks like any other.
func sayWhatIsMissing(o options, out io.Writer) {
	if err := fleet.NeedsForNetwork(); err != nil && !o.network {
		fmt.Fprintln(out, "no network faults:", err)
	}
	if err := fleet.NeedsForMount(); err != nil && !o.disks {
		fmt.Fprintln(out, "no full disks:", err)
	}
}

// run runs the program with the given arguments and returns the exit status: 0, 1
// if the fleet failed, or 2 if the flags are invalid.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(stderr, "storm:", err)
		return 2
	}
	sayWhatIsMissing(o, stdout)
	if o.dir == "" {
		if o.dir, err = os.MkdirTemp("", "choked-storm-"); err != nil {
			fmt.Fprintln(stderr, "storm:", err)
			return 1
		}
	}
	if err := runStorm(ctx, o, stdout); err != nil {
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
