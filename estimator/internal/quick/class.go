package quick

// space is the class of the space character.
const space = 0

// classOf maps each byte to its class. The bytes of a class begin and end tokens in
// similar ways: letters of similar frequency, kinds of punctuation, and of other
// scripts the lead bytes, which depend on the script, and the continuation bytes.
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
	for _, letters := range []string{"aeo", "iu", "tn", "sr", "hld", "cmp", "bfgvwy", "jkqxz"} {
		set(letters)
	}
	set("AEIOU")
	set("BCDFGHJKLMNPQRSTVWXYZ")
	set("0123456789")
	set(".,")
	set("'\"`")
	set("_-")
	set("/\\")
	set("()[]{}<>")
	set("!#$%&*+:;=?@^|~")
	set("\x00\x01\x02\x03\x04\x05\x06\x07\x08\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x7f")
	for b := 0x80; b < 0xc0; b += 8 { // continuation bytes: many scripts use few of them
		span(b, b+7)
	}
	span(0xc0, 0xc2) // signs of Latin-1
	span(0xc3, 0xc3) // letters of Latin-1
	span(0xc4, 0xc5) // other Latin letters
	span(0xc6, 0xcb)
	span(0xcc, 0xcd) // combining marks
	span(0xce, 0xcf) // Greek
	span(0xd0, 0xd1) // Cyrillic
	span(0xd2, 0xd5) // Cyrillic of Asia, Armenian
	span(0xd6, 0xd7) // Hebrew
	span(0xd8, 0xdb) // Arabic
	span(0xdc, 0xdf)
	span(0xe0, 0xe0) // the scripts of India, Thai, Lao
	span(0xe1, 0xe1) // Georgian, Burmese, Khmer, Ethiopic, Vietnamese
	span(0xe2, 0xe2) // symbols
	span(0xe3, 0xe3) // kana
	for b := 0xe4; b <= 0xe9; b++ {
		span(b, b) // Chinese characters
	}
	span(0xea, 0xea) // Hangul
	span(0xeb, 0xeb)
	span(0xec, 0xed)
	span(0xee, 0xef) // private use, full width forms
	span(0xf0, 0xf0) // emoji
	span(0xf1, 0xff)
	return table
}()
