package voyage_test

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/pkoukk/tiktoken-go-loader/assets"

	"github.com/choked/choked/estimator/internal/corpus"
	"github.com/choked/choked/estimator/tiktoken"
)

const cl100k = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

// A vocabulary with ranks is equal to one with merges: each token is the merge of
// the two tokens into which its bytes merge by lower ranks. So OpenAI's vocabulary
// of 100,000 tokens, written as a tokenizer.json, is an oracle for Load.
func TestLoadedOpenAIVocabularyCountsAsOpenAI(t *testing.T) {
	if testing.Short() {
		t.Skip("writes and reads a file of 4 MB")
	}
	file, err := assets.Assets.ReadFile("cl100k_base.tiktoken")
	if err != nil {
		t.Fatal(err)
	}
	ranks := map[string]int{}
	var tokens []string
	for line := range bytes.Lines(file) {
		word, _, _ := bytes.Cut(line, []byte(" "))
		token, err := base64.StdEncoding.DecodeString(string(word))
		if err != nil {
			t.Fatal(err)
		}
		ranks[string(token)] = len(tokens)
		tokens = append(tokens, string(token))
	}
	vocab, merges := m{}, []any{}
	for id, token := range tokens {
		vocab[letters(token)] = id
		if parts := mergedBelow(ranks, token, id); len(parts) == 2 {
			merges = append(merges, []string{letters(parts[0]), letters(parts[1])})
		}
	}
	ours := load(t, small(func(f m) {
		f["normalizer"], f["added_tokens"] = nil, []any{}
		f["pre_tokenizer"].(m)["pretokenizers"].([]any)[0].(m)["pattern"] = m{"Regex": cl100k}
		model := f["model"].(m)
		model["vocab"], model["merges"], model["ignore_merges"] = vocab, merges, true
	})).Counter()
	truth, err := tiktoken.OpenAI("gpt-4").Counter()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range slices.Concat(corpus.Edges(), corpus.Prose(), corpus.Generated(6<<10), corpus.Hostile(3000), corpus.Go(6<<10, 40)) {
		if got, want := ours.Count(text.Body), truth.Count(text.Body); got != want {
			t.Errorf("Count of %s %.80q = %d, want %d", text.Name, text.Body, got, want)
		}
	}
}

// mergedBelow merges the bytes of a token by the merges below rank.
func mergedBelow(ranks map[string]int, token string, rank int) []string {
	var parts []string
	for i := range len(token) {
		parts = append(parts, token[i:i+1])
	}
	for {
		lowest, at := rank, -1
		for i := range len(parts) - 1 {
			if r, ok := ranks[parts[i]+parts[i+1]]; ok && r < lowest {
				lowest, at = r, i
			}
		}
		if at < 0 {
			return parts
		}
		parts = slices.Replace(parts, at, at+2, parts[at]+parts[at+1])
	}
}

// letters returns bytes as a byte-level vocabulary writes them.
func letters(token string) string {
	var b strings.Builder
	for i := range len(token) {
		b.WriteRune(letterOf[token[i]])
	}
	return b.String()
}

var letterOf = func() (table [256]rune) {
	other := rune(0x100) // bytes that are not printable are characters from here on
	for b := range rune(256) {
		if '!' <= b && b <= '~' || 0xa1 <= b && b <= 0xac || b >= 0xae {
			table[b] = b
		} else {
			table[b] = other
			other++
		}
	}
	return table
}()
