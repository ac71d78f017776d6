package quick

import (
	"strings"
	"testing"
)

func TestEveryByteHasAClass(t *testing.T) {
	seen := map[uint8]bool{}
	for b, class := range classOf {
		if class >= 1<<classBits {
			t.Errorf("byte %#02x has the class %d: want less than %d", b, class, 1<<classBits)
		}
		if (class == space) != (b == ' ') {
			t.Errorf("byte %#02x has the class %d; only the space has %d", b, class, space)
		}
		seen[class] = true
	}
	for class := range uint8(len(seen)) {
		if !seen[class] {
			t.Errorf("no byte has the class %d of %d", class, len(seen))
		}
	}
}

func TestCountIsTheSumOfWeightedFeatures(t *testing.T) {
	text := "Two words, 3 lines\r\nand “quotes” – 日本\x00\xff."
	var features [Features]int32
	AddFeatures(&features, text)
	var pairs, sum int
	for i, n := range features {
		pairs += int(n)
		sum += int(n) * int(weights[i])
	}
	if got, want := Count(text), (sum+One/2)/One; got != want || pairs != len(text) {
		t.Errorf("Count = %d over %d pairs, want %d over %d", got, pairs, want, len(text))
	}
}

func TestOnlyEmptyTextIsFree(t *testing.T) {
	if n := Count(""); n != 0 {
		t.Errorf("Count of the empty text = %d, want 0", n)
	}
	for b := range 256 {
		one := string([]byte{byte(b)})
		if Count(one) < 1 || Count(strings.Repeat(one, 1000)) < 35 {
			t.Errorf("Count of %q once and 1000 times = %d and %d, want at least 1 and 35", one, Count(one), Count(strings.Repeat(one, 1000)))
		}
	}
}
