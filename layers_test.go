package choked_test

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const module = "github.com/choked/choked"

// imports lists every package of the library and what it may import of the library.
// Arrows point down in this list. A package that is not in it is an error.
var imports = []struct{ name, may string }{
	{"server", ". bucket internal/boottime internal/fold internal/httpapi"},
	{".", "bucket internal/local internal/pool"},
	{"cluster", "bucket fsm internal/boottime internal/fold internal/ledger internal/waitqueue cluster/internal/wire"},
	{"cluster/internal/wire", "internal/boottime internal/fold"},
	{"redisstore", "bucket internal/boottime internal/storeerr"},
	{"httpstore", "bucket internal/boottime internal/httpapi internal/storeerr"},
	{"storetest", "bucket"},
	{"providertest", ""},
	{"provider", "bucket"},
	{"fsm", "bucket internal/ledger"},
	{"internal/local", "bucket internal/boottime internal/ledger internal/waitqueue"},
	{"internal/pool", "bucket internal/boottime"},
	{"internal/waitqueue", "bucket internal/ledger"},
	{"internal/ledger", "bucket"},
	{"internal/httpapi", "bucket"},
	{"internal/storeerr", "bucket"},
	{"internal/boottime", ""},
	{"internal/fold", ""},
	{"estimator/tiktoken", "bucket estimator estimator/internal/bpe"},
	{"estimator/voyage", "bucket estimator estimator/internal/bpe"},
	{"estimator", "bucket estimator/internal/quick"},
	{"bucket", ""},
	{"estimator/internal/quick", ""},
	{"estimator/internal/bpe", ""},
}

// programs are folders of programs and of tools for tests, which may import anything.
// Only programs and tests import them.
var programs = []string{
	"cmd/", "integration", "examples", "docs", "internal/testkit/", "cluster/internal/memnet",
	"estimator/internal/corpus", "estimator/internal/fit",
}

func TestImportsPointDown(t *testing.T) {
	may, place := make(map[string][]string), make(map[string]int)
	for i, p := range imports {
		may[p.name], place[p.name] = strings.Fields(p.may), i
	}
	for name, imported := range may {
		for _, other := range imported {
			assert.Greater(t, place[other], place[name], "%q stands above %q, which it imports", name, other)
		}
	}
	for line := range strings.Lines(goList(t, `{{.ImportPath}}: {{join .Imports " "}}`, "./...")) {
		path, imported, _ := strings.Cut(strings.TrimSpace(line), ":")
		name, _ := inModule(path)
		if slices.ContainsFunc(programs, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		allowed, listed := may[name]
		if !assert.True(t, listed, "package %q: want a row in imports", name) {
			continue
		}
		for path := range strings.FieldsSeq(imported) {
			if other, ours := inModule(path); ours {
				assert.Contains(t, allowed, other, "imported by %q", name)
			}
		}
		delete(may, name)
	}
	assert.Empty(t, may, "rows of packages that do not exist")
}

// A program that links the library does not link, through it, what only commands and
// optional packages need.
func TestTheLibraryLinksNoFrameworks(t *testing.T) {
	for _, pkg := range []string{".", "./cluster", "./redisstore"} {
		deps := goList(t, `{{join .Deps "\n"}}`, pkg)
		require.Contains(t, deps, module+"/bucket", "dependencies of %s", pkg)
		for _, unwanted := range []string{
			"prometheus", "opentelemetry", "bubbletea", "chromedp", "openai", "anthropic", "genai", "tiktoken", "testify", "rapid", "miniredis",
			module + "/internal/testkit", module + "/cmd",
		} {
			assert.NotContains(t, deps, unwanted, "dependencies of %s", pkg)
		}
	}
}

func goList(t *testing.T, format, pattern string) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", format, pattern).Output()
	require.NoError(t, err)
	return string(out)
}

// inModule returns the path of a package within the module, "." for the root, and
// whether it is in the module.
func inModule(path string) (string, bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}
