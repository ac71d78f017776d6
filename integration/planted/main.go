// Command planted shows that the tests notice a broken bound. It plants one bug at a
// time of the kinds that break limiters: a validity that ignores clock drift, an
// answer matched to the wrong ask, a restart that loses leases. It also breaks each
// rule of package bucket. The named tests must fail with the bug and pass without it.
//
//	go run ./integration/planted
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
)

// bug replaces texts of one file. Each old text must occur once.
type bug struct {
	name  string
	file  string
	texts []string // old, new, old, new …
	test  string   // name of the tests that must fail, a regular expression
	in    string   // package of the tests
	says  string   // expected in the message of the failure, a regular expression; empty: any message
}

var bugs = []bug{
	{
		name: "validity dated from the answer", file: "internal/pool/leases.go",
		texts: []string{"expires: sent + int64(l.ValidFor)", "expires: now + int64(l.ValidFor)"},
		test:  "TestNothingGoesOverTheBound", in: ".", says: "over .* on requests",
	},
	{
		name: "no expiry margin", file: "bucket/drift.go",
		texts: []string{"return time.Duration(mulDiv(int64(max(d, 0)), slowest, fastest))", "return d"},
		test:  "TestALeaseThatExpiredAtTheStoreIsNotSpent", in: "./internal/pool", says: "over a burst",
	},
	{
		name: "an answer without its ask's id", file: "cluster/rpc_client.go",
		texts: []string{
			"if answers := c.pending[n]; answers != nil {\n\t\tdelete(c.pending, n)\n\t\tanswers <- a\n",
			"_ = n\n\tfor m, answers := range c.pending {\n\t\tdelete(c.pending, m)\n\t\tanswers <- a\n\t\tbreak\n",
		},
		test: "TestAnswersAreMatchedToTheirAsks", in: "./cluster", says: "each has the grant",
	},
	{
		name: "restore without leases", file: "bucket/state.go",
		texts: []string{"b.leases = s.Leases\n", "b.leases = nil\n"},
		test:  "TestSnapshotAtEveryIndex", in: "./fsm", says: "restored before entry",
	},
	{
		name: "leader clock from the wall", file: "cluster/replica.go",
		texts: []string{"return r.clock.Now() + r.offset", "return time.Now().UnixNano()"},
		test:  "TestTimeContinuesFromASnapshot", in: "./cluster", says: "it continues from the time of the snapshot",
	},
	{
		name: "an ask counts from before it came", file: "cluster/leader_queue.go",
		texts: []string{"in := q.receive()\n\tnow := q.replica.now()\n", "now := q.replica.now()\n\tin := q.receive()\n"},
		test:  "TestAsksCountFromAfterTheyWereMade", in: "./cluster", says: "after it was made",
	},
	{
		name: "credit on expiry", file: "bucket/bucket.go",
		texts: []string{
			"b.leased = b.leased.Sub(b.leases[0].Granted)\n",
			"b.leased = b.leased.Sub(b.leases[0].Granted)\n\t\tb.credit(b.leases[0].Expiry, b.leases[0].Granted)\n",
		},
		test: "TestNothingGoesOverTheBound", in: ".", says: "over .* on requests",
	},
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "planted:", err)
		os.Exit(1)
	}
}

func run() error {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return fmt.Errorf("go list -m: %w", err)
	}
	root := strings.TrimSpace(string(out))
	dir, err := os.MkdirTemp("", "choked-planted-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	all := bugs
	for _, r := range rules {
		all = append(all, bug{name: r.rule, file: "bucket/" + r.file, texts: []string{r.old, r.new}, test: "Test.*", in: "./bucket"})
	}
	passes := make(map[string]bool)
	for _, b := range all {
		if !passes[b.in+b.test] {
			if out, err := test(root, b, ""); err != nil {
				return fmt.Errorf("%s fails without a bug: %w\n%s", b.test, err, out)
			}
			passes[b.in+b.test] = true
		}
	}
	said := make([]string, len(all))
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for worker := range min(runtime.NumCPU(), len(all)) {
		wg.Go(func() {
			for i := worker; i < len(all); i += runtime.NumCPU() {
				if said[i], errs[i] = plant(root, dir, i, all[i]); errs[i] != nil {
					said[i], errs[i] = "NOT CAUGHT", fmt.Errorf("%s: %w", all[i].name, errs[i])
				}
			}
		})
	}
	wg.Wait()
	fmt.Println("| bug | planted in | caught by | which says |")
	fmt.Println("|---|---|---|---|")
	for i, b := range all {
		fmt.Printf("| %s | %s | %s |\n", b.name, b.file, said[i])
	}
	return errors.Join(errs...)
}

// plant runs the tests of b with its bug, and returns the test that failed and its
// message.
func plant(root, dir string, n int, b bug) (string, error) {
	path := filepath.Join(root, b.file)
	src, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	text := string(src)
	for i := 0; i < len(b.texts); i += 2 {
		if n := strings.Count(text, b.texts[i]); n != 1 {
			return "", fmt.Errorf("%q occurs %d times in %s, want 1: update the bug to the code", b.texts[i], n, b.file)
		}
		text = strings.Replace(text, b.texts[i], b.texts[i+1], 1)
	}
	with := filepath.Join(dir, fmt.Sprint("bug", n, ".go"))
	if err := os.WriteFile(with, []byte(text), 0o600); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: with}})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, fmt.Sprint("overlay", n, ".json"))
	if err := os.WriteFile(name, overlay, 0o600); err != nil {
		return "", err
	}
	out, err := test(root, b, name)
	if err == nil {
		return "", fmt.Errorf("%s passes", b.test)
	}
	failed := regexp.MustCompile(`--- FAIL: (` + b.test + `) \(`).FindStringSubmatch(out)
	if failed == nil {
		return "", fmt.Errorf("%s does not run: %w\n%s", b.test, err, out)
	}
	if b.says == "" {
		return failed[1] + " | ", nil
	}
	said := regexp.MustCompile(`Messages:\s*(.*` + b.says + `.*)`).FindStringSubmatch(out)
	if said == nil {
		return "", fmt.Errorf("%s does not say %q:\n%s", b.test, b.says, out)
	}
	return failed[1] + " | " + said[1], nil
}

func test(root string, b bug, overlay string) (string, error) {
	// Without -failfast if a message is expected: among parallel tests, the first to
	// fail and its message vary.
	failfast := fmt.Sprint("-failfast=", b.says == "")
	args := []string{"test", "-count=1", "-vet=off", failfast, "-run", "^" + b.test + "$", "-overlay", overlay, b.in}
	if b.in == "./bucket" {
		// A fixed seed finds the same bugs in each run. The counterexamples are not kept.
		args = append(args, "-rapid.nofailfile", "-rapid.checks=300", "-rapid.shrinktime=0s", "-rapid.seed=1")
	}
	cmd := exec.Command("go", args...)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	return string(out), err
}
