package estimator

import "strings"

// minDataSize is the size, in bytes, from which base64 is left out in places
// where strings may be text or data. Shorter data costs little, and is harder to
// tell from words.
const minDataSize = 1 << 10

// isData reports whether the whole of s is binary data in base64, bare or as a
// data URL (RFC 2397). When in doubt it reports false: a text that passed for
// data would be free.
func isData(s string) bool {
	if len(s) < minDataSize {
		return false
	}
	encoded, ok := trimDataURL(strings.TrimSpace(s))
	return ok && isBase64(encoded)
}

// trimDataURL cuts the head off a data URL, and returns any other string as it
// is. It is not ok for a data URL that is not in base64.
func trimDataURL(s string) (encoded string, ok bool) {
	if len(s) <= 5 || !strings.EqualFold(s[:5], "data:") {
		return s, true
	}
	head := s[:min(len(s), 256)] // a media type and its parameters are short
	comma := strings.IndexByte(head, ',')
	if comma < 0 || !strings.HasSuffix(strings.ToLower(head[:comma]), ";base64") {
		return "", false
	}
	return s[comma+1:], true
}

// isBase64 reports whether s is base64: letters of one alphabet, padded at the
// end only. If it has line ends, all lines but the last are as long as the first.
func isBase64(s string) bool {
	if len(s) > 2 {
		s = strings.TrimSuffix(strings.TrimSuffix(s, "="), "=")
	}
	width := strings.IndexByte(s, '\n') + 1 // of a line with its end; 0 without lines
	var previous, symbols letterKind
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
		switch kind := kindOf(s[i]); kind {
		case 0:
			return false
		case standardSymbol, urlSymbol:
			symbols |= kind
		default:
			if kind != previous {
				changes++
			}
			previous = kind
			letters++
		}
	}
	// In base64 of any content, compressed or not, 58% to 65% of the letters are of
	// another kind than the letter before. In words it is less than 50%, however
	// the words are joined.
	return symbols != standardSymbol|urlSymbol && changes > letters/2
}

// letterKind is the kind of a letter of base64; 0 for any other byte.
type letterKind uint8

const (
	lowerCase letterKind = 1 << iota
	upperCase
	digit
	standardSymbol // + and /
	urlSymbol      // - and _
)

func kindOf(b byte) letterKind {
	switch {
	case 'a' <= b && b <= 'z':
		return lowerCase
	case 'A' <= b && b <= 'Z':
		return upperCase
	case '0' <= b && b <= '9':
		return digit
	case b == '+', b == '/':
		return standardSymbol
	case b == '-', b == '_':
		return urlSymbol
	}
	return 0
}
