// Package corpus holds texts for the tests and benchmarks of the estimators only; it
// is not a test file because several packages use it. The prose, in some thirty
// languages, was written for this project. The other texts are generated, the same
// at each call, or read from the Go installation.
package corpus

import (
	"embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"go/build"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Text is a text with a name for the messages of a test.
type Text struct {
	Name, Body string
}

//go:embed texts/*.txt
var files embed.FS

// Prose returns a short text in each language, one in Markdown and one with emoji.
func Prose() []Text {
	var texts []Text
	entries, err := files.ReadDir("texts")
	if err != nil {
		panic(err) // cannot fail: the files are embedded
	}
	for _, e := range entries {
		body, err := files.ReadFile("texts/" + e.Name())
		if err != nil {
			panic(err)
		}
		texts = append(texts, Text{strings.TrimSuffix(e.Name(), ".txt"), string(body)})
	}
	return texts
}

// English returns n bytes of English prose, with its clauses in random order.
func English(n int) string { return Shuffled("en", n) }

// Shuffled returns up to n bytes of the text in one language, with its clauses in
// random order so that a long text does not repeat itself.
func Shuffled(name string, n int) string {
	body, err := files.ReadFile("texts/" + name + ".txt")
	if err != nil {
		panic(err)
	}
	cut := func(r rune) bool { return strings.ContainsRune(".,;，。、؛،।", r) }
	clauses := strings.FieldsFunc(strings.TrimSpace(string(body)), cut)
	r := rand.New(rand.NewPCG(7, uint64(n)))
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(clauses[r.IntN(len(clauses))])
		b.WriteString([]string{".", ",", ".\n", ";", "!\n\n"}[r.IntN(5)])
	}
	return strings.ToValidUTF8(b.String()[:n], "")
}

// Generated returns texts of n bytes such as programs write: JSON, logs, CSV,
// base64 and hexadecimal.
func Generated(n int) []Text {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	var jsonText, logs, csv strings.Builder
	levels := []string{"INFO", "WARN", "ERROR", "DEBUG"}
	for i := 0; logs.Len() < n; i++ {
		fmt.Fprintf(&logs, "2025-03-%02dT%02d:%02d:%02d.%03dZ %s worker-%d request id=%08x took %dms status=%d path=/v1/items/%d\n",
			1+r.IntN(28), r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1000), levels[r.IntN(4)], r.IntN(16), r.Uint32(),
			r.IntN(3000), 200+r.IntN(4)*100, r.IntN(1e6))
	}
	for i := 0; jsonText.Len() < n; i++ {
		fmt.Fprintf(&jsonText, `{"id":%d,"user":{"name":"user_%d","active":%t},"score":%.4f,"tags":["alpha","b-%d",null]},`+"\n",
			i, r.IntN(1e5), r.IntN(2) == 0, r.Float64()*100, r.IntN(10))
	}
	for csv.Len() < n {
		fmt.Fprintf(&csv, "%d;%s;%.2f;%q\r\n", r.IntN(1e9), levels[r.IntN(4)], r.NormFloat64(), "a, b")
	}
	random := make([]byte, n)
	for i := range random {
		random[i] = byte(r.Uint32())
	}
	return []Text{
		{"json", jsonText.String()[:n]},
		{"log", logs.String()[:n]},
		{"csv", csv.String()[:n]},
		{"base64", base64.StdEncoding.EncodeToString(random)[:n]},
		{"hex", hex.EncodeToString(random)[:n]},
	}
}

// Uneven returns texts of about n bytes that are hard to sample: their parts differ
// in the number of bytes per token, or are runs of spaces.
func Uneven(n int) []Text {
	r := rand.New(rand.NewPCG(2, uint64(n)))
	fill := func(name string, part func(i int) string) Text {
		var b strings.Builder
		for i := 0; b.Len() < n; i++ {
			b.WriteString(part(i))
		}
		return Text{name, strings.ToValidUTF8(b.String()[:n], "")}
	}
	sources := slices.Concat(Generated(8<<10), Go(8<<10, 60), Prose())
	return []Text{
		{"English, then Chinese", English(n*4/5) + Shuffled("zh", n/5)},
		fill("many documents", func(int) string {
			body := sources[r.IntN(len(sources))].Body
			return body[:min(512+r.IntN(6000), len(body))]
		}),
		fill("a few documents", func(int) string {
			size := 4000 + r.IntN(30_000)
			return Generated(size)[r.IntN(5)].Body + English(size/2) + Shuffled("zh", size/2)
		}),
		fill("nested JSON", func(i int) string {
			return fmt.Sprintf("%s\"key%d\": {\n", strings.Repeat("    ", i%40), r.IntN(99))
		}),
		fill("a table", func(int) string {
			return fmt.Sprintf("| %-40s | %-60s | %10d |\n", fmt.Sprint("item ", r.IntN(1e6)), "value", r.IntN(1e5))
		}),
		fill("a wide table", func(int) string {
			return fmt.Sprintf("%-180s%-180s%10d\n", fmt.Sprint("item ", r.IntN(1e6)), "value", r.IntN(1e5))
		}),
		fill("records of one size", func(int) string { return fmt.Sprintf("%-250s\n", fmt.Sprint("ACCT ", r.IntN(1e6), " NAME")) }),
		fill("lines of spaces", func(int) string { return strings.Repeat(" ", 300) + "\n" }),
	}
}

// Hostile returns texts of about n bytes on which a naive encoder is slow.
func Hostile(n int) []Text {
	repeat := func(s string) string { return strings.Repeat(s, n/len(s)+1) }
	r := rand.New(rand.NewPCG(3, uint64(n)))
	letters := make([]byte, n)
	for i := range letters {
		letters[i] = byte('a' + r.IntN(26))
	}
	return []Text{
		{"one letter", repeat("a")},
		{"random letters", string(letters)},
		{"bytes that are not UTF-8", repeat("\xf0\x9f")},
		{"spaces", repeat(" ")},
		{"spaces and a letter", repeat(" ") + "x"},
		{"emoji", repeat("😀")},
		{"families", repeat("👨‍👩‍👧‍👦")},
		{"letter digit", repeat("a1")},
		{"newlines", repeat("\n")},
		{"line ends", repeat("\r\n \t")},
		{"digits", repeat("7")},
		{"combining marks", repeat("\u0301")},
		{"letter and marks", "e" + repeat("\u0301\u0323")},
		{"capitals after a caseless letter", "中" + repeat("A")},
		{"punctuation", repeat("=")},
		{"slashes", repeat("!/")},
		{"apostrophes", repeat("'s")},
		{"words without spaces", repeat("thequickbrownfoxjumpsoverthelazydog")},
		{"one Chinese character", repeat("的")},
		{"Thai", repeat("กำ")},
	}
}

// Edges returns short texts on which encoders have been wrong.
func Edges() []Text {
	var texts []Text
	for _, s := range []string{
		"", " ", "  ", "\n", "\n \n", " \n\n x", "\r\n\r\n", "a\u00a0 b", "\u3000\u3000x", "x \t\n", "\v\f\u0085\u2028y",
		"it's IT'S It'S we'll WE'LL they've I'D 'tis ''s 's 'll'", "don'T'reX", "'RE'Ve",
		"HTTPServer XMLHttpRequest camelCase SNAKE_CASE_X iOS McDonald's ΑΒΓδεζ ǅenana", "中ABC中Abc", "\u0301ABC", "!\u0301a", "\u0301", "\u0301\u0301 1",
		"123456789 1,234.5678 ١٢٣٤ ⅣⅤ ½¾ 0x1F", "a/b//c/ /\n///\n", "!!!\n\n//\r", " !\n", " ?/x", "https://a.example/b?c=d&e=%20#f",
		"<|endoftext|>", "a<|im_start|>user<|im_end|>", "<|fim_prefix|><|endofprompt|>",
		"ʰʱ ʰA Aʰ aʰB", "ß ﬁ ŉ İ ı K", "\U000e0100\U000f0000\U0010ffff", "\x00\x01\x7f", "e\u0301 é", "नमस्ते", "👩🏽‍🚀", "ｆｕｌｌ　ｗｉｄｔｈ１２３",
	} {
		texts = append(texts, Text{fmt.Sprintf("edge %q", s), s})
	}
	return texts
}

// Go returns at most limit texts of size bytes from the sources and documents of
// the Go installation, from all parts of it. Without an installation it returns
// none.
func Go(size, limit int) []Text {
	root := filepath.Join(build.Default.GOROOT, "src")
	var paths []string
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || strings.Count(path[len(root):], string(filepath.Separator)) > 3 {
			return nil // skip unreadable and deep directories
		}
		if info, err := d.Info(); err == nil && d.Type().IsRegular() && info.Size() >= int64(size) {
			switch filepath.Ext(path) {
			case ".go", ".md", ".s", ".txt", ".html":
				paths = append(paths, path)
			}
		}
		return nil
	})
	var texts []Text
	for i := 0; i < limit && i < len(paths); i++ {
		path := paths[i*len(paths)/min(limit, len(paths))]
		if body, err := os.ReadFile(path); err == nil {
			texts = append(texts, Text{path[len(root)+1:], strings.ToValidUTF8(string(body[:size]), "")})
		}
	}
	return texts
}
