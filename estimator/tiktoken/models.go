package tiktoken

import (
	"strings"

	"github.com/choked/choked/estimator"
	"github.com/choked/choked/estimator/internal/bpe"
)

// encoding is the name of a way to encode text.
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

// family is what models with a common prefix share.
type family struct {
	prefix   string
	encoding encoding
	overhead estimator.Overhead
}

// Models before gpt-4o take three tokens more to describe a function.
// https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken
var earlier = func() estimator.Overhead {
	v := estimator.OpenAIChat
	v.Function = 10
	return v
}()

// An image costs gpt-4o-mini 33 times as many tokens, a base of 2,833 and 5,667 a
// tile, so that it costs as much money.
// https://platform.openai.com/docs/guides/images-vision#calculating-costs
var mini = func() estimator.Overhead {
	v := estimator.OpenAIChat
	v.LowImage, v.Image = 2833, 2833+4*5667
	return v
}()

// families are matched in order: a longer prefix stands before a shorter one.
// What matches none, such as o1, o3, o4-mini, gpt-5.1, gpt-oss-120b or
// chatgpt-4o-latest, is o200k: every model since gpt-4o is.
var families = []family{
	{"gpt-4o-mini", o200kBase, mini},
	{"gpt-4o", o200kBase, estimator.OpenAIChat},
	{"gpt-4.1", o200kBase, estimator.OpenAIChat},
	{"gpt-4.5", o200kBase, estimator.OpenAIChat},
	{"gpt-4", cl100kBase, earlier},
	{"gpt-3.5", cl100kBase, earlier},
	{"gpt-35", cl100kBase, earlier}, // Azure's spelling
	{"text-embedding-", cl100kBase, earlier},
	{"davinci-002", cl100kBase, earlier},
	{"babbage-002", cl100kBase, earlier},
}

var newest = family{"", o200kBase, estimator.OpenAIChat}

// familyOf finds the family of a model by its name, in any case. A fine-tuned
// model is "ft:base:…", an older one "base:ft-…"; a router's "openai/" is left out.
func familyOf(model string) family {
	name := strings.ToLower(strings.TrimSpace(model))
	name = strings.TrimPrefix(name, "openai/")
	name = strings.TrimPrefix(name, "ft:")
	for _, f := range families {
		if strings.HasPrefix(name, f.prefix) {
			return f
		}
	}
	return newest
}
