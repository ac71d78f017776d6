package bpe

import (
	"sync"
	"unicode"
	"unicode/utf8"
)

// class is a set of the properties of a character that the split patterns use.
type class uint8

const (
	letter  class = 1 << iota // \p{L}
	upper                     // \p{Lu} or \p{Lt}
	lower                     // \p{Ll}
	mark                      // \p{M}
	number                    // \p{N}
	space                     // \s
	newline                   // \r or \n, which are also space
	slash                     // /

	caseless = letter | mark // with neither upper nor lower: \p{Lm}, \p{Lo}, \p{M}
)

// tableEnd is above all assigned letters, marks, numbers and spaces but the
// variation selectors, which are rare and looked up in package unicode.
const tableEnd = 0x33480

// classes returns the class of each character below tableEnd, by the version of
// Unicode that package unicode has.
var classes = sync.OnceValue(func() *[tableEnd]class {
	table := new([tableEnd]class)
	set := func(t *unicode.RangeTable, c class) {
		for _, r := range t.R16 {
			for i := int(r.Lo); i <= int(r.Hi); i += int(r.Stride) {
				table[i] |= c
			}
		}
		for _, r := range t.R32 {
			for i := int(r.Lo); i <= int(r.Hi) && i < tableEnd; i += int(r.Stride) {
				table[i] |= c
			}
		}
	}
	set(unicode.L, letter)
	set(unicode.Lu, upper)
	set(unicode.Lt, upper)
	set(unicode.Ll, lower)
	set(unicode.M, mark)
	set(unicode.N, number)
	set(unicode.White_Space, space)
	table['\r'] |= newline
	table['\n'] |= newline
	table['/'] |= slash
	return table
})

// classOf returns the class of any character.
func classOf(table *[tableEnd]class, r rune) class {
	if uint32(r) < tableEnd {
		return table[r]
	}
	switch {
	case unicode.Is(unicode.M, r):
		return mark
	case unicode.Is(unicode.L, r):
		return letter
	case unicode.Is(unicode.N, r):
		return number
	}
	return 0
}

// scanner reads the characters of a text with their classes.
type scanner struct {
	text  string // valid UTF-8
	table *[tableEnd]class
}

// at returns the class and the length in bytes of the character at i, and 0 and 0 at
// the end of the text.
func (s *scanner) at(i int) (class, int) {
	if i >= len(s.text) {
		return 0, 0
	}
	if b := s.text[i]; b < utf8.RuneSelf {
		return s.table[b], 1
	}
	r, n := utf8.DecodeRuneInString(s.text[i:])
	return classOf(s.table, r), n
}

// run returns the end of the run of characters from i that have any class of set.
func (s *scanner) run(i int, set class) int {
	for i < len(s.text) {
		c, n := s.at(i)
		if c&set == 0 {
			break
		}
		i += n
	}
	return i
}
