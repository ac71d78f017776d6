// Package tiktoken counts tokens exactly as OpenAI's models do.
//
// Importing it adds the vocabularies, seven megabytes, to a binary. They are
// loaded on first use, in 20 to 50 ms, or ahead by [Load], and take up to 7 MB of
// memory each, once in a process; nothing is ever fetched. Text that looks like
// a special token, such as "<|endoftext|>", is ordinary text, and each byte that
// is not UTF-8 counts as U+FFFD.
//
// Above 32 KB an estimator counts a random sample of the text, unless it is
// made with estimator.Exact.
package tiktoken

import (
	"fmt"

	"github.com/choked/choked/estimator"
	"github.com/choked/choked/estimator/internal/bpe"
)

// OpenAI returns an estimator for an OpenAI model: "gpt-4o", a dated name such
// as "gpt-4o-2024-08-06", or a fine-tuned one such as "ft:gpt-4o-mini:org::id".
// A model that is not known, and "", count by o200k, the encoding of all
// models since gpt-4o. For a deployment named otherwise use [Deployments].
func OpenAI(model string, opts ...estimator.Option) *Estimator {
	f := familyOf(model)
	return &Estimator{
		model:    model,
		encoding: f.encoding,
		counted:  estimator.Using(lazy{f.encoding.load()}, append([]estimator.Option{estimator.WithOverhead(f.overhead)}, opts...)...),
	}
}

// Deployments maps names of your own, such as Azure deployments, to the models behind them.
type Deployments map[string]string

// OpenAI returns an estimator for the model behind name; a name that is not in
// the map is taken as a model's.
func (d Deployments) OpenAI(name string, opts ...estimator.Option) *Estimator {
	if model, ok := d[name]; ok {
		name = model
	}
	return OpenAI(name, opts...)
}

// New returns the estimator of that name. "openai" and "tiktoken" count as
// OpenAI("") does; the names of [estimator.New] mean what they mean there. The
// error for any other name lists the known ones.
func New(name string, opts ...estimator.Option) (estimator.Estimator, error) {
	switch name {
	case "openai", "tiktoken":
		return OpenAI("", opts...), nil
	}
	return estimator.New(name, opts...)
}

// Load loads the vocabularies of the named models now, rather than at the first
// estimate. Without names it loads all.
func Load(models ...string) error {
	encodings := []encoding{o200kBase, cl100kBase}
	if len(models) > 0 {
		encodings = nil
		for _, m := range models {
			encodings = append(encodings, familyOf(m).encoding)
		}
	}
	for _, e := range encodings {
		if _, err := e.load()(); err != nil {
			return err
		}
	}
	return nil
}

// Estimator counts the tokens of an input for one model. It is safe for
// concurrent use. Make one with [OpenAI].
type Estimator struct {
	model    string
	encoding encoding
	counted  *estimator.Counted
}

// Estimate returns the tokens that input will cost. The error names an input
// that no text can be taken from; see [estimator.Extract].
func (e *Estimator) Estimate(input any) (int64, error) {
	if _, err := e.encoding.load()(); err != nil {
		return 0, err
	}
	return e.counted.Estimate(input)
}

// Counter returns the encoder itself, which counts the tokens of one text, all
// of it, and adds nothing.
func (e *Estimator) Counter() (estimator.Counter, error) {
	return e.encoding.load()()
}

// Encoding names the encoding: "o200k_base" or "cl100k_base".
func (e *Estimator) Encoding() string { return string(e.encoding) }

// String names the estimator in a log.
func (e *Estimator) String() string { return fmt.Sprintf("openai(%s, %s)", e.model, e.encoding) }

// lazy is a counter that loads its vocabulary when it is first asked.
type lazy struct {
	load func() (*bpe.Encoding, error)
}

func (l lazy) Count(text string) int {
	e, err := l.load()
	if err != nil {
		return 0 // Estimate has reported it
	}
	return e.Count(text)
}
