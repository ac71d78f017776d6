package bpe

import (
	"slices"
	"strings"
	"testing"

	"github.com/dlclark/regexp2"

	"github.com/choked/choked/estimator/internal/corpus"
)

// patterns are the expressions that the splits match by hand, as their
// encoders publish them.
var patterns = map[Split]string{
	GPT2:   `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`,
	CL100K: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
	Qwen:   `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
	O200K: `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?` +
		`|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?` +
		`|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
}

var compiled = func() map[Split]*regexp2.Regexp {
	all := map[Split]*regexp2.Regexp{}
	for split, p := range patterns {
		all[split] = regexp2.MustCompile(p, regexp2.None)
	}
	return all
}()

func pieces(text string, split Split) []string {
	s := scanner{text: text, table: classes()}
	var all []string
	for i := 0; i < len(text); {
		end := s.next(i, split)
		all = append(all, text[i:end])
		i = end
	}
	return all
}

func checkSplits(t *testing.T, text string) {
	t.Helper()
	text = valid(text)
	for split, re := range compiled {
		var want []string
		m, err := re.FindStringMatch(text)
		for ; m != nil && err == nil; m, err = re.FindNextMatch(m) {
			want = append(want, m.String())
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := pieces(text, split); !slices.Equal(got, want) {
			t.Errorf("split %d of %.200q:\n got %.400q\nwant %.400q", split, text, got, want)
		}
	}
}

func TestSplitsMatchTheirPatterns(t *testing.T) {
	for _, text := range slices.Concat(corpus.Edges(), corpus.Prose(), corpus.Hostile(60), corpus.Generated(1000), corpus.Go(2<<10, 20)) {
		checkSplits(t, text.Body)
	}
}

func TestSplitsMatchTheirPatternsFromAnyPlace(t *testing.T) {
	// All strings of up to four characters over one of each kind.
	kinds := []string{"a", "B", "中", "\u0301", "1", " ", "\n", "\t", "'", "s", "/", "!", "ǅ"}
	var grow func(text string, left int)
	grow = func(text string, left int) {
		checkSplits(t, text)
		if left > 0 {
			for _, k := range kinds {
				grow(text+k, left-1)
			}
		}
	}
	depth := 3
	if !testing.Short() {
		depth = 4
	}
	grow("", depth)
}

func TestLongSFoldsToS(t *testing.T) {
	// As Unicode folds case, which the expressions of regexp2 do not.
	if got, want := pieces("it'ſx", CL100K), []string{"it", "'ſ", "x"}; !slices.Equal(got, want) {
		t.Errorf("pieces = %q, want %q", got, want)
	}
}

func FuzzSplitsMatchTheirPatterns(f *testing.F) {
	for _, text := range corpus.Edges() {
		f.Add(text.Body)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 300 || strings.Contains(text, "'ſ") {
			t.Skip("too slow for regexp2, or a case it does not fold")
		}
		checkSplits(t, text)
	})
}
