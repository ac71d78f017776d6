//go:build linux

// Command clocks runs a storm among workers whose clocks cannot be trusted: the
// wall clock of each is set forward and back every few seconds, and what counts
// the time of leases runs a little fast on one worker and slow on another.
//
//	go run ./integration/clocks -wall 1h -drift 1 -- -for 5m -seed 1
//
// What follows -- goes to ./integration/storm, which is built with other clocks
// than those of package time. The rate may be exceeded by the drift of the worker
// that decides, and by no more; beyond 1% that is told, not judged.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	wall := flag.Duration("wall", time.Hour, "how far the wall clock is set forward, and back")
	drift := flag.Int("drift", 1, "how many `percent` the clocks run fast or slow")
	flag.Parse()
	err := run(*wall, *drift, flag.Args())
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		os.Exit(ended.ExitCode()) // it has said why
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "clocks:", err)
		os.Exit(1)
	}
}

// run builds and runs the storm with some files in place of others.
func run(wall time.Duration, drift int, args []string) error {
	dir, err := os.MkdirTemp("", "choked-clocks-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	root, err := output("go", "env", "GOROOT")
	if err != nil {
		return err
	}
	module, err := output("go", "list", "-m", "-f", "{{.Dir}}")
	if err != nil {
		return err
	}
	replaced := make(map[string]string)
	for _, f := range []struct{ path, old, new, more string }{
		{
			path: filepath.Join(root, "src/time/time.go"),
			old:  "sec, nsec, mono := runtimeNow()\n", new: "sec, nsec, mono := runtimeNow()\n\tsec += wallJump(mono)\n",
			more: fmt.Sprintf(`
// wallJump is by how many seconds the wall clock is wrong: another number every
// four seconds, at another time in each process.
func wallJump(mono int64) int64 {
	return [...]int64{0, %[1]d, -%[1]d, 0, -%[1]d, %[1]d}[(mono+startNano%%1e10)/4e9%%6]
}
`, int64(wall.Seconds())),
		},
		{
			path: filepath.Join(module, "internal/boottime/clock.go"),
			old:  "return &Clock{start: time.Now(),", new: "return &Clock{rate: drift, start: time.Now(),",
			more: fmt.Sprintf(`
var aside = int64(os.Getpid()%%3-1) * %d // percent

func drift(ns int64) int64 { return ns + ns/100*aside }
`, drift),
		},
	} {
		text, err := os.ReadFile(f.path)
		if err != nil {
			return err
		}
		if n := strings.Count(string(text), f.old); n != 1 {
			return fmt.Errorf("%s has %q %d times: want once", f.path, f.old, n)
		}
		changed := strings.Replace(string(text), f.old, f.new, 1) + f.more
		if strings.Contains(f.more, "os.") {
			changed = strings.Replace(changed, "import (\n", "import (\n\t\"os\"\n", 1)
		}
		other := filepath.Join(dir, fmt.Sprint(len(replaced), ".go"))
		if err := os.WriteFile(other, []byte(changed), 0o600); err != nil {
			return err
		}
		replaced[f.path] = other
	}
	overlay, err := json.Marshal(map[string]any{"Replace": replaced})
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		return err
	}
	binary := filepath.Join(dir, "storm")
	build := exec.Command("go", "build", "-overlay", file, "-o", binary, "./integration/storm")
	build.Dir, build.Stdout, build.Stderr = module, os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the storm: %w", err)
	}
	storm := exec.Command(binary, append([]string{"-drift", fmt.Sprint(drift)}, args...)...)
	storm.Stdout, storm.Stderr = os.Stdout, os.Stderr
	return storm.Run()
}

func output(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out)), nil
}
