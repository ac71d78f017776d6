package tiktoken

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pkoukk/tiktoken-go-loader/assets"
)

func BenchmarkLoad(b *testing.B) {
	for b.Loop() {
		if _, err := load("o200k_base", 1); err != nil {
			b.Fatal(err)
		}
	}
}

func TestParseErrorNamesLineAndCause(t *testing.T) {
	for file, want := range map[string]string{
		"IQ== 1\n":        `"1": want 0`,
		"IQ== 0\nIg==\n":  `line 2: rank ""`,
		"IQ== 0\n!!!! 1":  `"!!!!"`,
		"IQ== 0\nIg== x":  `"x"`,
		"IQ== 0\nIg== 0":  `"0": want 1`,
		"IQ== 0\n\nI 1\n": `"I"`,
	} {
		if _, _, err := parse([]byte(file)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parse(%q) = %v, want an error with %s", file, err, want)
		}
	}
	if _, err := load("r9k_base", 1); err == nil || !strings.Contains(err.Error(), "r9k_base") {
		t.Errorf("load of an unknown vocabulary = %v, want an error that names it", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("IQ== 0\nIg== 1\n"))
	f.Add([]byte("\n\n= 0"))
	f.Fuzz(func(t *testing.T, file []byte) {
		arena, offsets, err := parse(file)
		if err == nil && int(offsets[len(offsets)-1]) != len(arena) {
			t.Errorf("parse(%q): offsets end at %d of %d bytes", file, offsets[len(offsets)-1], len(arena))
		}
	})
}

// A program that imports package estimator alone, to estimate, calibrate, sample
// and read requests, must not contain the vocabulary.
func TestVocabularyIsOnlyInBinariesThatImportTiktoken(t *testing.T) {
	if testing.Short() {
		t.Skip("builds two programs")
	}
	vocabulary, err := assets.Assets.ReadFile("o200k_base.tiktoken")
	if err != nil {
		t.Fatal(err)
	}
	sample := vocabulary[len(vocabulary)/2:][:200]

	without, deps := build(t, `package main
import "github.com/choked/choked/estimator"
func main() { n, err := estimator.Calibrate(estimator.Default()).Estimate("x"); println(n.Tokens, err) }`)
	if strings.Contains(deps, "tiktoken") {
		t.Errorf("a program that imports package estimator alone depends on:\n%s", deps)
	}
	with, deps := build(t, `package main
import "github.com/choked/choked/estimator/tiktoken"
func main() { n, err := tiktoken.OpenAI("gpt-4o").Estimate("x"); println(n.Tokens, err) }`)
	if !strings.Contains(deps, "tiktoken-go-loader/assets") {
		t.Errorf("a program that imports package tiktoken does not depend on the vocabulary:\n%s", deps)
	}
	for _, dep := range strings.Fields(deps) {
		if dep == "net" || strings.HasPrefix(dep, "net/") {
			t.Errorf("a program that imports package tiktoken could reach a network: it depends on %s", dep)
		}
	}
	if bytes.Contains(without, sample) || !bytes.Contains(with, sample) {
		t.Errorf("the vocabulary is in the binary without it: %t, with it: %t; want false and true",
			bytes.Contains(without, sample), bytes.Contains(with, sample))
	}
	if more := len(with) - len(without); more < 1<<20 {
		t.Errorf("the vocabulary makes a binary %d bytes larger, want at least 1 MB", more)
	}
	t.Logf("%d bytes without the vocabulary, %d with it", len(without), len(with))
}

// build compiles a program inside this module, and lists its dependencies.
func build(t *testing.T, source string) (binary []byte, deps string) {
	t.Helper()
	dir := t.TempDir()
	file, program := filepath.Join(dir, "main.go"), filepath.Join(dir, "program")
	if err := os.WriteFile(file, []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"build", "-o", program, file}, {"list", "-deps", file}} {
		out, err := exec.Command("go", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		deps = string(out)
	}
	binary, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	return binary, deps
}
