//go:build linux

// Command clocks runs integration/storm with workers whose clocks are wrong. The
// wall clock of each worker is set forward and back every few seconds, and the
// clock that measures leases is fast on some workers and slow on others.
//
//	go run ./integration/clocks -wall 1h -drift 1 -- -for 5m -seed 1
//
// The arguments after -- are those of integration/storm, which is built with
// modified copies of the clocks in package time and internal/boottime. A rate may
// be exceeded by the drift of the leader's clock, but not by more. With a drift of
// more than 1% no bound is promised, and the excess is only printed.
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
	wall := flag.Duration("wall", time.Hour, "how far the wall clocks are set forward and back")
	drift := flag.Int("drift", 1, "`percent` by which the clocks that measure leases are fast or slow")
	flag.Parse()
	err := run(*wall, *drift, flag.Args())
	var exited *exec.ExitError
	if errors.As(err, &exited) {
		os.Exit(exited.ExitCode()) // storm has printed its error
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "clocks:", err)
		os.Exit(1)
	}
}

// run builds the storm with modified copies of some source files, and runs it.
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
	overlaid := make(map[string]string)
	for _, f := range []struct{ path, old, new, appended string }{
		{
			path: filepath.Join(root, "src/time/time.go"),
			old:  "sec, nsec, mono := runtimeNow()\n", new: "sec, nsec, mono := runtimeNow()\n\tsec += wallJump(mono)\n",
			appended: fmt.Sprintf(`
// wallJump returns the error of the wall clock in seconds. It changes every four
// seconds, at another time in each process.
func wallJump(mono int64) int64 {
	return [...]int64{0, %[1]d, -%[1]d, 0, -%[1]d, %[1]d}[(mono+startNano%%1e10)/4e9%%6]
}
`, int64(wall.Seconds())),
		},
		{
			path: filepath.Join(module, "internal/boottime/clock.go"),
			old:  "return &Clock{start: time.Now(),", new: "return &Clock{rate: drift, start: time.Now(),",
			appended: fmt.Sprintf(`
var driftPercent = int64(os.Getpid()%%3-1) * %d

func drift(ns int64) int64 { return ns + ns/100*driftPercent }
`, drift),
		},
	} {
		text, err := os.ReadFile(f.path)
		if err != nil {
			return err
		}
		if n := strings.Count(string(text), f.old); n != 1 {
			return fmt.Errorf("%s contains %q %d times: want once", f.path, f.old, n)
		}
		changed := strings.Replace(string(text), f.old, f.new, 1) + f.appended
		if strings.Contains(f.appended, "os.") {
			changed = strings.Replace(changed, "import (\n", "import (\n\t\"os\"\n", 1)
		}
		copied := filepath.Join(dir, fmt.Sprint(len(overlaid), ".go"))
		if err := os.WriteFile(copied, []byte(changed), 0o600); err != nil {
			return err
		}
		overlaid[f.path] = copied
	}
	overlay, err := json.Marshal(map[string]any{"Replace": overlaid})
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
