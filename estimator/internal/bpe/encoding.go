// Package bpe encodes text by byte-level byte pair encoding. The time is n log n in
// the size of the text, for any text.
//
// A text is split into pieces ([Split]). The tokens of a piece are at first its
// bytes. Then the two neighbours with the lowest rank merge into one token, the
// leftmost of equals first, until no two may merge.
package bpe

import "unicode/utf8"

// Encoding encodes text by a vocabulary, a split, and the allowed merges with their
// ranks. It is immutable and safe for concurrent use.
type Encoding struct {
	vocab *Vocab
	split Split
	whole bool   // a piece that is a token is not merged from its bytes
	pairs *Pairs // nil: any two neighbours that make a token may merge, ranked by its id
}

// NewRanked returns an encoding whose merges follow from the vocabulary, as in
// OpenAI's encodings: two neighbours merge if together they are a token, lower ids
// first.
func NewRanked(v *Vocab, split Split) *Encoding {
	return &Encoding{vocab: v, split: split, whole: true}
}

// NewPaired returns an encoding whose merges are listed, as in a tokenizer.json.
// With whole, a piece that is a token is one token even if no merges lead to it
// ("ignore_merges" in the file).
func NewPaired(v *Vocab, split Split, pairs *Pairs, whole bool) *Encoding {
	return &Encoding{vocab: v, split: split, pairs: pairs, whole: whole}
}

// Count returns the number of tokens of text. Each byte that is not UTF-8 counts as
// U+FFFD, which encoding/json sends for it.
func (e *Encoding) Count(text string) int {
	n := 0
	s := scanner{text: valid(text), table: classes()}
	m := mergers.Get().(*merger)
	for i := 0; i < len(s.text); {
		end := s.next(i, e.split)
		piece := s.text[i:end]
		i = end
		if e.token(piece) != none {
			n++
			continue
		}
		m.merge(e, piece)
		n += len(m.ids)
	}
	m.free()
	return n
}

// Append appends the token ids of text to dst, and returns the result. Invalid
// UTF-8 is encoded as in Count.
func (e *Encoding) Append(dst []int32, text string) []int32 {
	s := scanner{text: valid(text), table: classes()}
	m := mergers.Get().(*merger)
	for i := 0; i < len(s.text); {
		end := s.next(i, e.split)
		piece := s.text[i:end]
		i = end
		if id := e.token(piece); id != none {
			dst = append(dst, id)
			continue
		}
		m.merge(e, piece)
		dst = append(dst, m.ids...)
	}
	m.free()
	return dst
}

// token returns the id of a piece that need not be merged, or none.
func (e *Encoding) token(piece string) int32 {
	if len(piece) == 1 {
		return e.vocab.bytes[piece[0]]
	}
	if !e.whole {
		return none
	}
	return e.vocab.lookup(piece)
}

// valid replaces each byte that is not part of a UTF-8 character by U+FFFD.
func valid(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	return string([]rune(text))
}
