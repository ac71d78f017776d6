// Package estimator estimates how many LLM tokens a request will cost, before
// the request is sent.
//
// [Default] needs no vocabulary: it reads classes of bytes, and is within 20% of
// the true count for most text. Package estimator/tiktoken counts exactly for
// OpenAI's models, and adds seven megabytes of vocabulary to the binary. Package
// estimator/voyage counts exactly by a tokenizer.json on disk. [Using] builds an
// estimator over any other tokenizer, and [Calibrate] corrects any estimator by
// the usage that the provider reports.
//
// The input of an estimate is the input of the call: a string, chat messages, a
// client library's request, or a raw body. [Extract] lists the accepted inputs.
package estimator

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync/atomic"

	"github.com/choked/choked/bucket"
)

// An Estimator estimates the tokens that an input will cost.
//
// Estimate returns the tokens of the prompt as Input, those reserved for the reply as
// Output, and as Tokens what a provider charges that counts both together. None is
// negative. The estimators of this module leave Requests and Spend at zero, and Tokens
// is the sum of Input and Output. They
// return an error that wraps [ErrNoText] when they find no text in the
// input; the error names the input and the accepted ones. An Estimator must be
// safe for concurrent use and must not keep the input.
type Estimator interface {
	Estimate(input any) (bucket.Cost, error)
}

// A Counter counts the tokens of one text. It must be safe for concurrent use
// and accept any string, valid UTF-8 or not. An estimator calls it with a whole
// text or, for a large input, with samples of it. A negative count is read as 0.
type Counter interface {
	Count(text string) int
}

// The names that New and tiktoken.New accept.
const (
	nameDefault  = "default"
	nameOpenAI   = "openai"
	nameTiktoken = "tiktoken" // another name for nameOpenAI
	nameVoyage   = "voyageai"
)

// New returns the estimator with the given name. It knows two names that need no
// vocabulary: "default" is [Default], and "voyageai" is Default with the overhead
// [VoyageEmbeddings] (voyage.Load counts exactly, by a file).
//
// "openai" and "tiktoken" promise exact counts, which need OpenAI's vocabulary.
// For these New returns an error that names the package to import: tiktoken.New
// knows all four names. The error for any other name lists the known names.
func New(name string, opts ...Option) (Estimator, error) {
	switch name {
	case nameDefault:
		return Default(opts...), nil
	case nameVoyage:
		return Default(append([]Option{WithOverhead(VoyageEmbeddings)}, opts...)...), nil
	case nameOpenAI, nameTiktoken:
		return nil, fmt.Errorf("estimator %q: needs OpenAI's vocabulary to count exactly: call tiktoken.New(%q) of "+
			"github.com/choked/choked/estimator/tiktoken, or choose %q", name, name, nameDefault)
	}
	return nil, fmt.Errorf("estimator %q: unknown name: want %q, %q, %q or %q",
		name, nameDefault, nameOpenAI, nameTiktoken, nameVoyage)
}

// Counted is an estimator over a [Counter]. It extracts the texts of an input,
// counts them, and adds the provider's [Overhead]. It is safe for concurrent
// use. [Using] makes one; the zero value is not usable.
type Counted struct {
	counter   Counter
	options   options
	seed      uint64
	estimates atomic.Uint64 // numbers the estimates, so that each draws another sample
}

// Using returns an estimator that counts texts with c, and adds [OpenAIChat] for
// the form of a request, unless [WithOverhead] sets another. Of an input with more
// than 32 KB of text it counts a random sample, and estimates the rest as
// [Default] does, unless the option [Exact] is given.
func Using(c Counter, opts ...Option) *Counted {
	o := options{overhead: OpenAIChat}
	for _, opt := range opts {
		opt(&o)
	}
	return &Counted{counter: c, options: o, seed: rand.Uint64()}
}

// Estimate returns the tokens that input will cost, as [Estimator] says. An error
// wraps [ErrNoText]. The estimate of a string up to 32 KB allocates no memory.
func (e *Counted) Estimate(input any) (bucket.Cost, error) {
	if text, ok := input.(string); ok {
		return e.cost(e.text(text), 0), nil
	}
	p, err := Extract(input)
	if err != nil {
		return bucket.Cost{}, err
	}
	return e.cost(sum(p.Tokens(e.options.overhead), e.texts(p.Texts)), p.Output), nil
}

// cost returns the cost of a prompt with that many tokens and a reply with that limit,
// 0 for none.
func (e *Counted) cost(prompt, replyLimit int64) bucket.Cost {
	prompt, reply := max(prompt, 0), e.options.reserve(replyLimit)
	return bucket.Cost{Input: prompt, Output: reply, Tokens: sum(prompt, reply)}
}

// sum adds numbers of tokens. A negative one counts as 0, and the sum stops at
// the largest int64: a reserve may be as large as that.
func sum(parts ...int64) int64 {
	var total int64
	for _, n := range parts {
		total += min(max(n, 0), math.MaxInt64-total)
	}
	return total
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
		// A generator for each call needs no lock, and a caller cannot guess its seed.
		r := rand.New(rand.NewPCG(e.seed, e.estimates.Add(1)))
		return sample(e.counter, texts, size, r)
	}
	for _, t := range texts {
		tokens += int64(e.counter.Count(t))
	}
	return tokens
}
