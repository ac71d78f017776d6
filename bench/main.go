// Command bench measures choked beside other rate limiters, all in one run on
// one machine, and writes RESULTS.md.
//
//	cd bench && go run .             # everything: some 10 minutes
//	cd bench && go run . -only local # one part of it: see -h
//
// What takes nanoseconds is measured in rounds, the contestants in turn, and
// told as the median of the rounds. It is a module of its own, so that nobody
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
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

type part struct {
	name  string
	title string
	run   func(ctx context.Context, c config) (tables []table, err error)
}

// config is what the parts share.
type config struct {
	rounds  int           // of what takes nanoseconds
	seconds time.Duration // of what runs for a while
	plot    string        // file of the picture; none: not drawn
}

var parts = []part{
	{"local", "One call in one process", local},
	{"shared", "Three nodes, one key", shared},
	{"accuracy", "Three nodes, 1,000/s, four callers each, flat out", accuracy},
	{"fairness", "Eight workers that share a small limit", fairness},
	{"exchange", "What is shared for an admission", exchange},
	{"growth", "How cost grows", growth},
	{"first", "The first admission under a key, three nodes that write to disk", first},
	{"many", "Many keys, many workers", many},
	{"service", "The service over HTTP", service},
	{"state", "1,000,000 live keys", state},
	{"idle", "A cluster without work", idle},
}

func main() {
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
	c := config{}
	fs.StringVar(&c.plot, "plot", "", "`file` to draw the picture of growth to, as SVG")
	fs.IntVar(&c.rounds, "rounds", 7, "rounds of what takes nanoseconds")
	fs.DurationVar(&c.seconds, "for", 10*time.Second, "how long a contestant runs for accuracy")
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
	}
	flag.Set("test.benchtime", "100ms") //nolint:errcheck // it is one
	slog.SetDefault(slog.New(slog.DiscardHandler))
	logrus.SetOutput(io.Discard) // gubernator's

	var text strings.Builder
	both := io.MultiWriter(out, &text)
	fmt.Fprintf(both, "# Results\n\n%s\n", machine())
	for _, p := range wanted {
		fmt.Fprintf(both, "\n## %s\n\n`go run . -only %s`\n", p.title, p.name)
		tables, err := p.run(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		for _, t := range tables {
			t.write(both)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	if *only != "" && !flagSet(fs, "o") {
		return nil
	}
	return os.WriteFile(*file, []byte(text.String()), 0o644)
}

func flagSet(fs *flag.FlagSet, name string) (set bool) {
	fs.Visit(func(f *flag.Flag) { set = set || f.Name == name })
	return set
}

// machine says on what, and of what versions.
func machine() string {
	s := fmt.Sprintf("%s, %d CPUs (%s), %s/%s. Versions: ", runtime.Version(), runtime.NumCPU(), cpuModel(), runtime.GOOS, runtime.GOARCH)
	var vs []string
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			for _, peer := range []string{"golang.org/x/time", "go.uber.org/ratelimit", "sethvargo/go-limiter", "throttled/throttled", "redis_rate", "gubernator-io/gubernator"} {
				if strings.Contains(d.Path, peer) {
					vs = append(vs, d.Path+" "+d.Version)
				}
			}
		}
	}
	return s + strings.Join(vs, ", ") + "."
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(b)) {
		if name, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.Trim(name, " \t:\n")
		}
	}
	return "unknown"
}

// table is what a part has found.
type table struct {
	note string
	head []string
	rows [][]string
}

func (t *table) row(cells ...any) {
	var row []string
	for _, c := range cells {
		row = append(row, fmt.Sprint(c))
	}
	t.rows = append(t.rows, row)
}

func (t *table) write(out io.Writer) {
	if t.note != "" {
		fmt.Fprintf(out, "\n%s\n", t.note)
	}
	fmt.Fprintf(out, "\n| %s |\n|%s\n", strings.Join(t.head, " | "), strings.Repeat("---|", len(t.head)))
	for _, r := range t.rows {
		fmt.Fprintf(out, "| %s |\n", strings.Join(r, " | "))
	}
}

func median[T int64 | float64 | time.Duration](xs []T) T {
	xs = slices.Clone(xs)
	slices.Sort(xs)
	return xs[len(xs)/2]
}

// ratio is how many times better than a something is.
func ratio(a, b float64) string {
	if b == 0 {
		return "–"
	}
	return fmt.Sprintf("%.3g×", a/b)
}
