// Package quick estimates tokens without a vocabulary: it adds up a weight for
// each two neighbouring bytes, by their classes. The weights are fitted to a
// real encoding by ../fit; FIT.md says on what, and how near they come.
package quick

// Count estimates the tokens of text.
func Count(text string) int {
	if text == "" {
		return 0
	}
	var sum uint64
	before := uint32(space) // a text begins as a word does
	for i := range len(text) {
		class := uint32(classOf[text[i]])
		sum += uint64(weights[before<<classBits|class])
		before = class
	}
	return int(max((sum+One/2)/One, 1))
}

const (
	classBits = 6
	Features  = 1 << (2 * classBits) // pairs of classes
	One       = 1 << 12              // a weight of one token
)

// AddFeatures adds how often each pair of classes occurs in text, for the fit.
func AddFeatures(counts *[Features]int32, text string) {
	before := uint32(space)
	for i := range len(text) {
		class := uint32(classOf[text[i]])
		counts[before<<classBits|class]++
		before = class
	}
}
