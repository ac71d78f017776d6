package quick

// space is the class of the space.
const space = 0

// classOf is the class of each byte. It is spelled out by what belongs
// together, and the classes count up from the space's.
var classOf = func() (table [256]uint8) {
	class := uint8(space)
	set := func(bytes string) {
		for i := range len(bytes) {
			table[bytes[i]] = class
		}
		class++
	}
	span := func(lo, hi int) {
		for b := lo; b <= hi; b++ {
			table[b] = class
		}
		class++
	}
	set(" ")
	set("\n\r")
	set("\t\v\f")
	set("aeiou")
	set("tnsr")
	set("hldcm")
	set("fgpbvwy")
	set("jkqxz")
	set("AEIOU")
	set("BCDFGHJKLMNPQRSTVWXYZ")
	set("0123456789")
	set(".,")
	set("'\"`")
	set("_-")
	set("/\\")
	set("()[]{}<>")
	set("!#$%&*+:;=?@^|~")
	span(0x00, 0x08) // the controls that are not space, with those below
	class--
	span(0x0e, 0x1f)
	class--
	span(0x7f, 0x7f)
	span(0x80, 0x9f) // continuation bytes, in three: some scripts keep to a few
	span(0xa0, 0xaf)
	span(0xb0, 0xbf)
	span(0xc0, 0xc3) // Latin-1
	span(0xc4, 0xcb) // other Latin
	span(0xcc, 0xcf) // Greek, combining marks
	span(0xd0, 0xd3) // Cyrillic
	span(0xd4, 0xdf) // Armenian to Thaana
	span(0xe0, 0xe1) // the scripts of India and South-East Asia, Georgian, Ethiopic
	span(0xe2, 0xe2) // symbols
	span(0xe3, 0xe3) // kana
	span(0xe4, 0xe9) // Chinese characters
	span(0xea, 0xed) // Hangul
	span(0xee, 0xff) // private use, full width forms, emoji
	return table
}()
