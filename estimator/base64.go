package estimator

import "strings"

// leastData is the size, in bytes, from which base64 is left out where it stands
// among text. Less of it costs little, and can be told from words less surely.
const leastData = 1 << 10

// isData says whether s as a whole is binary data in base64, bare or as a data
// URL (RFC 2397): of one alphabet, padded at the end only, and if in lines, then
// all as long as the first but the last. What is not surely data is text: else
// there would be a way to send text for nothing.
func isData(s string) bool {
	if len(s) < leastData {
		return false
	}
	s = strings.TrimSpace(s)
	if len(s) > 5 && strings.EqualFold(s[:5], "data:") {
		head := s[:min(len(s), 256)] // a media type and its parameters are short
		comma := strings.IndexByte(head, ',')
		if comma < 0 || !strings.HasSuffix(strings.ToLower(head[:comma]), ";base64") {
			return false
		}
		s = s[comma+1:]
	}
	if len(s) > 2 {
		s = strings.TrimSuffix(strings.TrimSuffix(s, "="), "=")
	}
	width := strings.IndexByte(s, '\n') + 1
	var before, kinds kind
	changes, letters := 0, 0
	for i := range len(s) {
		if width > 0 && (i+1)%width == 0 {
			if s[i] != '\n' {
				return false
			}
			continue
		}
		if s[i] == '\r' && width > 0 && (i+2)%width == 0 {
			continue
		}
		k := kindOf(s[i])
		switch k {
		case 0:
			return false
		case standard, urlSafe:
			kinds |= k
			continue
		}
		if k != before {
			changes++
		}
		before = k
		letters++
	}
	// Of data, compressed or not, and of text in base64, 58 to 65 of 100 letters are
	// of another kind than the one before; of words, however joined, fewer than 50.
	return kinds != standard|urlSafe && changes > letters/2
}

// kind is what a letter of base64 is; 0: it is none.
type kind uint8

const (
	small kind = 1 << iota
	capital
	digit
	standard // + and /
	urlSafe  // - and _
)

func kindOf(b byte) kind {
	switch {
	case 'a' <= b && b <= 'z':
		return small
	case 'A' <= b && b <= 'Z':
		return capital
	case '0' <= b && b <= '9':
		return digit
	case b == '+', b == '/':
		return standard
	case b == '-', b == '_':
		return urlSafe
	}
	return 0
}
