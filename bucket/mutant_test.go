package bucket

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// Each rule of the bucket, broken on purpose by a change of one place, has to
// be noticed by the tests. A rule whose mutant survives is a rule that nothing
// holds in place.
func TestMutants(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the package once for each mutant")
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("needs the go command: ", err)
	}
	for _, m := range []struct {
		rule string // what the change breaks
		file string
		old  string
		new  string
	}{
		{"what is leased stays in the bucket", "bucket.go",
			"later(t, r.span(b.out.Of(u))))", "t)"},
		{"no more than the burst is out", "bucket.go",
			"n := min(r.in(max(d, 0)), r.Burst-b.out.Of(u))", "n := r.in(max(d, 0))"},
		{"an expiry counts as of its instant", "bucket.go",
			"b.clamp(b.leases[0].expiry)", "_ = 0"},
		{"an expired lease counts until it expires", "bucket.go",
			"\t\tb.clamp(b.leases[0].expiry)\n\t\tb.note(b.leases[0].expiry)\n\t\tb.out = b.out.Sub(b.leases[0].granted)",
			"\t\tb.out = b.out.Sub(b.leases[0].granted)\n\t\tb.clamp(b.leases[0].expiry)\n\t\tb.note(b.leases[0].expiry)"},
		{"an expired lease does not come back", "bucket.go",
			"b.out = b.out.Sub(b.leases[0].granted)\n",
			"b.out = b.out.Sub(b.leases[0].granted)\n\t\tb.move(b.leases[0].expiry, b.leases[0].granted)\n"},
		{"leases expire in the order of time", "bucket.go",
			"slices.BinarySearchFunc(b.leases, l.expiry+1,", "slices.BinarySearchFunc(b.leases, int64(0),"},
		{"promises drip", "bucket.go",
			"if ready := b.tats[i] - r.fill(); ready > now", "if ready := b.tats[i] - r.fill(); ready > 1<<62"},
		{"a lease outlives its promise", "bucket.go",
			"last = max(last, ready)", "_ = last"},
		{"a promise stays within the horizon", "bucket.go",
			"return int64(r.Horizon())", "return 4 * int64(r.Horizon())"},
		{"a lease is not expired too early", "bucket.go",
			"for len(b.leases) > 0 && b.leases[0].expiry <= now {", "for len(b.leases) > 0 && b.leases[0].expiry <= now+int64(TTL)/4 {"},
		{"a lease is settled once", "bucket.go",
			"b.leases = slices.Delete(b.leases, at, at+1)", "_ = at"},
		{"the rest of a lease comes back", "bucket.go",
			"b.move(now, granted.Sub(spent))", "b.clamp(now)"},
		{"what is spent of a lease does not", "bucket.go",
			"b.move(now, granted.Sub(spent))", "b.move(now, granted)"},
		{"the same id is granted once", "bucket.go",
			"slices.IndexFunc(b.leases, func(l held) bool { return l.id == a.ID })", "-1"},
		{"a lease is granted whole or not at all", "bucket.go",
			"if !give.Covers(a.Need) || give.IsZero() {", "if give.IsZero() {"},
		{"a cost above the burst is an error", "bucket.go",
			"if err := b.limits.Fits(a.Need); err != nil {", "if err := b.limits.Fits(Cost{}); err != nil {"},
		{"a new definition keeps the debt", "bucket.go",
			"b.tats[i] = later(now, r.span(debt))", "b.tats[i] = later(now, 0*debt)"},
		{"an older definition is ignored", "bucket.go",
			"case c < 0:", "case c < -1:"},
		{"what would have run over does not come back", "bucket.go",
			"min(r.back(a.Return.Of(u)), b.lows.since(i, a.Since))", "min(r.back(a.Return.Of(u)), b.tats[i]-now)"},
		{"what was returned is not returned again", "bucket.go",
			"b.lows.shift(i, worth)", "_ = 0"},
		{"what ran over before an expiry ran over", "bucket.go",
			"b.note(b.leases[0].expiry)", "_ = 0"},
		{"the lows of a rate are in order", "lows.go",
			"return x.least >= lacking", "return false"},
		{"forgetting a low is no gain", "lows.go",
			"l[second].least = l[first].least\n\treturn slices.Delete(l, first, first+1)", "return slices.Delete(l, first, first+1)"},
		{"emptying lasts", "bucket.go",
			"later(now+int64(a.Empty), r.fill())", "later(now, r.fill())"},
		{"a wait looks past the expiries", "bucket.go",
			"\t\tc.advance(t)\n\t}", "\t\tc.out, c.leases = c.out.Sub(c.leases[0].granted), c.leases[1:]\n\t}"},
		{"time charged is rounded up", "rate.go",
			"return mulDivCeil(n, int64(r.Per), r.N)", "return mulDiv(n, int64(r.Per), r.N)"},
		{"time given back is rounded down", "rate.go",
			"func (r Rate) back(n int64) int64 { return mulDiv(", "func (r Rate) back(n int64) int64 { return mulDivCeil("},
		{"the time to fill is rounded down", "rate.go",
			"return r.back(r.Burst)", "return r.span(r.Burst)"},
		{"what is missing is rounded up", "bucket.go",
			"return mulDivCeil(b.tats[i]-now", "return mulDiv(b.tats[i]-now"},
		{"unripe units are rounded up", "lease.go",
			"return mulDivCeil(int64(left), d.N, int64(d.Per))", "return mulDiv(int64(left), d.N, int64(d.Per))"},
		{"a unit ripens no earlier than told", "lease.go",
			"mulDiv(max(n, 0), int64(d.Per), d.N)", "mulDivCeil(max(n, 0), int64(d.Per), d.N)+1"},
		{"a holder leaves a margin for its clock", "lease.go",
			"return d - d/50 - 1", "return d"},
	} {
		t.Run(m.rule, func(t *testing.T) {
			t.Parallel()
			if out, err := mutate(t, goTool, m.file, m.old, m.new); err == nil {
				t.Errorf("%s: %q in place of %q, and no test fails", m.rule, m.new, m.old)
			} else if !strings.Contains(out, "--- FAIL: Test") {
				t.Errorf("%s: the mutant is not tested: %v\n%s", m.rule, err, out)
			}
		})
	}
}

// mutate runs the tests with one text of one file replaced by another.
func mutate(t *testing.T, goTool, file, old, new string) (string, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(src), old); n != 1 {
		t.Fatalf("%q occurs %d times in %s, want 1: the mutant has to follow the code", old, n, file)
	}
	dir := t.TempDir()
	mutant := filepath.Join(dir, file)
	if err := os.WriteFile(mutant, []byte(strings.Replace(string(src), old, new, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	path, err := filepath.Abs(file)
	if err != nil {
		t.Fatal(err)
	}
	overlay, err := json.Marshal(map[string]map[string]string{"Replace": {path: mutant}})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	// Without a fail file: a mutant's counterexamples are not worth keeping.
	cmd := exec.Command(goTool, "test", "-overlay", name, "-vet=off", "-failfast", "-skip=TestMutants", ".",
		"-rapid.nofailfile", "-rapid.checks=300", "-rapid.shrinktime=0s")
	out, err := cmd.CombinedOutput()
	return string(out), err
}
