// Command planted shows that the tests notice when the promise is broken. It
// plants bugs, one at a time, of the kinds that break limiters: a clock too
// trusting, an answer taken for another, a crash that forgives. Each has to make
// the tests named with it fail, and they have to pass without.
//
//	go run ./integration/planted
//
// The rules of the bucket have their own mutants, in package bucket's tests.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// bug is planted by replacing texts of one file, each of which occurs once.
type bug struct {
	name  string
	file  string
	texts []string // old, new, old, new …
	test  string
	in    string // the test's package
	says  string // what the failure has to say: not any will do
}

var bugs = []bug{
	{
		name: "validity dated from the answer", file: "hand.go",
		texts: []string{"expires: sent + int64(l.ValidFor)", "expires: now + int64(l.ValidFor)"},
		test:  "TestNothingGoesOverTheBound", in: ".", says: "over .* on requests",
	},
	{
		name: "no expiry margin", file: "bucket/lease.go",
		texts: []string{"return d - d/50 - 1", "return d"},
		test:  "TestNothingIsSpentThatTheStoreTookBack", in: ".", says: "over a burst",
	},
	{
		name: "an answer without its ask's id", file: "cluster/link.go",
		texts: []string{
			"if answers := l.pending[n]; answers != nil {\n\t\tdelete(l.pending, n)\n\t\tanswers <- a\n",
			"_ = n\n\tfor m, answers := range l.pending {\n\t\tdelete(l.pending, m)\n\t\tanswers <- a\n\t\tbreak\n",
		},
		test: "TestAnAnswerGoesToItsAsk", in: "./cluster", says: "each has the grant",
	},
	{
		name: "restore without leases", file: "bucket/encode.go",
		texts: []string{"\t\tb.out = b.out.Add(l.granted)\n\t}\n\treturn b\n", "\t}\n\tb.leases = nil\n\treturn b\n"},
		test:  "TestSnapshotAtEveryIndex", in: "./fsm", says: "restored before entry",
	},
	{
		name: "leader clock from the wall", file: "cluster/replica.go",
		texts: []string{"import (\n", "import (\n\t\"time\"\n", "return r.clock.Now() + r.offset", "return time.Now().UnixNano()"},
		test:  "TestTheTimeGoesOnFromASnapshot", in: "./cluster", says: "it goes on where the snapshot was taken",
	},
	{
		name: "credit on expiry", file: "bucket/bucket.go",
		texts: []string{
			"b.out = b.out.Sub(b.leases[0].granted)\n",
			"b.out = b.out.Sub(b.leases[0].granted)\n\t\tb.move(b.leases[0].expiry, b.leases[0].granted)\n",
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

	passes := make(map[string]bool)
	var errs []error
	fmt.Println("| bug | planted in | caught by | which says |")
	fmt.Println("|---|---|---|---|")
	for _, b := range bugs {
		if !passes[b.in+b.test] {
			if out, err := test(root, b, ""); err != nil {
				return fmt.Errorf("%s fails without a bug: %w\n%s", b.test, err, out)
			}
			passes[b.in+b.test] = true
		}
		said, err := plant(root, dir, b)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", b.name, err))
			said = "NOTHING"
		}
		fmt.Printf("| %s | %s | %s | %s |\n", b.name, b.file, b.test, said)
	}
	return errors.Join(errs...)
}

// plant returns what the test says of the bug.
func plant(root, dir string, b bug) (string, error) {
	path := filepath.Join(root, b.file)
	src, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	text := string(src)
	for i := 0; i < len(b.texts); i += 2 {
		if n := strings.Count(text, b.texts[i]); n != 1 {
			return "", fmt.Errorf("%q occurs %d times in %s, want 1: the bug has to follow the code", b.texts[i], n, b.file)
		}
		text = strings.Replace(text, b.texts[i], b.texts[i+1], 1)
	}
	with := filepath.Join(dir, "bug.go")
	if err := os.WriteFile(with, []byte(text), 0o600); err != nil {
		return "", err
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: with}})
	if err != nil {
		return "", err
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, overlay, 0o600); err != nil {
		return "", err
	}
	out, err := test(root, b, name)
	if err == nil {
		return "", fmt.Errorf("%s passes", b.test)
	}
	if !strings.Contains(out, "--- FAIL: "+b.test) {
		return "", fmt.Errorf("%s does not run: %w\n%s", b.test, err, out)
	}
	said := regexp.MustCompile(`Messages:\s*(.*` + b.says + `.*)`).FindStringSubmatch(out)
	if said == nil {
		return "", fmt.Errorf("%s does not say %q:\n%s", b.test, b.says, out)
	}
	return said[1], nil
}

func test(root string, b bug, overlay string) (string, error) {
	cmd := exec.Command("go", "test", "-count=1", "-vet=off", "-run", "^"+b.test+"$", "-overlay", overlay, b.in)
	cmd.Dir = root
	out, err := cmd.CombinedOutput()
	return string(out), err
}
