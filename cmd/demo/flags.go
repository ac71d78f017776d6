package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
)

// options holds the values of the command-line flags.
type options struct {
	workers, callers int
	limits           choked.Limits
	duration         time.Duration // 0: run until interrupted
	kill             bool
	store, redis     string
	latency          durationRange
	bias             float64
	promptFile       string
	text             string // content of promptFile, or the built-in text
	json, verbose    bool
}

// durationRange is a range of durations, both ends included.
type durationRange struct{ shortest, longest time.Duration }

func (r durationRange) String() string {
	if r.shortest == r.longest {
		return r.shortest.String()
	}
	return fmt.Sprintf("%v-%v", r.shortest, r.longest)
}

// parseFlags parses and validates the command line, before any process is
// started. With -h it writes the description of the flags to help and returns
// [flag.ErrHelp].
func parseFlags(args []string, help io.Writer) (options, error) {
	o := options{workers: 3, callers: 8, duration: 30 * time.Second, store: storeKinds[0], bias: 1,
		latency: durationRange{20 * time.Millisecond, 60 * time.Millisecond}}
	var requests, tokens string
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // the caller prints the error, in one line
	fs.Usage = func() {}
	fs.Var(newFlagValue(&o.workers, intBetween(1, 100)), "workers", "worker `processes`")
	fs.Var(newFlagValue(&o.callers, intBetween(1, 10_000)), "callers", "`goroutines` in each worker; each sends one prompt at a time")
	fs.StringVar(&requests, "requests", "50/s", "`limit` on requests of all workers together; \"\": no limit")
	fs.StringVar(&tokens, "tokens", "100000/m", "`limit` on tokens of all workers together; \"\": no limit")
	fs.Var(newFlagValue(&o.duration, parseDuration), "for", "`time` to run; 0: run until Ctrl-C")
	fs.BoolVar(&o.kill, "kill", true, "halfway through the run (with -for 0: after 10s), kill -9 the leader, or the first\nworker if the store has no leader, and start it again one second later")
	fs.StringVar(&o.store, "store", o.store, storeHelp)
	fs.StringVar(&o.redis, "redis", "", "`URL` of the Redis server for -store redis, as in redis://user:password@host:6379/0;\ndefault: the demo starts a server")
	fs.Var(newFlagValue(&o.latency, parseLatency), "latency", "time that the provider takes to reply: a `range`, chosen uniformly at random")
	fs.Var(newFlagValue(&o.bias, parseBias), "bias", "`factor` by which the first token estimates of the workers are wrong; the usage that\nthe provider reports corrects later ones")
	fs.StringVar(&o.promptFile, "prompts", "", "`file` of text to send instead of the built-in text")
	fs.BoolVar(&o.json, "json", false, "print the summary as one JSON object on standard output, everything else on standard error")
	fs.BoolVar(&o.verbose, "v", false, "print the workers' logs on standard error")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(help, "Usage: demo [flags]")
			fs.SetOutput(help)
			fs.PrintDefaults()
		}
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("argument %.80q: want flags only, see -h", fs.Arg(0))
	}
	if err := o.setLimits(requests, tokens); err != nil {
		return o, err
	}
	if !slices.Contains(storeKinds, o.store) {
		return o, fmt.Errorf("-store %.80q: want %s", o.store, alternatives(storeKinds))
	}
	if err := checkStore(o); err != nil {
		return o, err
	}
	text, prompts, err := loadPrompts(o.promptFile)
	if err != nil {
		return o, fmt.Errorf("-prompts: %w", err)
	}
	o.text = text
	for _, p := range prompts {
		n := countTokens(p)
		cost := choked.Cost{Requests: 1, Tokens: max(n, biased(n, o.bias))}
		share, _ := shareOf(o)
		if err := share.Fits(share.Limited(cost)); err != nil {
			return o, fmt.Errorf("the prompt \"%.40s…\" can never be sent: %w", p, err)
		}
	}
	return o, nil
}

func (o *options) setLimits(requests, tokens string) (err error) {
	if o.limits.Requests, err = bucket.ParseRates(requests); err != nil {
		return fmt.Errorf("-requests: %w", err)
	}
	if o.limits.Tokens, err = bucket.ParseRates(tokens); err != nil {
		return fmt.Errorf("-tokens: %w", err)
	}
	if o.limits.Check() != nil {
		return errors.New(`-requests "" -tokens "": want a limit on at least one of them`)
	}
	return o.limits.CheckTokenBuckets()
}

func alternatives(names []string) string {
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// flagValue is a [flag.Value] of any type. The errors of parse describe the
// accepted values.
type flagValue[T any] struct {
	p     *T
	parse func(string) (T, error)
}

func newFlagValue[T any](p *T, parse func(string) (T, error)) flag.Value {
	return flagValue[T]{p, parse}
}

func (v flagValue[T]) String() string {
	if v.p == nil { // package flag calls String on a zero flagValue to recognize a zero default
		return ""
	}
	return fmt.Sprint(*v.p)
}

func (v flagValue[T]) Set(s string) error {
	x, err := v.parse(s)
	if err == nil {
		*v.p = x
	}
	return err
}

func intBetween(lowest, highest int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < lowest || n > highest {
			return 0, fmt.Errorf("want a whole number from %d to %d", lowest, highest)
		}
		return n, nil
	}
}

func parseDuration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > 0 && d < time.Second {
		return 0, errors.New(`want 0, or at least a second, as in "30s" or "5m"`)
	}
	return d, nil
}

func parseBias(s string) (float64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || f < 0.25 || f > 4 { // the range that estimator.Calibrate corrects
		return 0, errors.New("want a factor from 0.25 to 4, as in 1.3")
	}
	return f, nil
}

func parseLatency(s string) (durationRange, error) {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	shortest, err1 := time.ParseDuration(first)
	longest, err2 := time.ParseDuration(last)
	if err1 != nil || err2 != nil || shortest < 0 || longest < shortest || longest > 5*time.Second {
		return durationRange{}, errors.New(`want a time or a range up to 5s, as in "50ms" or "20ms-60ms"`)
	}
	return durationRange{shortest, longest}, nil
}
