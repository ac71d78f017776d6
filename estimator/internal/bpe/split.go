package bpe

// A Split cuts a text into the pieces that are encoded on their own. It is one of
// the regular expressions in use, matched by hand-written code in one pass, in time
// linear in the size of any text.
type Split uint8

// The split patterns, from the open sources of the encoders that use them.
const (
	GPT2 Split = iota + 1
	CL100K
	O200K
	Qwen // CL100K with each digit alone
)

// next returns the end of the piece that begins at i, an offset inside the text.
// The branches are in the order of the pattern's alternatives: the first match
// wins, not the longest.
func (s *scanner) next(i int, split Split) int {
	switch split {
	case O200K:
		if end := s.casedWord(i); end > i {
			return end
		}
	case GPT2:
		if end := s.contraction(i, false); end > i {
			return end
		}
		return s.gpt2(i)
	default:
		if end := s.contraction(i, true); end > i {
			return end
		}
		if end := s.word(i); end > i {
			return end
		}
	}
	c, n := s.at(i)
	if c&number != 0 {
		if split == Qwen {
			return i + n
		}
		return s.digits(i)
	}
	if c&space == 0 || s.text[i] == ' ' {
		if end := s.symbols(i, split); end > i {
			return end
		}
	}
	return s.spaces(i, true)
}

// casedWord matches the two alternatives of o200k for words:
//
//	[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?
//	[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?
func (s *scanner) casedWord(i int) int {
	c, n := s.at(i)
	start := i
	if c&(letter|number|newline) == 0 {
		start = i + n
	}
	end, capitals := s.cased(start)
	if start > i && c&mark != 0 && (end == start || capitals) {
		// The first alternative comes before the second, and matches when the
		// leading mark is taken as part of the word instead.
		start = i
		end, _ = s.cased(i)
	}
	if end == start {
		return i
	}
	return s.contraction(end, true)
}

// cased matches a word without its optional first character, and returns i if
// there is none. It reports whether all letters of the word are capitals, which
// only the second alternative allows.
func (s *scanner) cased(i int) (end int, capitals bool) {
	lastCaseless := -1 // end of the last character in both sets
	for end = i; ; {
		c, n := s.at(end)
		if c&lower != 0 {
			return s.lowers(end), false
		}
		if c&(upper|letter|mark) == 0 {
			break
		}
		end += n
		if c&upper == 0 {
			lastCaseless = end
		}
	}
	if lastCaseless >= 0 {
		// The match ends before the capitals after the last caseless character: the
		// alternative must end with a character that is not a capital.
		return lastCaseless, false
	}
	return end, end > i
}

// lowers returns the end of the run of [\p{Ll}\p{Lm}\p{Lo}\p{M}] from i.
func (s *scanner) lowers(i int) int {
	for {
		c, n := s.at(i)
		if c&caseless == 0 || c&upper != 0 {
			return i
		}
		i += n
	}
}

// word matches [^\r\n\p{L}\p{N}]?\p{L}+.
func (s *scanner) word(i int) int {
	c, n := s.at(i)
	if c&letter != 0 {
		return s.run(i, letter)
	}
	if c&(number|newline) != 0 {
		return i
	}
	if end := s.run(i+n, letter); end > i+n {
		return end
	}
	return i
}

// digits matches \p{N}{1,3}.
func (s *scanner) digits(i int) int {
	for range 3 {
		c, n := s.at(i)
		if c&number == 0 {
			break
		}
		i += n
	}
	return i
}

// symbols matches " ?[^\s\p{L}\p{N}]+" and the line ends after it, if the pattern
// allows them; for o200k these include slashes.
func (s *scanner) symbols(i int, split Split) int {
	end := i
	if s.text[i] == ' ' {
		end++
	}
	start := end
	for end < len(s.text) {
		c, n := s.at(end)
		if c&(space|letter|number) != 0 {
			break
		}
		end += n
	}
	if end == start {
		return i
	}
	switch split {
	case CL100K, Qwen:
		end = s.run(end, newline)
	case O200K:
		end = s.run(end, newline|slash)
	}
	return end
}

// spaces matches \s+(?!\S)|\s+, after \s*[\r\n]+ if lines is set.
func (s *scanner) spaces(i int, lines bool) int {
	last, lineEnd, end := i, -1, i
	for {
		c, n := s.at(end)
		if c&space == 0 {
			break
		}
		last = end
		end += n
		if c&newline != 0 {
			lineEnd = end
		}
	}
	switch {
	case lines && lineEnd >= 0:
		return lineEnd
	case end < len(s.text) && last > i:
		return last // the last space belongs to the next piece
	case end > i:
		return end
	}
	_, n := s.at(i)
	return i + n // unreachable: the patterns above match any text
}

// gpt2 matches " ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+".
func (s *scanner) gpt2(i int) int {
	start := i
	if s.text[i] == ' ' {
		start++
	}
	c, n := s.at(start)
	switch {
	case n == 0 || c&space != 0:
		return s.spaces(i, false)
	case c&letter != 0:
		return s.run(start, letter)
	case c&number != 0:
		return s.run(start, number)
	}
	return s.symbols(i, GPT2)
}

// contraction returns the end of 's, 't, 're, 've, 'm, 'll or 'd at i, or i.
func (s *scanner) contraction(i int, anyCase bool) int {
	if i+1 >= len(s.text) || s.text[i] != '\'' {
		return i
	}
	rest := s.text[i+1 : min(i+3, len(s.text))]
	if anyCase && rest == "\u017f" { // the long s, which folds to s
		return i + 3
	}
	a, b := rest[0], byte(0)
	if len(rest) == 2 {
		b = rest[1]
	}
	if anyCase {
		a, b = toLower(a), toLower(b)
	}
	switch a {
	case 's', 't', 'm', 'd':
		return i + 2
	case 'r', 'v':
		if b == 'e' {
			return i + 3
		}
	case 'l':
		if b == 'l' {
			return i + 3
		}
	}
	return i
}

func toLower(b byte) byte {
	if 'A' <= b && b <= 'Z' {
		return b + 'a' - 'A'
	}
	return b
}
