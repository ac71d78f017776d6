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
	madeWeight = 0.03 // beside a kind of text: as much as does not show in the errors of those
	enough     = 0.6  // of its tokens is what a made text must be estimated at
)

// makeTexts returns texts that nobody writes but to get past a limit: one to four
// characters, of ASCII or of any script, over and over. No text of a corpus shows
// what their pairs of bytes cost, and a fit without them gives it to neighbours
// that come along. They only bound the weights from below.
func makeTexts(n int) ([]text, error) {
	truth, err := tiktoken.OpenAI("gpt-4o").Counter()
	if err != nil {
		return nil, err
	}
	r := rand.New(rand.NewPCG(3, 4))
	texts := make([]text, n)
	for i := range texts {
		body := makeText(r)
		t := text{floor: true, held: i%4 == 0, weight: madeWeight, tokens: enough * float64(truth.Count(body))}
		quick.AddFeatures(&t.features, body)
		texts[i] = t
	}
	return texts, nil
}

var scripts = slices.Sorted(maps.Keys(unicode.Scripts))

func makeText(r *rand.Rand) string {
	var unit strings.Builder
	script := unicode.Scripts[scripts[r.IntN(len(scripts))]]
	foreign := r.IntN(3) // of two characters: none, one or both
	for range 1 + r.IntN(4) {
		switch {
		case r.IntN(2) < foreign:
			unit.WriteRune(runeOf(script, r))
		case r.IntN(16) == 0:
			unit.WriteByte(byte(r.Uint32())) // a control character, or part of one that is not there
		default:
			unit.WriteByte(byte(' ' + r.IntN('~'-' '+1)))
		}
	}
	return strings.Repeat(unit.String(), 1+smallest/unit.Len())
}

func runeOf(table *unicode.RangeTable, r *rand.Rand) rune {
	i := r.IntN(len(table.R16) + len(table.R32))
	if i < len(table.R16) {
		x := table.R16[i]
		return rune(x.Lo) + rune(x.Stride)*rune(r.IntN(int((x.Hi-x.Lo)/x.Stride)+1))
	}
	x := table.R32[i-len(table.R16)]
	return rune(x.Lo) + rune(x.Stride)*rune(r.IntN(int((x.Hi-x.Lo)/x.Stride)+1))
}
