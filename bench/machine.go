package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

// machine describes the run: date, commit, Go version, hardware, and the versions of
// the other limiters.
func machine(ctx context.Context) string {
	s := fmt.Sprintf("%s, commit %s. %s, %d CPUs (%s), %s/%s. Beside ", time.Now().UTC().Format(time.DateOnly), commit(ctx),
		runtime.Version(), runtime.NumCPU(), cpuModel(), runtime.GOOS, runtime.GOARCH)
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
	if v, err := exec.CommandContext(ctx, "redis-server", "--version").Output(); err == nil {
		for _, field := range strings.Fields(string(v)) {
			if n, ok := strings.CutPrefix(field, "v="); ok {
				vs = append(vs, "redis-server "+n)
			}
		}
	}
	return s + strings.Join(vs, ", ") + "."
}

// commit returns the commit of the measured source, with the suffix "dirty" if the
// source differs from it. The build information of go run has no commit.
func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
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

// cpuOf returns the CPU time of another process, to a hundredth of a second.
func cpuOf(pid int) (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStat(string(b))
}

// parseStat returns the sum of utime and stime, which are fields 14 and 15, in ticks of
// a hundredth of a second. Fields are counted after the name, which may hold spaces
// and parentheses.
func parseStat(stat string) (time.Duration, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 13 {
		return 0, fmt.Errorf("stat %q: want at least 15 fields", stat)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("stat %q: %w", stat, err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}

// loopback returns the number of bytes sent over the loopback interface.
func loopback() int64 {
	b, err := os.ReadFile("/sys/class/net/lo/statistics/tx_bytes")
	if err != nil {
		return 0
	}
	n, _ := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n
}
