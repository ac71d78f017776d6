package bpe

import (
	"slices"
	"strings"
	"testing"

	"github.com/dlclark/regexp2"

	"github.com/choked/choked/estimator/internal/corpus"
)

var compiled = func() map[string]*regexp2.Regexp {
	all := map[string]*regexp2.Regexp{}
	for p := range patterns {
		all[p] = regexp2.MustCompile(p, regexp2.None)
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
	for pattern, re := range compiled {
		var want []string
		m, err := re.FindStringMatch(text)
		for ; m != nil && err == nil; m, err = re.FindNextMatch(m) {
			want = append(want, m.String())
		}
		if err != nil {
			t.Fatal(err)
		}
		split, ok := SplitOf(pattern)
		if got := pieces(text, split); !ok || !slices.Equal(got, want) {
			t.Errorf("pieces of %.200q:\n got %.400q\nwant %.400q\n by %s", text, got, want, pattern)
		}
	}
}

func TestSplitsMatchPatterns(t *testing.T) {
	for _, text := range slices.Concat(corpus.Edges(), corpus.Prose(), corpus.Hostile(60), corpus.Generated(1000), corpus.Go(2<<10, 20)) {
		checkSplits(t, text.Body)
	}
}

func TestSplitsMatchPatternsForAllShortTexts(t *testing.T) {
	// All texts of up to four characters, with one character of each kind.
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
	// Unicode folds the long s to s in patterns that ignore case; regexp2 does not.
	if got, want := pieces("it'ſx", CL100K), []string{"it", "'ſ", "x"}; !slices.Equal(got, want) {
		t.Errorf("pieces = %q, want %q", got, want)
	}
}

func FuzzSplitsMatchPatterns(f *testing.F) {
	for _, text := range corpus.Edges() {
		f.Add(text.Body)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 300 || strings.Contains(text, "'ſ") {
			t.Skip("too slow for regexp2, or a letter that it does not fold")
		}
		checkSplits(t, text)
	})
}
