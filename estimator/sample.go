package estimator

import (
	"math/rand/v2"
	"unicode/utf8"

	"github.com/choked/choked/estimator/internal/quick"
)

// All sizes are in bytes.
const (
	sampleAbove    = 32 << 10 // input size up to which all is counted: a sample would save no time
	minWindows     = 64
	maxWindows     = 128
	bytesPerWindow = 1 << 10 // of the input, between minWindows and maxWindows
	windowSize     = 512
	windowContext  = 64  // counted before a window, so that its first token begins at the right place
	maxRun         = 256 // further context to reach the start of a run of one character
)

// sample estimates the tokens of texts from windows of them. The texts have size
// bytes in all, more than sampleAbove. They are cut into as many strata as there
// are windows, with one window at a random place in each, which spreads the
// windows better than places drawn freely. The start of the first stratum is
// random too: each byte is equally likely to be read, and an author cannot write
// a text around the windows.
//
// The tokens per byte may differ tenfold from one part of a text to another. So
// sample corrects the mean of the windows by package quick, which reads the whole
// text at a gigabyte a second: the windows show how many tokens there are for
// each token of quick's count. This is the regression estimator of W. G. Cochran,
// Sampling Techniques, chapter 7. If quick's counts do not vary between the
// windows, the result is the windows' mean.
func sample(c Counter, texts []string, size int64, r *rand.Rand) int64 {
	windows := readWindows(c, texts, size, r)
	var all measure
	for _, w := range windows {
		all.add(w)
	}
	if all.bytes == 0 {
		return 0
	}
	tokensPerByte, quickPerByte := all.tokens/all.bytes, all.quick/all.bytes
	var covariance, variance float64
	for _, w := range windows {
		deviation := w.quick - quickPerByte*w.bytes
		covariance += deviation * (w.tokens - tokensPerByte*w.bytes)
		variance += deviation * deviation
	}
	tokens := tokensPerByte * float64(size)
	if variance > 0 {
		deviation := -quickPerByte * float64(size)
		for _, t := range texts {
			deviation += float64(quick.Count(t))
		}
		tokens += covariance / variance * deviation
	}
	return int64(max(tokens+0.5, 0))
}

// readWindows measures one window in each stratum of the texts.
func readWindows(c Counter, texts []string, size int64, r *rand.Rand) []measure {
	windows := min(max(size/bytesPerWindow, minWindows), maxWindows)
	measures := make([]measure, 0, windows+1)
	shift := r.Int64N(size / windows)
	next, start := 0, int64(0) // the first text that may reach into the window, and its start
	for i := int64(-1); i < windows; i++ {
		lo := i*size/windows + shift
		hi := (i+1)*size/windows + shift
		from := lo + r.Int64N(max(hi-lo-windowSize, 1))
		to := min(from+windowSize, size)
		if from = max(from, 0); from >= to {
			continue
		}
		for next < len(texts) && start+int64(len(texts[next])) <= from {
			start += int64(len(texts[next]))
			next++
		}
		var window measure
		at := start
		for j := next; j < len(texts) && at < to; j++ {
			t := texts[j]
			a, b := max(from-at, 0), min(to-at, int64(len(t)))
			window.add(measureWindow(c, t, int(a), int(b)))
			at += int64(len(t))
		}
		measures = append(measures, window)
	}
	return measures
}

// measure is the size of a part of a text: in bytes, in tokens, and in tokens as
// package quick estimates them.
type measure struct{ bytes, tokens, quick float64 }

func (m *measure) add(n measure) {
	m.bytes += n.bytes
	m.tokens += n.tokens
	m.quick += n.quick
}

// measureWindow measures text[a:b]. A cut makes tokens that the whole text does
// not have. Both ends are counted from one place before them, and the difference
// taken, so that the errors of the cuts cancel on average. A run of spaces, as
// tables and indented text have, is counted from its start: from any other place
// it makes other tokens.
func measureWindow(c Counter, text string, a, b int) measure {
	a, b = runeStart(text, a), runeStart(text, b)
	from := runeStart(text, max(a-windowContext, 0))
	for least := max(from-maxRun, 1); from >= least && text[from] == text[from-1]; {
		from--
	}
	from = runeStart(text, from)
	m := measure{float64(b - a), float64(c.Count(text[from:b])), float64(quick.Count(text[from:b]))}
	if from < a {
		m.tokens -= float64(c.Count(text[from:a]))
		m.quick -= float64(quick.Count(text[from:a]))
	}
	return m
}

// runeStart moves i back to the start of the character around it.
func runeStart(text string, i int) int {
	for back := 0; i > 0 && i < len(text) && back < utf8.UTFMax-1 && !utf8.RuneStart(text[i]); back++ {
		i--
	}
	return i
}
