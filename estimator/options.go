package estimator

// An Option changes how an estimator counts. Options are read once, when the
// estimator is made; of two that set the same thing the later one holds.
type Option func(*options)

type options struct {
	overhead Overhead
	exact    bool
	output   bool
	fallback int64
}

// Output reserves tokens for the reply, which are added to the estimate: the largest of the input's
// max_completion_tokens, max_output_tokens and max_tokens, times the number of
// replies that the input asks for. An input that names no limit, a plain text
// included, reserves fallback tokens; a negative fallback is 0. Use it with
// providers that limit output tokens, or that admit by prompt and reply
// together. Without this option the reply counts 0 tokens.
func Output(fallback int64) Option {
	return func(o *options) { o.output, o.fallback = true, max(fallback, 0) }
}

// Exact counts the whole of a large text instead of a sample. The time of an
// estimate then grows with the text: package tiktoken takes a second for each 20
// to 100 MB, and for each 2 MB of the most hostile text.
func Exact() Option {
	return func(o *options) { o.exact = true }
}

// WithOverhead sets the tokens that are added for the form of a request. The
// default is [OpenAIChat]; package voyage uses [VoyageEmbeddings].
func WithOverhead(v Overhead) Option {
	return func(o *options) { o.overhead = v }
}

// reserve returns the tokens to add for a reply with the given limit, 0 for none.
func (o *options) reserve(limit int64) int64 {
	switch {
	case !o.output:
		return 0
	case limit > 0:
		return limit
	}
	return o.fallback
}

// Overhead is the number of tokens that a provider adds for the form of a
// request, beside those of its texts. The zero value adds none. A field may be
// negative; the overhead of a request as a whole is at least 0.
type Overhead struct {
	Message int64 // for each message
	Name    int64 // for each name of a message's author
	Call    int64 // for each tool call in a message
	Reply   int64 // once, if there is any message: the reply is primed

	Function int64 // for each function that is described to the model
	Object   int64 // for each parameter object that has properties
	Property int64 // for each property of such an object
	Enum     int64 // for each enumeration among the parameters
	EnumItem int64 // for each value of an enumeration
	Tools    int64 // once, if there is any function

	LowImage int64 // for each image at low detail
	Image    int64 // for each other image
}

// OpenAIChat is the overhead of gpt-4o and later models, from OpenAI's cookbook,
// "How to count tokens with tiktoken". The size of an image is not read: each
// counts as 1024 × 1024 pixels, a base of 85 tokens and four tiles of 170. OpenAI
// publishes no number for a tool call, which is counted as a message of its own.
var OpenAIChat = Overhead{
	Message: 3, Name: 1, Call: 3, Reply: 3,
	Function: 7, Object: 3, Property: 3, Enum: -3, EnumItem: 3, Tools: 12,
	LowImage: 85, Image: 765,
}

// VoyageEmbeddings is the overhead of Voyage's models, which add no tokens to
// text. An image costs a token for each 560 pixels, and counts as 1024 × 1024.
// https://docs.voyageai.com/docs/multimodal-embeddings
var VoyageEmbeddings = Overhead{LowImage: 1872, Image: 1872}

// of returns the overhead of a prompt with these counts.
func (v Overhead) of(c counts) int64 {
	n := c.Messages*v.Message + c.Names*v.Name + c.Calls*v.Call +
		c.Functions*v.Function + c.Objects*v.Object + c.Properties*v.Property +
		c.Enums*v.Enum + c.EnumItems*v.EnumItem + c.LowImages*v.LowImage + c.Images*v.Image
	if c.Messages > 0 {
		n += v.Reply
	}
	if c.Functions > 0 {
		n += v.Tools
	}
	return max(n, 0)
}
