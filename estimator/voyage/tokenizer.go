package voyage

import (
	"slices"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/choked/choked/estimator/internal/bpe"
)

// tokenizer counts tokens as a tokenizer.json says. It is immutable and safe for
// concurrent use.
type tokenizer struct {
	encoding   *bpe.Encoding
	nfc        bool     // text is normalised to Unicode's form C
	frame      int      // number of tokens that are put around every text
	raw        *matcher // added tokens that are matched before normalisation
	normalised *matcher // added tokens that are matched after it
}

// Count returns the number of tokens of text. Each byte that is not UTF-8 counts
// as U+FFFD. In a run of more than 30 combining marks, which no language has,
// package norm inserts a joiner after every 30, and these count too.
func (t *tokenizer) Count(text string) int {
	if !utf8.ValidString(text) {
		text = string([]rune(text))
	}
	n := t.frame
	n += t.raw.split(text, func(rest string) int {
		if t.nfc {
			rest = norm.NFC.String(rest)
		}
		return t.normalised.split(rest, t.encoding.Count)
	})
	return n
}

// matcher matches added tokens in a text: the leftmost first, and of several at
// one place the longest.
type matcher struct {
	tokens map[string]bool
	sizes  [256][]int // by first byte: the sizes of the tokens in bytes, longest first
}

func newMatcher(tokens []string) *matcher {
	m := &matcher{tokens: map[string]bool{}}
	for _, t := range tokens {
		m.tokens[t] = true
		if sizes := m.sizes[t[0]]; !slices.Contains(sizes, len(t)) {
			m.sizes[t[0]] = append(sizes, len(t))
		}
	}
	for _, sizes := range m.sizes {
		slices.SortFunc(sizes, func(a, b int) int { return b - a })
	}
	return m
}

// split returns one for each match, plus count of each text between the matches.
func (m *matcher) split(text string, count func(string) int) int {
	if len(m.tokens) == 0 {
		return count(text)
	}
	n, start := 0, 0
	for i := 0; i < len(text); {
		size := m.match(text[i:])
		if size == 0 {
			i++
			continue
		}
		if start < i {
			n += count(text[start:i])
		}
		n++
		i += size
		start = i
	}
	if start < len(text) {
		n += count(text[start:])
	}
	return n
}

// match returns the length of the longest added token that text begins with, or 0.
func (m *matcher) match(text string) int {
	for _, size := range m.sizes[text[0]] {
		if size <= len(text) && m.tokens[text[:size]] {
			return size
		}
	}
	return 0
}
