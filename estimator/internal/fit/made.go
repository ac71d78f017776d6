package main

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode"

	"github.com/choked/choked/estimator/internal/quick"
	"github.com/choked/choked/estimator/tiktoken"
)

const (
	madeTexts  = 30_000
	madeWeight = 0.03 // of a made text: small, so that the errors of real texts stay the same
	minShare   = 0.6  // smallest estimate of a made text, as a share of its tokens
)

// makeTexts returns n texts such as an author writes to evade a limit: one to four
// characters, of ASCII or of any script, repeated. A corpus has no text that shows
// the cost of their pairs of bytes, and a fit without made texts would assign that
// cost to neighbouring pairs. They only bound the weights from below.
func makeTexts(n int) ([]text, error) {
	truth, err := tiktoken.OpenAI("gpt-4o").Counter()
	if err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(3, 4))
	texts := make([]text, n)
	for i := range texts {
		body := makeText(r)
		t := text{floor: true, held: i%4 == 0, weight: madeWeight, tokens: minShare * float64(truth.Count(body))}
		quick.AddFeatures(&t.features, body)
		texts[i] = t
	}
	return texts, nil
}

var scripts = slices.Sorted(maps.Keys(unicode.Scripts))

// makeText returns one made text.
func makeText(r *rand.Rand) string {
	var unit strings.Builder
	script := unicode.Scripts[scripts[r.IntN(len(scripts))]]
	foreign := r.IntN(3) // number of characters of that script among two: none, one or both
	for range 1 + r.IntN(4) {
		switch {
		case r.IntN(2) < foreign:
			unit.WriteRune(runeOf(script, r))
		case r.IntN(16) == 0:
			unit.WriteByte(byte(r.Uint32())) // a control character, or a part of an incomplete character
		default:
			unit.WriteByte(byte(' ' + r.IntN('~'-' '+1)))
		}
	}
	return strings.Repeat(unit.String(), 1+minSize/unit.Len())
}

// runeOf returns a random character of a table.
func runeOf(table *unicode.RangeTable, r *rand.Rand) rune {
	i := r.IntN(len(table.R16) + len(table.R32))
	if i < len(table.R16) {
		x := table.R16[i]
		return rune(x.Lo) + rune(x.Stride)*rune(r.IntN(int((x.Hi-x.Lo)/x.Stride)+1))
	}
	x := table.R32[i-len(table.R16)]
	return rune(x.Lo) + rune(x.Stride)*rune(r.IntN(int((x.Hi-x.Lo)/x.Stride)+1))
}
