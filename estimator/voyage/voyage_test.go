package voyage_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/choked/choked/estimator/internal/corpus"
	"github.com/choked/choked/estimator/voyage"
)

type m = map[string]any

const qwen = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

// small returns a tokenizer.json with all bytes and a few merges, in the form that
// Voyage publishes, after change has edited it.
func small(change func(f m)) []byte {
	vocab := m{}
	id := 0
	token := func(s string) {
		vocab[s] = id
		id++
	}
	for b := range 256 {
		token(string(letterOf[b]))
	}
	merges := []any{"l o", "lo w", "Ġ low", []string{"e", "r"}, "low er", "Ã ©", "s t"}
	for _, t := range []string{"lo", "low", "Ġlow", "er", "lower", "Ã©", "st", "whole"} {
		token(t)
	}
	f := m{
		"version": "1.0", "truncation": nil, "padding": nil,
		"added_tokens": []any{
			m{"id": id, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true},
			m{"id": id + 1, "content": "<|end|>>", "normalized": false}, m{"id": id + 2, "content": "<é>", "normalized": true}},
		"normalizer": m{"type": "NFC"},
		"pre_tokenizer": m{"type": "Sequence", "pretokenizers": []any{
			m{"type": "Split", "pattern": m{"Regex": qwen}, "behavior": "Isolated", "invert": false},
			m{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}}},
		"post_processor": m{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
		"decoder":        m{"type": "ByteLevel"},
		"model": m{"type": "BPE", "dropout": nil, "unk_token": nil, "continuing_subword_prefix": "", "end_of_word_suffix": "",
			"fuse_unk": false, "byte_fallback": false, "vocab": vocab, "merges": merges},
	}
	if change != nil {
		change(f)
	}
	body, err := json.Marshal(f)
	if err != nil {
		panic(err) // maps and strings always marshal
	}
	return body
}

func write(t testing.TB, path string, body []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, body, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t testing.TB, body []byte) *voyage.Estimator {
	t.Helper()
	e, err := voyage.Load(write(t, filepath.Join(t.TempDir(), "tokenizer.json"), body))
	if err != nil {
		t.Fatalf("Load: %v", err)
	}
	return e
}

func TestCountFollowsFile(t *testing.T) {
	e := load(t, small(nil))
	for _, test := range []struct {
		text string
		want int
		why  string
	}{
		{"", 0, "no text"},
		{"low", 1, "lo+w"},
		{"lower", 1, "low+er"},
		{"lowest", 3, "low, e, st"},
		{" low", 1, "the space is written Ġ"},
		{"low low", 2, "low, Ġlow"},
		{"12", 2, "Qwen's split puts each digit alone"},
		{"whole", 5, "in the vocabulary, but no merges make it"},
		{"é", 1, "two bytes, merged"},
		{"e\u0301", 1, "the same in normal form C"},
		{"ē", 2, "two bytes"},
		{"low<|end|>low", 3, "an added token"},
		{"<|end|>>", 1, "the longest added token"},
		{"<|end|", 6, "only the start of an added token"},
		{"<é>", 1, "an added token"},
		{"<e\u0301>", 1, "an added token in normal form C"},
		{"\xff", 3, "U+FFFD"},
	} {
		if got := e.Counter().Count(test.text); got != test.want {
			t.Errorf("Count(%q) = %d, want %d: %s", test.text, got, test.want, test.why)
		}
	}
}

func TestSupportedSettingsChangeCount(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(f m)
		text   string
		want   int
	}{
		{"no normalizer", func(f m) { f["normalizer"] = nil }, "e\u0301", 3},
		{"an added token that is not in normal form", func(f m) { f["added_tokens"] = []any{m{"content": "<e\u0301>", "normalized": true}} }, "<é><e\u0301>", 2},
		{"a sequence of normalizers", func(f m) { f["normalizer"] = m{"type": "Sequence", "normalizers": []any{m{"type": "NFC"}}} }, "e\u0301", 1},
		{"merges ignored for whole tokens", func(f m) { f["model"].(m)["ignore_merges"] = true }, "whole", 1},
		{"GPT-2's split, by name", func(f m) { f["pre_tokenizer"] = m{"type": "ByteLevel", "add_prefix_space": false} }, " low lower", 3},
		{"tokens put around a text", func(f m) {
			f["post_processor"] = m{"type": "Sequence", "processors": []any{m{"type": "ByteLevel"}, m{"type": "TemplateProcessing", "single": []any{
				m{"SpecialToken": m{"id": "<s>", "type_id": 0}}, m{"Sequence": m{"id": "A", "type_id": 0}}, m{"SpecialToken": m{"id": "</s>", "type_id": 0}}}}}}
		}, "low", 3},
	} {
		if got := load(t, small(test.change)).Counter().Count(test.text); got != test.want {
			t.Errorf("%s: Count(%q) = %d, want %d", test.name, test.text, got, test.want)
		}
	}
}

func TestSimilarAddedTokensAreMatchedInLinearTime(t *testing.T) {
	// To try the tokens one after the other would take a minute.
	var added []any
	for i := range 4096 {
		added = append(added, m{"content": strings.Repeat("<", 124) + strconv.Itoa(1000+i)})
	}
	c := load(t, small(func(f m) { f["added_tokens"] = added })).Counter()
	text := strings.Repeat("<", 1<<20)
	start := time.Now()
	if got := c.Count(text + "1000"); got != 1<<20-124+1 {
		t.Errorf("Count = %d, want one for each byte before the added token, and one for that", got)
	}
	if took := time.Since(start); took > 30*time.Second {
		t.Errorf("1 MB took %v", took)
	}
}

func TestUnsupportedSettingIsNamed(t *testing.T) {
	model := func(key string, v any) func(m) { return func(f m) { f["model"].(m)[key] = v } }
	top := func(key string, v any) func(m) { return func(f m) { f[key] = v } }
	splitBy := func(split m) func(m) {
		return top("pre_tokenizer", m{"type": "Sequence", "pretokenizers": []any{split, m{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}}})
	}
	for _, test := range []struct {
		want   string
		change func(f m)
	}{
		{`model type "Unigram"`, top("model", m{"type": "Unigram", "unk_id": 0, "vocab": []any{[]any{"<unk>", 0}, []any{"a", -3.1}}})},
		{`model type "WordPiece"`, model("type", "WordPiece")},
		{"no model type", top("model", m{})},
		{"dropout 0.1", model("dropout", 0.1)},
		{`continuing_subword_prefix "##"`, model("continuing_subword_prefix", "##")},
		{`end_of_word_suffix "</w>"`, model("end_of_word_suffix", "</w>")},
		{`"lo" and "x"`, model("merges", []any{"lo x"})},
		{"merge 7", model("merges", []any{7})},
		{"want byte-level tokens", model("merges", []any{"日 本"})},
		{"the byte", model("vocab", func() m {
			v := m{}
			for i := range 300 {
				v[strings.Repeat("a", i+1)] = i
			}
			return v
		}())},
		{"id -1", model("vocab", m{"a": -1})},
		{"id 99999999", model("vocab", m{"a": 99999999})},
		{"two tokens", model("vocab", m{"a": 1, "b": 1})},
		{"truncation", top("truncation", m{"max_length": 5})},
		{"padding", top("padding", m{"strategy": "BatchLongest"})},
		{`normalizer "Lowercase"`, top("normalizer", m{"type": "Lowercase"})},
		{`pre_tokenizer "Metaspace"`, top("pre_tokenizer", m{"type": "Metaspace"})},
		{"no pre_tokenizer", top("pre_tokenizer", nil)},
		{"add_prefix_space", top("pre_tokenizer", m{"type": "ByteLevel", "add_prefix_space": true})},
		{"known split pattern", top("pre_tokenizer", m{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})},
		{`split pattern "\\s+"`, splitBy(m{"type": "Split", "pattern": m{"Regex": `\s+`}, "behavior": "Isolated"})},
		{`behavior "Removed"`, splitBy(m{"type": "Split", "pattern": m{"Regex": qwen}, "behavior": "Removed"})},
		{"plain string", splitBy(m{"type": "Split", "pattern": m{"String": " "}, "behavior": "Isolated"})},
		{`"Split" after ByteLevel`, top("pre_tokenizer", m{"type": "Sequence", "pretokenizers": []any{
			m{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}, m{"type": "Split", "pattern": m{"Regex": qwen}, "behavior": "Isolated"}}})},
		{`"ByteLevel" after ByteLevel`, top("pre_tokenizer", m{"type": "Sequence", "pretokenizers": []any{
			m{"type": "ByteLevel", "add_prefix_space": false}, m{"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}}})},
		{"splits twice", top("pre_tokenizer", m{"type": "Sequence", "pretokenizers": []any{
			m{"type": "Split", "pattern": m{"Regex": qwen}, "behavior": "Isolated"}, m{"type": "ByteLevel", "add_prefix_space": false}}})},
		{`post_processor "BertProcessing"`, top("post_processor", m{"type": "BertProcessing"})},
		{`"<x>": lstrip`, top("added_tokens", []any{m{"content": "<x>", "lstrip": true}})},
		{`"<x>": single_word`, top("added_tokens", []any{m{"content": "<x>", "single_word": true}})},
		{"without content", top("added_tokens", []any{m{"content": ""}})},
		{"added token \"<<<", top("added_tokens", []any{m{"content": strings.Repeat("<", 129)}})},
		{"1048577 merges: want at most 1048576", model("merges", make([]any, 1<<20+1))},
		{"added tokens: want at most 4096", top("added_tokens", make([]m, 5000))},
		{"not a tokenizer.json", top("added_tokens", "x")},
	} {
		path := write(t, filepath.Join(t.TempDir(), "tokenizer.json"), small(test.change))
		_, err := voyage.Load(path)
		if err == nil || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("Load = %v, want an error with %s and the file", err, test.want)
		}
	}
}

func TestUnreadableFileIsError(t *testing.T) {
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge.json")
	if err := os.WriteFile(huge, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 1<<30); err != nil {
		t.Fatal(err)
	}
	loop, inner := filepath.Join(dir, "loop.json"), filepath.Join(dir, "inner")
	if err := errors.Join(os.Symlink(loop, loop), os.MkdirAll(filepath.Join(inner, "tokenizer.json"), 0o700)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(dir, "none.json"): "none.json",
		dir:                             "tokenizer.json",
		huge:                            "larger than 64 MB",
		loop:                            "loop.json",
		os.DevNull:                      "not a regular file",
		inner:                           "not a regular file",
	} {
		if _, err := voyage.Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Load(%s) = %v, want an error with %q", path, err, want)
		}
	}
}

func TestLoadFindsFileInDirectory(t *testing.T) {
	for _, test := range []struct{ file, load string }{
		{"voyage-3/tokenizer.json", "voyage-3/tokenizer.json"},
		{"voyage-3/tokenizer.json", "voyage-3"},
		{"voyageai/voyage-3/tokenizer.json", "voyageai/voyage-3/"},
		{"models--voyageai--voyage-3/snapshots/0123abc/tokenizer.json", "models--voyageai--voyage-3"},
		{"hub/models--voyageai--voyage-3/snapshots/0123abc/tokenizer.json", "hub/models--voyageai--voyage-3"},
		{"hub/models--voyageai--voyage-3/snapshots/0123abc/tokenizer.json", "hub/models--voyageai--voyage-3/snapshots/0123abc"},
	} {
		cache := t.TempDir()
		write(t, filepath.Join(cache, test.file), small(nil))
		e, err := voyage.Load(filepath.Join(cache, test.load))
		if err != nil {
			t.Errorf("Load(%s) with %s: %v", test.load, test.file, err)
			continue
		}
		if n, err := e.Estimate([]byte(`{"model":"voyage-3","input":["low","lower low"],"input_type":"query"}`)); n.Tokens != 3 || err != nil {
			t.Errorf("Load(%s): Estimate = %v, %v; want 3 tokens", test.load, n, err)
		}
		if want := "voyage(" + filepath.Join(cache, test.file) + ")"; e.String() != want {
			t.Errorf("Load(%s): String = %s, want %s", test.load, e, want)
		}
	}
}

func TestLoadPrefersMainRevisionOfHub(t *testing.T) {
	for _, main := range []string{"0aaa", "5bbb", "9ccc"} {
		dir := filepath.Join(t.TempDir(), "models--voyageai--voyage-3")
		for _, revision := range []string{"0aaa", "5bbb", "9ccc"} {
			body := small(func(f m) {
				if revision == main {
					f["model"].(m)["ignore_merges"] = true // "whole" is one token
				}
			})
			write(t, filepath.Join(dir, "snapshots", revision, "tokenizer.json"), body)
		}
		write(t, filepath.Join(dir, "snapshots", "a file"), nil)
		write(t, filepath.Join(dir, "refs", "main"), []byte(main+"\n"))
		e, err := voyage.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := e.Estimate("whole"); n.Tokens != 1 || err != nil {
			t.Errorf("Estimate = %v, %v; want 1 token, as in revision %s", n, err, main)
		}
	}
}

func TestLoadReportsMissingFileAsNotExist(t *testing.T) {
	dir := t.TempDir()
	emptyHub := filepath.Join(dir, "models--voyageai--voyage-3")
	if err := os.MkdirAll(filepath.Join(emptyHub, "snapshots", "0123abc"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, emptyHub, filepath.Join(dir, "none"), filepath.Join(dir, "none", "tokenizer.json")} {
		e, err := voyage.Load(path)
		if e != nil || !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), path) != 1 {
			t.Errorf("Load(%s) = %v, %v; want fs.ErrNotExist, and the path once", path, e, err)
		}
	}
}

func TestLoadRefusesUnusableFile(t *testing.T) {
	dir := t.TempDir()
	invalid := write(t, filepath.Join(dir, "invalid", "tokenizer.json"), []byte("{}"))
	dangling, loop, file := filepath.Join(dir, "dangling"), filepath.Join(dir, "loop"), write(t, filepath.Join(dir, "file"), small(nil))
	if err := errors.Join(os.Mkdir(dangling, 0o700), os.Symlink("none", filepath.Join(dangling, "tokenizer.json")),
		os.Mkdir(loop, 0o700), os.Symlink("snapshots", filepath.Join(loop, "snapshots"))); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"a file that is not a tokenizer":    filepath.Dir(invalid),
		"a directory with a dangling link":  dangling,
		"a dangling link":                   filepath.Join(dangling, "tokenizer.json"),
		"snapshots that cannot be read":     loop,
		"a file in the place of its parent": filepath.Join(file, "tokenizer.json"),
	} {
		if e, err := voyage.Load(path); err == nil || e != nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), path) {
			t.Errorf("Load of %s = %v, %v; want an error with the path that is not fs.ErrNotExist", name, e, err)
		}
	}
}

func FuzzLoadAnyFile(f *testing.F) {
	f.Add(small(nil))
	f.Add([]byte(`{"model":{"merges":["a"]}}`))
	path := filepath.Join(f.TempDir(), "tokenizer.json")
	f.Fuzz(func(t *testing.T, body []byte) {
		write(t, path, body)
		e, err := voyage.Load(path)
		if err == nil && e.Counter().Count("low<|end|>") < 1 {
			t.Errorf("Count of a text is less than 1 by the tokenizer %q", body)
		}
	})
}

func BenchmarkCount(b *testing.B) {
	// With few merges this measures the cost of normalisation and added tokens, not
	// of a real vocabulary.
	c := load(b, small(nil)).Counter()
	text := corpus.English(50 << 10)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		c.Count(text)
	}
}
