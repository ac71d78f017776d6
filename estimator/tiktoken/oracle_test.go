package tiktoken

import (
	"slices"
	"strings"
	"sync"
	"testing"

	oracle "github.com/pkoukk/tiktoken-go"
	loader "github.com/pkoukk/tiktoken-go-loader"

	"github.com/choked/choked/estimator/internal/bpe"
	"github.com/choked/choked/estimator/internal/corpus"
)

// pair is an encoding of this package with that of tiktoken-go, which is slow to
// build and quadratic on long runs, but correct.
type pair struct {
	name   string
	ours   *bpe.Encoding
	theirs *oracle.Tiktoken
}

var pairs = sync.OnceValues(func() ([]pair, error) {
	oracle.SetBpeLoader(loader.NewOfflineLoader())
	var all []pair
	for _, e := range []encoding{o200kBase, cl100kBase} {
		ours, err := e.load()()
		if err != nil {
			return nil, err
		}
		theirs, err := oracle.GetEncoding(string(e))
		if err != nil {
			return nil, err
		}
		all = append(all, pair{string(e), ours, theirs})
	}
	return all, nil
})

func forEachEncoding(t testing.TB, f func(p pair)) {
	t.Helper()
	all, err := pairs()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		f(p)
	}
}

// check compares the tokens of one text with those of the oracle. The oracle gets
// valid UTF-8, with U+FFFD for other bytes: it has another rule for these.
func (p pair) check(t testing.TB, name, text string) {
	t.Helper()
	want := p.theirs.EncodeOrdinary(string([]rune(text)))
	got := p.ours.Append(nil, text)
	same := len(got) == len(want)
	for i := 0; same && i < len(got); i++ {
		same = int(got[i]) == want[i]
	}
	if !same {
		t.Errorf("%s: tokens of %s %.80q:\n got %v\nwant %v", p.name, name, text, head(got), head(want))
	}
	if n := p.ours.Count(text); n != len(got) {
		t.Errorf("%s: Count of %s %.80q = %d, but Append gives %d tokens", p.name, name, text, n, len(got))
	}
}

func head[T any](s []T) []T { return s[:min(len(s), 60)] }

func TestTokensEqualOracle(t *testing.T) {
	texts := slices.Concat(corpus.Edges(), corpus.Prose(), corpus.Generated(6<<10), corpus.Go(6<<10, 40))
	forEachEncoding(t, func(p pair) {
		for _, text := range texts {
			p.check(t, text.Name, text.Body)
		}
	})
}

func TestTokensOfHostileTextEqualOracle(t *testing.T) {
	// The sizes reach both ways of merging, and are short enough for the oracle.
	for _, size := range []int{50, 500} {
		forEachEncoding(t, func(p pair) {
			for _, text := range corpus.Hostile(size) {
				p.check(t, text.Name, text.Body)
			}
		})
	}
}

func TestTokensOfEveryPrefixAndSuffixEqualOracle(t *testing.T) {
	// The text has boundaries of all kinds, so its prefixes and suffixes begin and end
	// at all kinds of places.
	text := "Das ist’s: HTTPServer's 12345 №7\r\n\r\n  日本語ABCテスト!!\n/ e\u0301\u0323a \u00a0\t 👩🏽‍🚀\n \n x"
	forEachEncoding(t, func(p pair) {
		for i := range text {
			p.check(t, "suffix", text[i:])
			p.check(t, "prefix", text[:i])
		}
	})
}

func TestInvalidUTF8CountsAsReplacementCharacters(t *testing.T) {
	forEachEncoding(t, func(p pair) {
		for _, text := range []string{"\xff", "a\xc3", "\xe2\x82", "ok \xf0\x9f\x98 ok", "\xed\xa0\x80", strings.Repeat("\x80", 300)} {
			p.check(t, "invalid", text)
			if got, want := p.ours.Count(text), p.ours.Count(string([]rune(text))); got != want {
				t.Errorf("%s: Count(%q) = %d, want %d as with U+FFFD", p.name, text, got, want)
			}
		}
	})
}

func TestSpecialTokensAreOrdinaryText(t *testing.T) {
	forEachEncoding(t, func(p pair) {
		if n := p.ours.Count("<|endoftext|>"); n < 5 {
			t.Errorf("%s: %q counts as %d tokens, want one for each part of its spelling", p.name, "<|endoftext|>", n)
		}
	})
}

func FuzzTokensEqualOracle(f *testing.F) {
	for _, text := range slices.Concat(corpus.Edges(), corpus.Hostile(40)) {
		f.Add(text.Body)
	}
	f.Add("a\xffb'S\u212a'\u017ft")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 400 {
			t.Skip("too slow for the oracle")
		}
		forEachEncoding(t, func(p pair) { p.check(t, "text", text) })
	})
}
