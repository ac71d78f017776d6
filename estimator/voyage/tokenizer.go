package voyage

import (
	"slices"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/choked/choked/estimator/internal/bpe"
)

// tokenizer counts as a tokenizer.json says. It is immutable.
type tokenizer struct {
	encoding *bpe.Encoding
	nfc      bool
	frame    int      // tokens put around every text
	raw      *matcher // added tokens, found before the text is normalised
	normal   *matcher // and after
}

// Count returns the number of tokens of text. Bytes that are not UTF-8 count as
// U+FFFD each. In a run of more than 30 combining marks, which no writing has,
// package norm puts a joiner after every 30, and that is counted too.
func (t *tokenizer) Count(text string) int {
	if !utf8.ValidString(text) {
		text = string([]rune(text))
	}
	n := t.frame
	n += t.raw.split(text, func(rest string) int {
		if t.nfc {
			rest = norm.NFC.String(rest)
		}
		return t.normal.split(rest, t.encoding.Count)
	})
	return n
}

// matcher finds added tokens in a text: the leftmost, and of those the longest.
type matcher struct {
	tokens map[string]bool
	sizes  [256][]int // of those with that first byte, longest first
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

// split counts a token for each match, and what count says of the text between.
func (m *matcher) split(text string, count func(string) int) int {
	if len(m.tokens) == 0 {
		return count(text)
	}
	n, start := 0, 0
	for i := 0; i < len(text); {
		size := m.at(text[i:])
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

// at gives the length of the longest added token that text begins with, or 0.
func (m *matcher) at(text string) int {
	for _, size := range m.sizes[text[0]] {
		if size <= len(text) && m.tokens[text[:size]] {
			return size
		}
	}
	return 0
}
