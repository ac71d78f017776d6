// Command bench compares choked with other rate limiters, all in one run on one
// machine, and writes RESULTS.md and a plot of how costs grow.
//
//	make bench                       # everything: some 40 minutes
//	cd bench && go run .             # the same
//	cd bench && go run . -only local # one part of it: see -h
//
// Figures of nanoseconds are medians of several rounds; in each round the
// contestants run one after the other. A missed goal is an error unless the run
// shows the reason. A part that fails is an error too, but the other parts still
// run. The program is a module of its own, so that choked does not depend on the
// contestants.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/sirupsen/logrus"
)

// part is one chapter of the results.
type part struct {
	name  string
	title string
	run   func(ctx context.Context, c *config) (tables []table, err error)
}

// config holds the settings and results that the parts share.
type config struct {
	rounds  int           // of measurements in nanoseconds
	repeats int           // of longer runs, of which the median is reported
	runTime time.Duration // run time of a contestant when accuracy is measured
	workers int           // largest number of workers that are no members, in this process
	members int           // largest number of members, in this process
	faults  int           // number of leaders killed, and of leaders that leave
	plot    string        // file of the plot; empty: none

	goals    goals
	excesses []float64 // proved excess over the bound, in units, of each race of choked
}

// noteExcess notes the proved excess of races of choked.
func (c *config) noteExcess(excesses ...float64) { c.excesses = append(c.excesses, excesses...) }

var parts = []part{
	// These run first, before other parts leave garbage on the heap.
	{"idle", "A cluster without work", idle},
	{"state", "1,000,000 live keys", state},

	{"local", "One call in one process", local},
	{"shared", "Three nodes, one key: speed and accuracy", shared},
	{"use", "Use of the limit", use},
	{"fairness", "Eight workers that share a small limit", fairness},
	{"exchange", "Shared resources of an admission", exchange},
	{"growth", "How cost grows", growth},
	{"first", "The first admission under a key, three nodes that write to disk", first},
	{"leader", "The leader is killed, or leaves", leader},
	{"many", "Many keys, many workers", many},
	{"service", "The service over HTTP", service},
}

func main() {
	runAsNode() // does not return in a child process
	testing.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// run runs the parts that the arguments name, prints their results to out and writes
// them to a file. It returns an error if a part failed or a goal was missed.
func run(ctx context.Context, args []string, out io.Writer) error {
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := fs.String("only", "", "`parts` to run, separated by commas: "+strings.Join(partNames(), ", "))
	file := fs.String("o", "RESULTS.md", "`file` to write the results to; not written with -only, unless this is set")
	c := &config{}
	fs.StringVar(&c.plot, "plot", "../docs/growth.svg", "`file` to draw the plot of growth to, as SVG; not drawn with -only, unless this is set")
	fs.IntVar(&c.rounds, "rounds", 7, "rounds of measurements in nanoseconds")
	fs.IntVar(&c.repeats, "repeats", 3, "repeats of longer runs, of which the median is reported")
	fs.DurationVar(&c.runTime, "for", 10*time.Second, "run `time` of a contestant when accuracy is measured")
	fs.IntVar(&c.workers, "workers", 1000, "largest number of workers that are no members, in this process")
	fs.IntVar(&c.members, "members", 270, "largest number of members, in this process")
	fs.IntVar(&c.faults, "faults", 20, "number of leaders killed, and of leaders that leave")
	profile := fs.String("cpuprofile", "", "`file` to write a CPU profile of this process to, for go tool pprof")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	wanted := parts
	if *only != "" {
		var err error
		if wanted, err = selectParts(*only); err != nil {
			return err
		}
		if !flagSet(fs, "o") {
			*file = ""
		}
		if !flagSet(fs, "plot") {
			c.plot = ""
		}
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	flag.Set("test.benchtime", "100ms") //nolint:errcheck // a valid value
	slog.SetDefault(slog.New(slog.DiscardHandler))
	logrus.SetOutput(io.Discard) // the logger of gubernator
	redis.SetLogger(silent{})

	head := fmt.Sprintf("# Results\n\n%s\n", machine(ctx))
	fmt.Fprint(out, head)
	var body strings.Builder
	failed := c.runParts(ctx, wanted, io.MultiWriter(out, &body))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if len(c.excesses) > 0 {
		worst := slices.Max(c.excesses)
		c.goals.add("excess over the bound, any window", "0", fmt.Sprintf("%.1f units", worst), worst <= 0, "")
	}
	fmt.Fprintf(out, "\n## %s\n", goalsTitle)
	summary := c.goals.table()
	summary.write(out)
	if *file != "" {
		var text strings.Builder
		fmt.Fprintf(&text, "%s\n## %s\n", head, goalsTitle)
		summary.write(&text)
		text.WriteString(body.String())
		if err := os.WriteFile(*file, []byte(text.String()), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(failed, c.goals.err())
}

// runParts runs the parts and writes their tables to out. A part that fails does not
// keep the others from running; the end of ctx does.
func (c *config) runParts(ctx context.Context, wanted []part, out io.Writer) (failed error) {
	for _, p := range wanted {
		fmt.Fprintf(out, "\n## %s\n\n`go run . -only %s`\n", p.title, p.name)
		tables, err := p.run(ctx, c)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", p.name, err))
			firstLine, _, _ := strings.Cut(err.Error(), "\n")
			fmt.Fprintf(out, "\nFailed: %s\n", firstLine)
		}
		for _, t := range tables {
			t.write(out)
		}
	}
	return failed
}

func partNames() (names []string) {
	for _, p := range parts {
		names = append(names, p.name)
	}
	return names
}

// selectParts returns the parts with the given names, which are separated by commas.
func selectParts(only string) (wanted []part, err error) {
	names := partNames()
	for name := range strings.SplitSeq(only, ",") {
		i := slices.Index(names, name)
		if i < 0 {
			return nil, fmt.Errorf("-only %q: want parts among %s", name, strings.Join(names, ", "))
		}
		wanted = append(wanted, parts[i])
	}
	return wanted, nil
}

func flagSet(fs *flag.FlagSet, name string) (set bool) {
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// silent drops the log of the Redis client about servers that have been stopped.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}
