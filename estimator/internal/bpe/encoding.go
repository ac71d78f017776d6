// Package bpe encodes text by byte-level byte pair encoding, in time that is
// linear in the text but for a logarithm, whatever the text holds.
//
// A text is split into pieces ([Split]), and each piece is merged from its bytes
// up: always the pair of neighbours with the lowest rank, the leftmost of equals.
package bpe

import "unicode/utf8"

// Encoding is a way to encode text: how it is split, and which merges are
// allowed, at what rank. It is immutable and safe for concurrent use.
type Encoding struct {
	vocab *Vocab
	split Split
	whole bool   // a piece that is a token needs no merging
	pairs *Pairs // nil: any two neighbours that make a token may merge, ranked by its id
}

// NewRanked returns an encoding whose merges are given by the vocabulary alone:
// neighbours merge if together they are a token, lower ids first. OpenAI's are so.
func NewRanked(v *Vocab, split Split) *Encoding {
	return &Encoding{vocab: v, split: split, whole: true}
}

// NewPaired returns an encoding whose merges are listed, as in a tokenizer.json.
// With whole, a piece that is a token is never split (its "ignore_merges").
func NewPaired(v *Vocab, split Split, pairs *Pairs, whole bool) *Encoding {
	return &Encoding{vocab: v, split: split, pairs: pairs, whole: whole}
}

// Count returns the number of tokens of text. Bytes that are not UTF-8 count as
// U+FFFD each, which is what encoding/json would send for them.
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

// Append appends the token ids of text to dst.
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

// token gives the id of a piece that need not be merged, or none.
func (e *Encoding) token(piece string) int32 {
	if len(piece) == 1 {
		return e.vocab.bytes[piece[0]]
	}
	if !e.whole {
		return none
	}
	return e.vocab.lookup(piece)
}

// valid replaces each byte that is not part of a UTF-8 character.
func valid(text string) string {
	if utf8.ValidString(text) {
		return text
	}
	return string([]rune(text))
}
