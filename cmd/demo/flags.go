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

// options are what the flags say.
type options struct {
	workers, callers int
	limits           choked.Limits
	duration         time.Duration // 0: until interrupted
	kill             bool
	store, redis     string
	latency          span
	bias             float64
	promptFile       string
	text             string // in it, or built in
	json, verbose    bool
}

// span is a range of durations.
type span struct{ least, most time.Duration }

func (s span) String() string {
	if s.least == s.most {
		return s.least.String()
	}
	return fmt.Sprintf("%v-%v", s.least, s.most)
}

// parseFlags reads the command line and checks all that can be checked before
// anything is started. It writes the flags' description to help if asked.
func parseFlags(args []string, help io.Writer) (options, error) {
	o := options{workers: 3, callers: 8, duration: 30 * time.Second, store: storeKinds[0], bias: 1,
		latency: span{20 * time.Millisecond, 60 * time.Millisecond}}
	var requests, tokens string
	fs := flag.NewFlagSet("demo", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // an error is told by who called, in one line
	fs.Usage = func() {}
	fs.Var(parsed(&o.workers, whole(1, 100)), "workers", "worker `processes`")
	fs.Var(parsed(&o.callers, whole(1, 10_000)), "callers", "`goroutines` in each worker that send one prompt after the other")
	fs.StringVar(&requests, "requests", "50/s", "`limit` on requests, for all workers together; \"\": none")
	fs.StringVar(&tokens, "tokens", "100000/m", "`limit` on tokens, for all workers together; \"\": none")
	fs.Var(parsed(&o.duration, duration), "for", "`time` to run; 0: until Ctrl-C")
	fs.BoolVar(&o.kill, "kill", true, "halfway (with -for 0: after 10s), kill -9 the worker that leads, or with a store that\nhas no leader the first one, and start it again a second later")
	fs.StringVar(&o.store, "store", o.store, storeHelp)
	fs.StringVar(&o.redis, "redis", "", "`URL` of a Redis for -store redis, as in redis://user:password@host:6379/0;\ndefault: one that is started for the demo")
	fs.Var(parsed(&o.latency, latency), "latency", "time that the provider takes to reply: a `range`, drawn evenly")
	fs.Var(parsed(&o.bias, factor), "bias", "`factor` by which the workers' estimates of tokens are wrong, until what the provider\nreports corrects them")
	fs.StringVar(&o.promptFile, "prompts", "", "`file` of text to send instead of the one built in")
	fs.BoolVar(&o.json, "json", false, "print the summary as one JSON object on standard output, and all else on standard error")
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
	return nil
}

func alternatives(names []string) string {
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// value is a flag of any type, whose errors say what is wanted.
type value[T any] struct {
	p     *T
	parse func(string) (T, error)
}

func parsed[T any](p *T, parse func(string) (T, error)) flag.Value { return value[T]{p, parse} }

func (v value[T]) String() string {
	if v.p == nil { // as package flag makes one, to know what a default of zero looks like
		return ""
	}
	return fmt.Sprint(*v.p)
}

func (v value[T]) Set(s string) error {
	x, err := v.parse(s)
	if err == nil {
		*v.p = x
	}
	return err
}

func whole(least, most int) func(string) (int, error) {
	return func(s string) (int, error) {
		n, err := strconv.Atoi(s)
		if err != nil || n < least || n > most {
			return 0, fmt.Errorf("want a whole number from %d to %d", least, most)
		}
		return n, nil
	}
}

func duration(s string) (time.Duration, error) {
	d, err := time.ParseDuration(s)
	if err != nil || d < 0 || d > 0 && d < time.Second {
		return 0, errors.New(`want 0, or at least a second, as in "30s" or "5m"`)
	}
	return d, nil
}

func factor(s string) (float64, error) {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || f < 0.25 || f > 4 { // what estimator.Calibrate corrects
		return 0, errors.New("want a factor from 0.25 to 4, as in 1.3")
	}
	return f, nil
}

func latency(s string) (span, error) {
	least, most, isRange := strings.Cut(s, "-")
	if !isRange {
		most = least
	}
	a, err1 := time.ParseDuration(least)
	b, err2 := time.ParseDuration(most)
	if err1 != nil || err2 != nil || a < 0 || b < a || b > 5*time.Second {
		return span{}, errors.New(`want a time or a range up to 5s, as in "50ms" or "20ms-60ms"`)
	}
	return span{a, b}, nil
}
