package estimator

import "github.com/choked/choked/estimator/internal/quick"

// Default returns an estimator that needs no vocabulary. It is fitted to the
// o200k encoding of OpenAI's models, and close enough to others to be corrected
// by [Calibrate]. Of prose that the fit has not seen half is within 8% and 95%
// within 20%, of text like that of the fit within 3% and 10%;
// internal/quick/FIT.md has the error by kind of text, and how to repeat the
// fit.
//
// Long runs of one letter are estimated too high. Text that is made to get past
// a limit, a few odd characters over and over, can cost ten times its estimate:
// where that matters, count exactly.
func Default(opts ...Option) *Counted {
	// It reads a gigabyte a second: a sample would save little and cost precision.
	return Using(quickCounter{}, append([]Option{Exact()}, opts...)...)
}

type quickCounter struct{}

func (quickCounter) Count(text string) int { return quick.Count(text) }
