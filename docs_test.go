package choked_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// namesChecked are the pages in which every file and every symbol between
// backticks has to exist.
var namesChecked = []string{"docs/architecture.md"}

// apiChecked are the pages in which every name of the library's API, in text and in
// Go code, has to exist: `choked.Store`, `cluster.Config.Dir`, `Limiter.Wait`.
var apiChecked = []string{
	"docs/architecture.md", "docs/benchmarks.md", "docs/failures.md", "docs/http.md", "docs/limits.md",
	"docs/production.md", "docs/python.md", "docs/reliability.md", "docs/testing.md", "docs/tokens.md",
	"README.md", "CONTRIBUTING.md", "SECURITY.md",
}

// pages returns the project's pages, by path from its root.
func pages(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, docs)
	return append(docs, "README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(b)
}

var fence = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")

// prose returns a page without its fenced and its indented blocks of code.
func prose(page string) string {
	page = fence.ReplaceAllString(page, "")
	var b strings.Builder
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "    ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
)

// anchors returns the targets that a page's headings are for links.
func anchors(page string) map[string]bool {
	set := make(map[string]bool)
	for _, h := range heading.FindAllStringSubmatch(prose(page), -1) {
		set[strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-' || r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, h[1])] = true
	}
	return set
}

func TestLinksInDocsLeadSomewhere(t *testing.T) {
	for _, path := range pages(t) {
		for _, m := range link.FindAllStringSubmatch(prose(read(t, path)), -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file := path
			if target != "" {
				file = filepath.Join(filepath.Dir(path), target)
			}
			if _, err := os.Stat(file); !assert.NoError(t, err, "%s links to %s", path, m[1]) {
				continue
			}
			if anchor != "" {
				assert.Contains(t, anchors(read(t, file)), anchor, "%s links to %s", path, m[1])
			}
		}
	}
}

// Every block of Go in the pages parses: as a file, as declarations, or as
// statements.
func TestGoInDocsParses(t *testing.T) {
	for _, path := range pages(t) {
		for _, m := range fence.FindAllStringSubmatch(read(t, path), -1) {
			if m[1] != "go" {
				continue
			}
			var err error
			for _, source := range []string{m[2], "package p\n" + m[2], "package p\nfunc _() {\n" + m[2] + "}\n"} {
				if _, err = parser.ParseFile(token.NewFileSet(), path, source, 0); err == nil {
					break
				}
			}
			assert.NoError(t, err, "%s:\n%s", path, m[2])
		}
	}
}

var (
	testName = regexp.MustCompile(`\b(?:Test|Benchmark|Fuzz)[A-Z]\w+`)
	testRun  = regexp.MustCompile(`-(?:run|bench|fuzz)[ =](\w+)`)
)

// A test that a page names exists, and a command that selects tests selects one.
func TestDocsNameTestsThatExist(t *testing.T) {
	var tests []string
	for name := range symbols(t) {
		if testName.MatchString(name) {
			tests = append(tests, name)
		}
	}
	for _, path := range pages(t) {
		if path == "CONTRIBUTING.md" || path == "docs/testing.md" { // examples of names, of code
			continue
		}
		page := read(t, path)
		for _, m := range testRun.FindAllStringSubmatch(page, -1) {
			matches := func(test string) bool { return strings.Contains(test, m[1]) }
			assert.True(t, slices.ContainsFunc(tests, matches), "%s selects the test %s", path, m[1])
		}
		for _, name := range testName.FindAllString(testRun.ReplaceAllString(page, ""), -1) {
			assert.True(t, slices.Contains(tests, name), "%s names the test %s", path, name)
		}
	}
}

// The code in docs/testing.md is that of its test file, so it compiles and runs.
func TestDocsTestingShowsWhatRuns(t *testing.T) {
	source := read(t, "docs/testing_example_test.go")
	blocks := fence.FindAllStringSubmatch(read(t, "docs/testing.md"), -1)
	require.NotEmpty(t, blocks)
	for _, m := range blocks {
		assert.True(t, strings.Contains(source, m[2]), "docs/testing_example_test.go does not contain:\n%s", m[2])
	}
}

var (
	span   = regexp.MustCompile("`([^`\n]+)`")
	asPath = regexp.MustCompile(`^[A-Za-z0-9_.-]*(/[A-Za-z0-9_.-]*)+$|^[A-Za-z0-9_-]+\.(go|lua|json|md|yaml)$`)
	asName = regexp.MustCompile(`^([\pL_][\pL\d_]*)(\.[\pL_][\pL\d_]*){0,2}(\(\))?$`)
)

// A file or a package that docs/architecture.md names between backticks exists, and
// so does a symbol: `Bucket.Lease`, `ledger.Table`, `waiting` of a Lua script.
func TestDocsNameWhatExists(t *testing.T) {
	known := symbols(t)
	for _, path := range namesChecked {
		checked := 0
		for _, m := range span.FindAllStringSubmatch(prose(read(t, path)), -1) {
			name := strings.TrimSuffix(m[1], "()")
			_, err := os.Stat(filepath.FromSlash(m[1]))
			switch exists := err == nil; {
			case asPath.MatchString(m[1]):
				assert.True(t, exists, "%s names the file %s", path, m[1])
			case asName.MatchString(m[1]):
				assert.True(t, exists || known[name], "%s names the symbol %s", path, m[1])
			default: // a command or a formula
				continue
			}
			checked++
		}
		assert.Greater(t, checked, 10, "names in %s", path)
	}
}

var apiName = regexp.MustCompile(`\b([A-Za-z]+)((?:\.[A-Z]\w+)+)`)

func TestDocsNameTheAPIAsItIs(t *testing.T) {
	known := symbols(t)
	packages := strings.Fields("choked bucket cluster estimator fsm httpstore ledger redisstore server storetest tiktoken voyage waitqueue")
	for _, path := range apiChecked {
		page := read(t, path)
		text := strings.Join(span.FindAllString(prose(page), -1), "\n")
		for _, m := range fence.FindAllStringSubmatch(page, -1) {
			if m[1] == "go" {
				text += "\n" + m[2]
			}
		}
		for _, m := range apiName.FindAllStringSubmatch(text, -1) {
			if slices.Contains(packages, m[1]) || unicode.IsUpper(rune(m[1][0])) { // or of a type
				assert.True(t, known[m[0]], "%s names %s", path, m[0])
			}
		}
	}
}

var luaFunction = regexp.MustCompile(`(?m)^local function (\w+)`)

// symbols returns the names that the sources declare: of types, functions,
// variables and constants, and of the methods and fields of types as Type.Name;
// each of them also after the name of its package and a dot. Names in Lua are
// those of its functions.
func symbols(t *testing.T) map[string]bool {
	t.Helper()
	known := make(map[string]bool)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && (strings.HasPrefix(d.Name(), ".") || d.Name() == "testdata"):
			return fs.SkipDir
		case filepath.Ext(path) == ".lua":
			b, err := os.ReadFile(path)
			for _, m := range luaFunction.FindAllStringSubmatch(string(b), -1) {
				known[m[1]] = true
			}
			return err
		case filepath.Ext(path) != ".go":
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		add := func(name string) {
			known[name] = true
			known[strings.TrimSuffix(file.Name.Name, "_test")+"."+name] = true
		}
		for _, decl := range file.Decls {
			switch decl := decl.(type) {
			case *ast.FuncDecl:
				if decl.Recv == nil {
					add(decl.Name.Name)
				} else if of := receiver(decl.Recv.List[0].Type); of != "" {
					add(of + "." + decl.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range decl.Specs {
					addSpec(spec, add)
				}
			}
		}
		return nil
	})
	require.NoError(t, err)
	return known
}

func addSpec(spec ast.Spec, add func(name string)) {
	switch spec := spec.(type) {
	case *ast.ValueSpec:
		for _, name := range spec.Names {
			add(name.Name)
		}
	case *ast.TypeSpec:
		add(spec.Name.Name)
		var members *ast.FieldList
		switch typ := spec.Type.(type) {
		case *ast.StructType:
			members = typ.Fields
		case *ast.InterfaceType:
			members = typ.Methods
		default:
			return
		}
		for _, member := range members.List {
			for _, name := range member.Names {
				add(spec.Name.Name + "." + name.Name)
			}
		}
	}
}

// receiver returns the name of a method's type.
func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	}
	return ""
}
