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

// text is one text to fit, or to measure the error on.
type text struct {
	kind     string
	held     bool    // kept out of the fit
	floor    bool    // tokens are the fewest to estimate: more is as good
	weight   float64 // kinds with few texts are not drowned by those with many
	tokens   float64
	features [quick.Features]int32
}

const (
	smallest = 512
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
		h.Write([]byte(path[len(dir):])) // wherever the corpus is
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
	for i := range texts {
		texts[i].weight = 1 / math.Sqrt(float64(len(texts)))
	}
	return texts, nil
}

func wanted(path string) bool {
	name := filepath.Base(path)
	switch filepath.Ext(name) {
	case ".mo", ".page", ".go", ".c", ".h", ".py", ".js", ".ts", ".sh", ".pl", ".css", ".html", ".md", ".txt", ".rst", ".json", ".yaml", ".yml",
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

// translations are the translated strings of a gettext catalogue, a line each.
// Its header holds their number and the place of a table of lengths and offsets.
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
		if i > 0 && int64(at)+int64(size) <= int64(len(mo)) { // the first is the header's
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

func withoutTags(page string) string {
	return blank.ReplaceAllString(html.UnescapeString(tag.ReplaceAllString(page, "")), "\n")
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
