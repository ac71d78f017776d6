// Package estimator tells how many LLM tokens a request will cost before it is sent.
//
// [Default] needs no vocabulary: it reads classes of bytes and is within 20% for
// most text. Package estimator/tiktoken counts exactly for OpenAI's models, at
// the price of several megabytes of vocabulary in the binary; package
// estimator/voyage counts exactly with a tokenizer.json that you have on disk.
// [Using] builds an estimator over any tokenizer of your own, and [Calibrate]
// lets reported usage correct any of them.
//
// An estimator takes text from whatever a call is made with: see [Extract] for
// what is understood.
package estimator

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"
)

// An Estimator tells how many tokens an input will cost.
//
// Estimate returns a number of tokens, never below zero. Its error means that
// no text could be taken from the input, and names what was given and what is
// understood. An Estimator is safe for concurrent use and keeps no input.
type Estimator interface {
	Estimate(input any) (int64, error)
}

// A Counter counts the tokens of one text. It must be safe for concurrent use
// and take any string, valid UTF-8 or not. Estimators call it with the whole
// text or, for large inputs, with windows of it.
type Counter interface {
	Count(text string) int
}

// Names of the estimators that [New] and tiktoken.New select by string.
const (
	NameDefault  = "default"
	NameOpenAI   = "openai"
	NameTiktoken = "tiktoken" // another name for NameOpenAI
	NameVoyage   = "voyageai"
)

// New returns the estimator of that name, among those that need no vocabulary:
// "default", and "voyageai", which estimates text as [Default] does and adds what
// Voyage does (voyage.Load counts exactly, from a file).
//
// "openai" and "tiktoken" promise exact counts, which this package cannot give
// without OpenAI's vocabulary. Rather than guess in silence New returns an error
// that names the package to import: tiktoken.New knows all four names.
func New(name string, opts ...Option) (Estimator, error) {
	switch name {
	case NameDefault:
		return Default(opts...), nil
	case NameVoyage:
		return Default(append([]Option{WithOverhead(VoyageEmbeddings)}, opts...)...), nil
	case NameOpenAI, NameTiktoken:
		return nil, fmt.Errorf("estimator: %q counts exactly and needs OpenAI's vocabulary: use tiktoken.New(%q) of "+
			"github.com/choked/choked/estimator/tiktoken, or %q to do without", name, name, NameDefault)
	}
	return nil, fmt.Errorf("estimator: unknown name %q: want %q, %q, %q or %q",
		name, NameDefault, NameOpenAI, NameTiktoken, NameVoyage)
}

// Counted is an estimator over a [Counter]: it takes the text from an input,
// counts it, and adds what the provider adds. Make one with [Using].
type Counted struct {
	counter Counter
	options options
	seed    uint64
	asked   atomic.Uint64 // distinguishes the samples of one estimator
}

// Using returns an estimator that counts text with c. Above 32 KB it counts a
// random sample, and reads the rest as [Default] does: see [Exact].
func Using(c Counter, opts ...Option) *Counted {
	o := options{overhead: OpenAIChat}
	for _, opt := range opts {
		opt(&o)
	}
	return &Counted{counter: c, options: o, seed: rand.Uint64()}
}

// Estimate returns the tokens that input will cost. For a string it allocates nothing.
func (e *Counted) Estimate(input any) (int64, error) {
	if text, ok := input.(string); ok {
		return total(e.text(text), e.options.reserve(0)), nil
	}
	p, err := Extract(input)
	if err != nil {
		return 0, err
	}
	return total(p.Tokens, e.options.overhead.of(p), e.texts(p.Texts), e.options.reserve(p.Output)), nil
}

// total adds up numbers of tokens, none of which can be below zero. A reserve
// may be as large as an int64 can be, and the sum is no larger.
func total(parts ...int64) int64 {
	var sum int64
	for _, n := range parts {
		sum += min(max(n, 0), math.MaxInt64-sum)
	}
	return sum
}

func (e *Counted) text(text string) int64 {
	if e.options.exact || len(text) <= sampleAbove {
		return int64(e.counter.Count(text))
	}
	return e.texts([]string{text})
}

func (e *Counted) texts(texts []string) int64 {
	var size, tokens int64
	for _, t := range texts {
		size += int64(len(t))
	}
	if size > sampleAbove && !e.options.exact {
		// A generator per call needs no lock, and its seed cannot be guessed.
		r := rand.New(rand.NewPCG(e.seed, e.asked.Add(1)))
		return sample(e.counter, texts, size, r)
	}
	for _, t := range texts {
		tokens += int64(e.counter.Count(t))
	}
	return tokens
}
