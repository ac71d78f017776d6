// Command bench measures choked beside other rate limiters, all in one run on
// one machine, and writes RESULTS.md and the picture of growth.
//
//	make bench                       # everything: some 40 minutes
//	cd bench && go run .             # the same
//	cd bench && go run . -only local # one part of it: see -h
//
// What takes nanoseconds is measured in rounds, the contestants in turn, and
// told as the median of the rounds. What misses what it should reach is an
// error, unless the run has shown why; so is a part that fails, but the others
// are measured all the same. It is a module of its own, so that nobody
// who uses choked gets the contestants too.
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

type part struct {
	name  string
	title string
	run   func(ctx context.Context, c *config) (tables []table, err error)
}

// config is what the parts share.
type config struct {
	rounds  int           // of what takes nanoseconds
	repeats int           // of what runs for a while: told is the median
	seconds time.Duration // that a contestant runs for accuracy
	workers int           // at most, in this process, that are no members
	members int           // at most, in this process
	faults  int           // kills of a leader, and as many leaves
	plot    string        // file of the picture; none: not drawn

	goals goals
	overs []float64 // excess over a bound that was proved, in each race of choked
}

// bound notes by how much choked went over a bound.
func (c *config) bound(overs ...float64) { c.overs = append(c.overs, overs...) }

var parts = []part{
	// Before others leave a heap to be collected:
	{"idle", "A cluster without work", idle},
	{"state", "1,000,000 live keys", state},

	{"local", "One call in one process", local},
	{"shared", "Three nodes, one key: speed and accuracy", shared},
	{"use", "The limit is used", use},
	{"fairness", "Eight workers that share a small limit", fairness},
	{"exchange", "What is shared for an admission", exchange},
	{"growth", "How cost grows", growth},
	{"first", "The first admission under a key, three nodes that write to disk", first},
	{"leader", "The leader is killed, or leaves", leader},
	{"many", "Many keys, many workers", many},
	{"service", "The service over HTTP", service},
}

func main() {
	beNode() // if that is what this process was started for
	testing.Init()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	only := fs.String("only", "", "`parts` to run, separated by commas: "+strings.Join(names, ", "))
	file := fs.String("o", "RESULTS.md", "`file` to write; nothing is written with -only, unless this is set")
	c := &config{}
	fs.StringVar(&c.plot, "plot", "../docs/growth.svg", "`file` to draw the picture of growth to, as SVG; not drawn with -only, unless this is set")
	fs.IntVar(&c.rounds, "rounds", 7, "rounds of what takes nanoseconds")
	fs.IntVar(&c.repeats, "repeats", 3, "runs of what is told as the median of a few")
	fs.DurationVar(&c.seconds, "for", 10*time.Second, "how long a contestant runs for accuracy")
	fs.IntVar(&c.workers, "workers", 1000, "most workers in this process that are no members")
	fs.IntVar(&c.members, "members", 270, "most members in this process")
	fs.IntVar(&c.faults, "faults", 20, "leaders killed, and as many that leave")
	profile := fs.String("cpuprofile", "", "`file` to write a profile of this process to, for go tool pprof")
	if err := fs.Parse(args); errors.Is(err, flag.ErrHelp) {
		return nil
	} else if err != nil {
		return err
	}
	wanted := parts
	if *only != "" {
		wanted = nil
		for name := range strings.SplitSeq(*only, ",") {
			i := slices.Index(names, name)
			if i < 0 {
				return fmt.Errorf("-only %q: want some of %s", name, strings.Join(names, ", "))
			}
			wanted = append(wanted, parts[i])
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
	flag.Set("test.benchtime", "100ms") //nolint:errcheck // it is one
	slog.SetDefault(slog.New(slog.DiscardHandler))
	logrus.SetOutput(io.Discard) // gubernator's
	redis.SetLogger(silent{})

	head := fmt.Sprintf("# Results\n\n%s\n", machine(ctx))
	fmt.Fprint(out, head)
	var body strings.Builder
	both := io.MultiWriter(out, &body)
	var failed error
	for _, p := range wanted {
		fmt.Fprintf(both, "\n## %s\n\n`go run . -only %s`\n", p.title, p.name)
		tables, err := p.run(ctx, c)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", p.name, err))
			why, _, _ := strings.Cut(err.Error(), "\n")
			fmt.Fprintf(both, "\nFailed: %s\n", why)
		}
		for _, t := range tables {
			t.write(both)
		}
	}
	if len(c.overs) > 0 {
		worst := slices.Max(c.overs)
		c.goals.add("admitted over the bound, any window", "0", fmt.Sprintf("%.1f units", worst), worst <= 0, "")
	}
	fmt.Fprintf(out, "\n## %s\n", reachTitle)
	sum := c.goals.table()
	sum.write(out)
	if *file != "" {
		var text strings.Builder
		fmt.Fprintf(&text, "%s\n## %s\n", head, reachTitle)
		sum.write(&text)
		text.WriteString(body.String())
		if err := os.WriteFile(*file, []byte(text.String()), 0o644); err != nil {
			return err
		}
	}
	return errors.Join(failed, c.goals.err())
}

func flagSet(fs *flag.FlagSet, name string) (set bool) {
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// silent drops what the Redis client says of servers that have been stopped.
type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}
