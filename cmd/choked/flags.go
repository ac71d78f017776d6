package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
)

// flags are the flags of one command. The environment and a file can set them, too.
type flags struct {
	*flag.FlagSet
	getenv         func(string) string
	stdout, stderr io.Writer
	config         string // path of the file

	// alternatives are pairs of flags of which one is to be set. Setting one of them
	// also overrides the other one of a lower precedence.
	alternatives map[string]string
}

// either declares two flags that are alternatives.
func (f *flags) either(a, b string) {
	if f.alternatives == nil {
		f.alternatives = make(map[string]string)
	}
	f.alternatives[a], f.alternatives[b] = b, a
}

// overridden reports whether set holds a flag or its alternative.
func (f *flags) overridden(set map[string]bool, name string) bool {
	return set[name] || set[f.alternatives[name]]
}

// usageError is a mistake in the command line, the environment or the file.
type usageError struct{ error }

func (e *usageError) Unwrap() error { return e.error }

func wrong(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

func newFlags(name string, getenv func(string) string, stdout, stderr io.Writer) *flags {
	f := &flags{FlagSet: flag.NewFlagSet(name, flag.ContinueOnError), getenv: getenv, stdout: stdout, stderr: stderr}
	f.SetOutput(io.Discard) // run prints errors, in one line
	f.Usage = func() {}
	f.StringVar(&f.config, "config", "", "`file` with a line \"name = value\" for each flag to set; a line that begins with # is a comment")
	return f
}

// parse reads the command line, the environment and the file, in this order of
// precedence. It returns an error unless minArgs to maxArgs arguments are left, which
// the usage calls arguments.
func (f *flags) parse(args []string, minArgs, maxArgs int, arguments string) error {
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprintf(f.stdout, "Usage: %s [flags] %s\n", f.Name(), arguments)
			f.SetOutput(f.stdout)
			f.PrintDefaults()
			return err
		}
		return &usageError{err}
	}
	set := make(map[string]bool)
	f.Visit(func(fl *flag.Flag) { set[fl.Name] = true })
	var err error
	line := maps.Clone(set)
	f.VisitAll(func(fl *flag.Flag) {
		name := variable(fl.Name)
		if value := f.getenv(name); value != "" && !f.overridden(line, fl.Name) && err == nil {
			set[fl.Name] = true
			if e := f.Set(fl.Name, value); e != nil {
				err = wrong("%s: %w", name, hide(fl.Name, e))
			}
		}
	})
	if err != nil {
		return err
	}
	if f.config != "" {
		if err := f.file(set); err != nil {
			return err
		}
	}
	if f.NArg() < minArgs || f.NArg() > maxArgs {
		if arguments == "" {
			return wrong("argument %.80q: want flags only, see -h", f.Arg(0))
		}
		return wrong("%d arguments: want %s", f.NArg(), arguments)
	}
	return nil
}

// variable returns the environment variable that sets a flag.
func variable(name string) string {
	return "CHOKED_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
}

// hide replaces an error of a flag that holds a secret, since it may quote the value.
func hide(name string, err error) error {
	if name == "secret" || name == "previous-secret" || name == "token" {
		return errors.New("invalid value")
	}
	return err
}

// file sets the flags of the file that are not set yet.
func (f *flags) file(set map[string]bool) error {
	file, err := os.Open(f.config)
	if err != nil {
		return fmt.Errorf("-config: %w", err)
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	seen := make(map[string]bool)
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, value, ok := strings.Cut(line, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		switch {
		case !ok:
			return wrong("%s: line %d: want \"name = value\"", f.config, n)
		case f.Lookup(name) == nil || name == "config":
			return wrong("%s: line %d: unknown flag %.40q", f.config, n, name)
		case seen[name] && !mayRepeat(f.Lookup(name).Value):
			return wrong("%s: line %d: %s is set twice", f.config, n, name)
		}
		seen[name] = true
		if f.overridden(set, name) {
			continue
		}
		if err := f.Set(name, value); err != nil {
			return wrong("%s: line %d: %s: %w", f.config, n, name, hide(name, err))
		}
	}
	return lines.Err()
}

// list is a flag of values separated by commas. A repeated flag appends its values.
type list struct{ p *[]string }

func (l list) String() string {
	if l.p == nil {
		return ""
	}
	return strings.Join(*l.p, ",")
}

func (l list) Set(s string) error {
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part != "" {
			*l.p = append(*l.p, part)
		}
	}
	return nil
}

// each is a flag of one value, which may contain commas. A repeated flag appends its
// value.
type each struct{ p *[]string }

func (e each) String() string { return list(e).String() }

func (e each) Set(s string) error {
	if s != "" {
		*e.p = append(*e.p, s)
	}
	return nil
}

// mayRepeat reports whether a flag may be given more than once.
func mayRepeat(v flag.Value) bool {
	switch v.(type) {
	case list, each:
		return true
	}
	return false
}
