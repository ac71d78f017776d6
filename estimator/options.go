package estimator

// An Option changes how an estimator counts.
type Option func(*options)

type options struct {
	overhead Overhead
	exact    bool
	output   bool
	fallback int64
}

// Output adds a reserve for the reply: the input's max_completion_tokens,
// max_output_tokens or max_tokens, whichever is largest, for each of the replies
// that it asks for, and fallback tokens for an input that names no limit. Providers that limit output tokens, or that
// admit by prompt and max_tokens together, need it. A fallback below zero counts as zero.
func Output(fallback int64) Option {
	return func(o *options) { o.output, o.fallback = true, max(fallback, 0) }
}

// Exact counts all of a large text instead of a sample. The cost then grows with
// the text: with package tiktoken by a second for each 20 to 100 MB, or for each
// 2 MB of the most hostile.
func Exact() Option {
	return func(o *options) { o.exact = true }
}

// WithOverhead replaces what is added for the form of a request, [OpenAIChat] unless told.
func WithOverhead(v Overhead) Option {
	return func(o *options) { o.overhead = v }
}

func (o *options) reserve(asked int64) int64 {
	switch {
	case !o.output:
		return 0
	case asked > 0:
		return asked
	}
	return o.fallback
}

// Overhead is what a provider adds to the text of a request, in tokens.
type Overhead struct {
	Message int64 // each message
	Name    int64 // each name of a message's author
	Call    int64 // each tool call in a message
	Reply   int64 // once for a chat: the reply is primed

	Function int64 // each function described to the model
	Object   int64 // each parameter object that has properties
	Property int64 // each property of it
	Enum     int64 // each enumeration, and
	EnumItem int64 // each value in it
	Tools    int64 // once, if there is any function

	LowImage int64 // each image at low detail
	Image    int64 // each other image
}

// OpenAIChat is what gpt-4o and later models add, from OpenAI's cookbook, "How to
// count tokens with tiktoken". An image is taken as 1024 × 1024 pixels: a base
// of 85 and four tiles of 170. A tool call is taken as a message of its own,
// for which OpenAI publishes no figure.
var OpenAIChat = Overhead{
	Message: 3, Name: 1, Call: 3, Reply: 3,
	Function: 7, Object: 3, Property: 3, Enum: -3, EnumItem: 3, Tools: 12,
	LowImage: 85, Image: 765,
}

// VoyageEmbeddings is what Voyage adds: nothing to text. An image costs a token
// for each 560 pixels, and is taken as 1024 × 1024.
// https://docs.voyageai.com/docs/multimodal-embeddings
var VoyageEmbeddings = Overhead{LowImage: 1872, Image: 1872}

func (v Overhead) of(p Prompt) int64 {
	n := p.Messages*v.Message + p.Names*v.Name + p.Calls*v.Call +
		p.Functions*v.Function + p.Objects*v.Object + p.Properties*v.Property +
		p.Enums*v.Enum + p.EnumItems*v.EnumItem + p.LowImages*v.LowImage + p.Images*v.Image
	if p.Messages > 0 {
		n += v.Reply
	}
	if p.Functions > 0 {
		n += v.Tools
	}
	return max(n, 0)
}
