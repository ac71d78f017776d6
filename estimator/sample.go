package estimator

import (
	"math/rand/v2"
	"unicode/utf8"
)

const (
	sampleAbove   = 32 << 10 // bytes; below, a sample would save nothing
	sampleWindows = 64
	windowSize    = 512
	windowContext = 64 // bytes before a window that settle where its first token begins
)

// sample estimates the tokens of texts, size bytes in all and more than
// sampleAbove, from windows of them. The texts are cut into as many strata as
// there are windows, with one window at a random place in each: less spread
// than places drawn freely, and as hard to write a text around.
func sample(c Counter, texts []string, size int64, r *rand.Rand) int64 {
	var tokens, seen int64
	next, start := 0, int64(0) // the first text that may reach into the window, and where it begins
	for i := range int64(sampleWindows) {
		lo := i * size / sampleWindows
		hi := (i + 1) * size / sampleWindows
		from := lo + r.Int64N(max(hi-lo-windowSize, 1))
		to := min(from+windowSize, size)
		for next < len(texts) && start+int64(len(texts[next])) <= from {
			start += int64(len(texts[next]))
			next++
		}
		at := start
		for j := next; j < len(texts) && at < to; j++ {
			t := texts[j]
			a, b := max(from-at, 0), min(to-at, int64(len(t)))
			tokens += window(c, t, int(a), int(b))
			at += int64(len(t))
		}
		seen += to - from
	}
	if seen == 0 {
		return 0
	}
	return max(tokens, 0) * size / seen
}

// window counts the tokens of text[a:b]. A cut makes tokens that the whole text
// does not have; counting up to both ends from the same place before them
// makes the cuts cancel on average.
func window(c Counter, text string, a, b int) int64 {
	a, b = runeStart(text, a), runeStart(text, b)
	from := runeStart(text, max(a-windowContext, 0))
	n := c.Count(text[from:b])
	if from < a {
		n -= c.Count(text[from:a])
	}
	return int64(n)
}

// runeStart moves i back to the start of the character it is in.
func runeStart(text string, i int) int {
	for back := 0; i > 0 && i < len(text) && back < utf8.UTFMax-1 && !utf8.RuneStart(text[i]); back++ {
		i--
	}
	return i
}
