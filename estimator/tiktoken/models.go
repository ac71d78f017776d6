package tiktoken

import (
	"strings"

	"github.com/choked/choked/estimator"
	"github.com/choked/choked/estimator/internal/bpe"
)

// encoding is the name of an encoding of OpenAI.
type encoding string

const (
	o200kBase  encoding = "o200k_base"
	cl100kBase encoding = "cl100k_base"
)

func (e encoding) load() func() (*bpe.Encoding, error) {
	if e == cl100kBase {
		return cl100k
	}
	return o200k
}

// family holds the encoding and the overhead of the models with a common prefix.
type family struct {
	prefix   string
	encoding encoding
	overhead estimator.Overhead
}

// earlier is the overhead of models before gpt-4o, which take three tokens more
// to describe a function.
// https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken
var earlier = func() estimator.Overhead {
	v := estimator.OpenAIChat
	v.Function = 10
	return v
}()

// mini is the overhead of gpt-4o-mini, where an image costs 33 times as many
// tokens and so the same price: a base of 2,833, and 5,667 a tile.
// https://platform.openai.com/docs/guides/images-vision#calculating-costs
var mini = func() estimator.Overhead {
	v := estimator.OpenAIChat
	v.LowImage, v.Image = 2833, 2833+4*5667
	return v
}()

// families lists the known models. The first prefix that matches decides, so a
// longer one stands before a shorter one. A row with o200k and the usual overhead
// only makes a model known: unknown models count the same.
var families = []family{
	{"gpt-4o-mini", o200kBase, mini},
	{"gpt-4o", o200kBase, estimator.OpenAIChat},
	{"gpt-4.1", o200kBase, estimator.OpenAIChat},
	{"gpt-4.5", o200kBase, estimator.OpenAIChat},
	{"chatgpt-4o", o200kBase, estimator.OpenAIChat},
	{"gpt-5", o200kBase, estimator.OpenAIChat},
	{"gpt-oss", o200kBase, estimator.OpenAIChat},
	{"o1", o200kBase, estimator.OpenAIChat},
	{"o3", o200kBase, estimator.OpenAIChat},
	{"o4-mini", o200kBase, estimator.OpenAIChat},
	{"gpt-4", cl100kBase, earlier},
	{"gpt-3.5", cl100kBase, earlier},
	{"gpt-35", cl100kBase, earlier}, // Azure's spelling
	{"text-embedding-", cl100kBase, earlier},
	{"davinci-002", cl100kBase, earlier},
	{"babbage-002", cl100kBase, earlier},
}

// newest is the family of unknown models: all models since gpt-4o use o200k.
var newest = family{"", o200kBase, estimator.OpenAIChat}

// familyOf returns the family of a model, and whether the model is known. Case
// does not matter. A fine-tuned model is "ft:base:…", an older one "base:ft-…"; a
// router may put "openai/" in front.
func familyOf(model string) (f family, known bool) {
	name := strings.ToLower(strings.TrimSpace(model))
	name = strings.TrimPrefix(name, "openai/")
	name = strings.TrimPrefix(name, "ft:")
	for _, f := range families {
		if strings.HasPrefix(name, f.prefix) {
			return f, true
		}
	}
	return newest, false
}
