// Package quick estimates the tokens of a text without a vocabulary: as the sum of
// a weight for each two neighbouring bytes, by the classes of the bytes. The
// command ../fit fits the weights to the o200k encoding. FIT.md describes the
// corpus and the error.
package quick

// Count returns the estimated number of tokens of text, at least 1 unless text is empty.
func Count(text string) int {
	if text == "" {
		return 0
	}
	var sum uint64
	before := uint32(space) // the start of a text counts like the start of a word
	for i := range len(text) {
		class := uint32(classOf[text[i]])
		sum += uint64(weights[before<<classBits|class])
		before = class
	}
	return int(max((sum+One/2)/One, 1))
}

const (
	classBits = 6

	// Features is the number of pairs of classes.
	Features = 1 << (2 * classBits)

	// One is the weight of one token.
	One = 1 << 12
)

// AddFeatures adds to counts the number of times that each pair of classes occurs
// in text, for the fit.
func AddFeatures(counts *[Features]int32, text string) {
	before := uint32(space)
	for i := range len(text) {
		class := uint32(classOf[text[i]])
		counts[before<<classBits|class]++
		before = class
	}
}
