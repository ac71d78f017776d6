package main

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"html"
	"io"
	"io/fs"
	"math"
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

// text is one text of the fit, or of the measurement of the error.
type text struct {
	kind     string
	held     bool    // held out of the fit, to measure the error on
	floor    bool    // tokens is a lower bound of the estimate, not its target
	weight   float64 // of the text in the fit: kinds with few texts weigh more
	tokens   float64
	features [quick.Features]int32
}

const (
	minSize = 512     // of a text, in bytes
	maxSize = 8 << 10 // of a text, in bytes
	perFile = 3       // texts from one file, so that no file outweighs the others
)

// readTexts cuts the files below dir into texts, and stops after the file with which
// it has limit of them. The choice of files and sizes is random, but the same at
// each run.
func readTexts(kind, dir string, limit int) ([]text, error) {
	truth, err := tiktoken.OpenAI("gpt-4o").Counter()
	if err != nil {
		return nil, err
	}
	paths, err := files(dir)
	if err != nil {
		return nil, fmt.Errorf("read texts of %s: %w", dir, err)
	}
	r := rand.New(rand.NewPCG(1, 2))
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
		h.Write([]byte(path[len(dir):])) // the same wherever the corpus is
		for _, part := range cut(body, r) {
			t := text{kind: kind, held: h.Sum32()%4 == 0, tokens: float64(truth.Count(part))}
			quick.AddFeatures(&t.features, part)
			texts = append(texts, t)
		}
	}
	for i := range texts {
		texts[i].weight = 1 / math.Sqrt(float64(len(texts)))
	}
	return texts, nil
}

// files lists the files of wanted kinds below dir in order. It skips unreadable ones.
func files(dir string) ([]string, error) {
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() && wanted(path) {
			paths = append(paths, path)
		}
		return nil
	})
	slices.Sort(paths)
	return paths, err
}

// cut returns up to perFile texts of random sizes from the start of body.
func cut(body string, r *rand.Rand) []string {
	var parts []string
	for range perFile {
		if len(body) < minSize {
			break
		}
		size := min(minSize+r.IntN(maxSize-minSize), len(body))
		for size < len(body) && !utf8.RuneStart(body[size]) {
			size++
		}
		parts = append(parts, body[:size])
		body = body[size:]
	}
	return parts
}

// wanted reports whether a file has text of a kind to fit.
func wanted(path string) bool {
	name := filepath.Base(path)
	switch filepath.Ext(name) {
	case ".mo", ".page", ".go", ".c", ".h", ".py", ".js", ".ts", ".sh", ".pl", ".css", ".html", ".md", ".txt", ".rst", ".json", ".yaml", ".yml",
		".xml", ".sql", ".log", ".csv", ".po", ".gz", ".toml", ".java", ".rb", ".rs", ".s":
		return !strings.Contains(name, ".min.")
	}
	return strings.HasPrefix(name, "README") || strings.HasPrefix(name, "copyright")
}

// read returns the text in a file, uncompressed and without markup.
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
	switch {
	case strings.Contains(path, "/man/"):
		return unroff(string(body)), nil
	case filepath.Ext(path) == ".mo":
		return withoutTags(translations(body)), nil
	case filepath.Ext(path) == ".page", strings.Contains(path, "/guide/"):
		return withoutTags(string(body)), nil
	}
	return string(body), nil
}

// translations returns the translated strings of a gettext catalogue, one a line.
// The header has the number of strings, and the offset of a table with the length
// and the offset of each.
func translations(mo []byte) string {
	u32 := func(at uint32) uint32 {
		if int64(at)+4 > int64(len(mo)) {
			return 0
		}
		return binary.LittleEndian.Uint32(mo[at:])
	}
	if u32(0) != 0x950412de {
		return ""
	}
	var b strings.Builder
	for i := range min(u32(8), 1<<16) {
		size, at := u32(u32(16)+8*i), u32(u32(16)+8*i+4)
		if i > 0 && int64(at)+int64(size) <= int64(len(mo)) { // string 0 is the header
			b.Write(mo[at : at+size])
			b.WriteByte('\n')
		}
	}
	return strings.ReplaceAll(b.String(), "\x00", "\n")
}

var (
	tag   = regexp.MustCompile(`(?s)<!--.*?-->|<[^<>]*>`)
	blank = regexp.MustCompile(`\s*\n\s*`)
)

// withoutTags returns the text of an HTML page.
func withoutTags(page string) string {
	return blank.ReplaceAllString(html.UnescapeString(tag.ReplaceAllString(page, "")), "\n")
}

var (
	request = regexp.MustCompile(`(?m)^[.'].*\n`)
	escape  = regexp.MustCompile(`\\(f\(..|f\[[^\]]*\]|f.|s[-+]?\d|&|/|,|\||:|%|c)`)
)

// unroff returns the prose of a manual page.
func unroff(page string) string {
	prose := escape.ReplaceAllString(request.ReplaceAllString(page, ""), "")
	return strings.NewReplacer(`\-`, "-", `\e`, `\`, `\(bu`, "•", `\(aq`, "'", `\ `, " ").Replace(prose)
}
