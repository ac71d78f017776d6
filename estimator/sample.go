package estimator

import (
	"math/rand/v2"
	"unicode/utf8"

	"github.com/choked/choked/estimator/internal/quick"
)

const (
	sampleAbove   = 32 << 10 // bytes; below, a sample would save nothing
	leastWindows  = 64
	mostWindows   = 128
	windowEach    = 1 << 10 // bytes, between these bounds
	windowSize    = 512
	windowContext = 64  // bytes before a window that settle where its first token begins,
	mostRun       = 256 // and more of them to begin with a run of one character, at its first
)

// sample estimates the tokens of texts, size bytes in all and more than
// sampleAbove, from windows of them. The texts are cut into as many strata as
// there are windows, with one window at a random place in each: less spread
// than places drawn freely. Where the first of them begins is random, too, so that
// each byte is as likely to be read as any other, and a text is as hard to write
// around the windows.
//
// How dense a text is may differ tenfold from one part of it to the next. What
// the windows have that the rest does not, package quick tells: it reads all, at
// a gigabyte a second, and the windows say how much a token of its counts really
// costs. That is the regression estimator of W. G. Cochran, Sampling Techniques,
// chapter 7; where quick says nothing, it is the windows' mean.
func sample(c Counter, texts []string, size int64, r *rand.Rand) int64 {
	windows := min(max(size/windowEach, leastWindows), mostWindows)
	var sum measure
	each := make([]measure, 0, windows+1)
	shift := r.Int64N(size / windows)
	next, start := 0, int64(0) // the first text that may reach into the window, and where it begins
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
		var in measure
		at := start
		for j := next; j < len(texts) && at < to; j++ {
			t := texts[j]
			a, b := max(from-at, 0), min(to-at, int64(len(t)))
			in.add(window(c, t, int(a), int(b)))
			at += int64(len(t))
		}
		each = append(each, in)
		sum.add(in)
	}
	if sum.bytes == 0 {
		return 0
	}
	tokens, quickly := sum.tokens/sum.bytes, sum.quick/sum.bytes // a byte
	var both, square float64
	for _, w := range each {
		off := w.quick - quickly*w.bytes
		both += off * (w.tokens - tokens*w.bytes)
		square += off * off
	}
	total := tokens * float64(size)
	if square > 0 {
		all := -quickly * float64(size)
		for _, t := range texts {
			all += float64(quick.Count(t))
		}
		total += both / square * all
	}
	return int64(max(total+0.5, 0))
}

// measure is what a part of a text has of each.
type measure struct{ bytes, tokens, quick float64 }

func (m *measure) add(n measure) {
	m.bytes += n.bytes
	m.tokens += n.tokens
	m.quick += n.quick
}

// window measures text[a:b]. A cut makes tokens that the whole text does not
// have; counting up to both ends from the same place before them makes the cuts
// cancel on average. A run of spaces, as tables and indented text have them,
// counts otherwise from anywhere but its start.
func window(c Counter, text string, a, b int) measure {
	a, b = runeStart(text, a), runeStart(text, b)
	from := runeStart(text, max(a-windowContext, 0))
	for least := max(from-mostRun, 1); from >= least && text[from] == text[from-1]; {
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

// runeStart moves i back to the start of the character it is in.
func runeStart(text string, i int) int {
	for back := 0; i > 0 && i < len(text) && back < utf8.UTFMax-1 && !utf8.RuneStart(text[i]); back++ {
		i--
	}
	return i
}
