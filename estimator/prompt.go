package estimator

// Prompt is the part of an input that a model reads, as [Extract] returns it. Its
// input tokens are those of Texts and of [Prompt.Tokens] together.
type Prompt struct {
	// Texts are the texts of the prompt, without empty ones. A provider tokenises
	// each on its own.
	Texts []string

	// Output is the largest limit on the reply that the input names, in tokens,
	// times the number of replies that it asks for. It is 0 if the input names none.
	Output int64

	count counts
}

// Tokens returns the tokens that a provider with the overhead v counts beside
// those of Texts: v for messages, tools and images, and one token for each token
// id that the input holds, as an embeddings request may. Output is not included.
// The result is never negative.
func (p Prompt) Tokens(v Overhead) int64 {
	return sum(p.count.TokenIDs, v.of(p.count))
}

// counts are the numbers of things in a prompt that cost tokens beside its texts.
type counts struct {
	TokenIDs int64 // tokens given as numbers in an embeddings request

	Messages, Names, Calls int64 // of a chat; Names are of authors, Calls are tool calls
	Functions              int64 // described to the model
	Objects, Properties    int64 // parameter objects with properties, and their properties
	Enums, EnumItems       int64 // enumerations among the parameters, and their values
	LowImages, Images      int64 // images at low detail, and all others
}

// decoder collects a Prompt from JSON values as encoding/json decodes them.
// Providers share most keys of a request, and services that imitate one provider
// accept keys of others, so one decoder reads the keys of all.
type decoder struct {
	Prompt
	emptyMessage bool // a message had no keys at all
}

func (d *decoder) text(s string) {
	if s != "" {
		d.Texts = append(d.Texts, s)
	}
}

func (d *decoder) image(detail string) {
	if detail == "low" {
		d.count.LowImages++
	} else {
		d.count.Images++
	}
}

// tokenIDs counts items if all of them are token ids or lists of token ids, and
// reports whether they are.
func (d *decoder) tokenIDs(items []any) bool {
	n, ok := countTokenIDs(items)
	if ok {
		d.count.TokenIDs += n
	}
	return ok
}
