// Package tiktoken counts tokens exactly as OpenAI's models do.
//
// A program that imports it contains the vocabularies, seven megabytes. A
// vocabulary is loaded at the first estimate that needs it, or ahead by
// [Estimator.Counter]. Loading takes 20 to 50 ms and up to 7 MB of memory, once
// in a process. The package never uses a network. Text that looks like a special
// token, such as "<|endoftext|>", counts as ordinary text, and each byte that is
// not UTF-8 counts as U+FFFD.
//
// An input with more than 32 KB of text is sampled, unless the estimator is made
// with the option estimator.Exact.
package tiktoken

import (
	"fmt"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/estimator"
	"github.com/choked/choked/estimator/internal/bpe"
)

// OpenAI returns an estimator for a model of OpenAI: "gpt-4o", a dated name such
// as "gpt-4o-2024-08-06", or a fine-tuned one such as "ft:gpt-4o-mini:org::id".
// The model decides the encoding, and the overhead unless
// estimator.WithOverhead sets one.
//
// An unknown model, "" included, counts by o200k_base, the encoding of all models
// since gpt-4o. [Estimator.Known] reports whether the model is known, and
// [Estimator.String] shows the encoding that is used or assumed. A deployment with a
// name of its own, as in Azure, is an unknown model too: pass the name of the model
// behind it, for example from a map.
func OpenAI(model string, opts ...estimator.Option) *Estimator {
	f, known := familyOf(model)
	return &Estimator{
		model:    model,
		known:    known,
		encoding: f.encoding,
		counted:  estimator.Using(lazy{f.encoding.load()}, append([]estimator.Option{estimator.WithOverhead(f.overhead)}, opts...)...),
	}
}

// New returns the estimator with the given name: "openai" and "tiktoken" are
// OpenAI(""), and any other name is one of [estimator.New]. The error for an
// unknown name lists the known names.
func New(name string, opts ...estimator.Option) (estimator.Estimator, error) {
	switch name {
	case "openai", "tiktoken":
		return OpenAI("", opts...), nil
	}
	return estimator.New(name, opts...)
}

// Estimator counts the tokens of an input for one model. It is safe for
// concurrent use. [OpenAI] makes one; the zero value is not usable.
type Estimator struct {
	model    string
	known    bool
	encoding encoding
	counted  *estimator.Counted
}

// Estimate returns the tokens that input will cost, as [estimator.Estimator] says. An error that
// wraps [estimator.ErrNoText] names an input without text; [estimator.Extract]
// lists the accepted ones. Any other error means that the vocabulary in the binary
// is damaged.
func (e *Estimator) Estimate(input any) (bucket.Cost, error) {
	if _, err := e.encoding.load()(); err != nil {
		return bucket.Cost{}, err
	}
	return e.counted.Estimate(input)
}

// Counter returns a counter of the tokens of single texts, which counts the whole
// of a text and adds no overhead. Counter loads the vocabulary if it is not loaded
// yet. A program may call it at its start, so that the first estimate is as fast
// as the others. An error means that the vocabulary in the binary is damaged.
func (e *Estimator) Counter() (estimator.Counter, error) {
	return e.encoding.load()()
}

// Encoding returns the name of the encoding: "o200k_base" or "cl100k_base".
func (e *Estimator) Encoding() string { return string(e.encoding) }

// Known reports whether the model is known. If not, the encoding and the overhead
// are those of gpt-4o, by assumption.
func (e *Estimator) Known() bool { return e.known }

// String describes the estimator for a log, with the encoding that it counts by:
// "openai(gpt-4, cl100k_base)" for a known model, "openai(o200k_base)" without a
// model, and "openai(gpt-9-turbo unknown, o200k_base assumed)" for an unknown one.
func (e *Estimator) String() string {
	switch {
	case e.known:
		return fmt.Sprintf("openai(%s, %s)", e.model, e.encoding)
	case e.model == "":
		return fmt.Sprintf("openai(%s)", e.encoding)
	}
	return fmt.Sprintf("openai(%s unknown, %s assumed)", e.model, e.encoding)
}

// lazy is a counter that loads its vocabulary at the first count.
type lazy struct {
	load func() (*bpe.Encoding, error)
}

func (l lazy) Count(text string) int {
	e, err := l.load()
	if err != nil {
		return 0 // Estimate has returned the error
	}
	return e.Count(text)
}
