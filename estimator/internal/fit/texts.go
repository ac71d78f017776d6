package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/choked/choked/estimator/internal/quick"
	"github.com/choked/choked/estimator/tiktoken"
)

// text is one text to fit, or to measure the error on.
type text struct {
	kind     string
	held     bool // kept out of the fit
	tokens   float64
	features [quick.Features]float64
}

const (
	smallest = 1 << 10
	largest  = 8 << 10
	perFile  = 3 // texts taken of one file, so that none outweighs the others
)

// readTexts cuts the files below dir into at most limit texts. Which files and
// where is random but always the same.
func readTexts(kind, dir string, limit int) ([]text, error) {
	truth, err := tiktoken.OpenAI("gpt-4o").Counter()
	if err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(1, 2))
	var paths []string
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && wanted(path) {
			paths = append(paths, path)
		}
		return nil // what cannot be read is left out
	})
	if err != nil {
		return nil, fmt.Errorf("fit: %s: %w", dir, err)
	}
	slices.Sort(paths)
	r.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })

	var texts []text
	for _, path := range paths {
		if len(texts) >= limit {
			break
		}
		body, err := read(path)
		if err != nil || !utf8.ValidString(body) {
			continue
		}
		h := fnv.New32a()
		h.Write([]byte(path))
		for range perFile {
			if len(body) < smallest {
				break
			}
			size := min(smallest+r.IntN(largest-smallest), len(body))
			for size < len(body) && !utf8.RuneStart(body[size]) {
				size++
			}
			t := text{kind: kind, held: h.Sum32()%4 == 0, tokens: float64(truth.Count(body[:size]))}
			quick.AddFeatures(&t.features, body[:size])
			texts = append(texts, t)
			body = body[size:]
		}
	}
	fmt.Printf("%-12s %4d texts of %s\n", kind, len(texts), dir)
	return texts, nil
}

func wanted(path string) bool {
	name := filepath.Base(path)
	switch filepath.Ext(name) {
	case ".go", ".c", ".h", ".py", ".js", ".ts", ".sh", ".pl", ".css", ".html", ".md", ".txt", ".rst", ".json", ".yaml", ".yml",
		".xml", ".sql", ".log", ".csv", ".po", ".gz", ".toml", ".java", ".rb", ".rs", ".s":
		return !strings.Contains(name, ".min.")
	}
	return strings.HasPrefix(name, "README") || strings.HasPrefix(name, "copyright")
}

func read(path string) (string, error) {
	body, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if strings.HasSuffix(path, ".gz") {
		z, err := gzip.NewReader(bytes.NewReader(body))
		if err != nil {
			return "", err
		}
		if body, err = io.ReadAll(io.LimitReader(z, 1<<20)); err != nil {
			return "", err
		}
	}
	if strings.Contains(path, "/man/") {
		return unroff(string(body)), nil
	}
	return string(body), nil
}

var (
	request = regexp.MustCompile(`(?m)^[.'].*\n`)
	escape  = regexp.MustCompile(`\\(f\(..|f\[[^\]]*\]|f.|s[-+]?\d|&|/|,|\||:|%|c)`)
)

// unroff leaves the prose of a manual page.
func unroff(page string) string {
	prose := escape.ReplaceAllString(request.ReplaceAllString(page, ""), "")
	return strings.NewReplacer(`\-`, "-", `\e`, `\`, `\(bu`, "•", `\(aq`, "'", `\ `, " ").Replace(prose)
}
