package providertest

import (
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// A dialect is the form of a provider's API.
type dialect struct {
	endpoints []endpoint

	// quota sets the headers that tell the state of the limits at an instant.
	quota func(h http.Header, limits []view, now time.Time)

	// fail sets the headers of an error, and returns its status and body.
	fail func(h http.Header, e *apiError) (status int, body obj)

	errorEvent string // name of the server-sent event of an error, if it has one
}

// An endpoint is a method of a provider's API.
type endpoint struct {
	suffix    string // of its path
	streams   bool   // all replies are streams
	array     bool   // a stream is a JSON array unless the query asks for server-sent events
	embedding bool
	needsMax  bool // the largest number of tokens is required

	reply func(x *exchange) obj                     // of calls that do not stream
	begin func(x *exchange) []frame                 // of a stream
	delta func(x *exchange, text string) obj        // tokens of a stream
	event string                                    // name of the event of delta, if it has one
	end   func(x *exchange) []frame                 // of a stream
	fail  func(e *apiError, body obj) (string, obj) // event and data of an error in a stream; nil: the dialect's
}

// A frame is a part of a stream: a server-sent event, or an element of an array.
type frame struct {
	event string
	data  any // a string is sent as it is
}

// obj is a JSON object.
type obj = map[string]any

type errorKind int

const (
	rateLimited errorKind = iota // by limit
	busy                         // 429 that names no limit
	outOfQuota
	overloaded
	serverError
	invalidRequest
	notFound
)

// An apiError is an error for the client.
type apiError struct {
	Call
	kind    errorKind
	message string // of invalidRequest and notFound

	// Of rateLimited:
	limit     view   // that has room last
	full      []view // limits without room
	requested int64
	wait      time.Duration // until limit has room
}

// retryIn returns the time after which a retry has room, if the provider knows it.
func (e *apiError) retryIn() (time.Duration, bool) {
	return e.wait, e.kind == rateLimited && e.wait < unknown
}

// tooLarge reports whether the call will never be admitted.
func (e *apiError) tooLarge() bool { return e.kind == rateLimited && e.wait == never }

// request has the fields of all requests that the providers read.
type request struct {
	Model             string
	Messages          any
	Input             any
	Prompt            any
	System            any
	Instructions      any
	Contents          any
	SystemInstruction any

	MaxTokens           int64 `json:"max_tokens"`
	MaxCompletionTokens int64 `json:"max_completion_tokens"`
	MaxOutputTokens     int64 `json:"max_output_tokens"`
	GenerationConfig    struct{ MaxOutputTokens int64 }

	N             int64
	BestOf        int64 `json:"best_of"`
	Stream        bool
	StreamOptions struct {
		IncludeUsage bool `json:"include_usage"`
	} `json:"stream_options"`
}

func (r *request) prompt() []any {
	return []any{r.Messages, r.Input, r.Prompt, r.System, r.Instructions, r.Contents, r.SystemInstruction}
}

func (r *request) maxTokens() int64 {
	return max(r.MaxTokens, r.MaxCompletionTokens, r.MaxOutputTokens, r.GenerationConfig.MaxOutputTokens)
}

// check returns an error if the request lacks a field.
func (e *endpoint) check(r *request) error {
	if m := min(r.MaxTokens, r.MaxCompletionTokens, r.MaxOutputTokens, r.GenerationConfig.MaxOutputTokens); m < 0 || r.maxTokens() > maxTokens {
		return fmt.Errorf("largest number of tokens: want 1 to %d", int64(maxTokens))
	}
	if e.needsMax && r.maxTokens() == 0 {
		return fmt.Errorf("max_tokens: field required")
	}
	if n := max(r.N, r.BestOf); n > 128 {
		return fmt.Errorf("%d choices: want 1 to 128", n)
	}
	if characters(r.prompt()) == 0 {
		return fmt.Errorf("no prompt: want text in messages, input, prompt or contents")
	}
	return nil
}

// call returns the call that a request makes.
func (r *request) call(path string, e *endpoint) Call {
	c := Call{
		Path: path, Model: r.Model, Characters: characters(r.prompt()), MaxTokens: r.maxTokens(),
		Choices: max(1, r.N, r.BestOf), Stream: (r.Stream || e.streams) && !e.embedding, Embedding: e.embedding,
	}
	if c.Model == "" { // Gemini's and Azure's are in the path
		c.Model = modelIn(path)
	}
	return c
}

// modelIn returns the model of a path such as /v1beta/models/NAME:generateContent or
// /openai/deployments/NAME/chat/completions.
func modelIn(path string) string {
	for _, before := range []string{"/models/", "/deployments/"} {
		if _, model, found := strings.Cut(path, before); found {
			return model[:strings.IndexAny(model+"/", ":/")]
		}
	}
	return "unknown"
}

// characters returns the number of characters of the strings in a JSON value. It skips
// fields that hold no text, such as roles.
func characters(value any) (n int64) {
	switch v := value.(type) {
	case string:
		return int64(utf8.RuneCountInString(v))
	case []any:
		for _, e := range v {
			n += characters(e)
		}
	case map[string]any:
		for name, e := range v {
			switch name {
			case "role", "type", "id", "cache_control":
			default:
				n += characters(e)
			}
		}
	}
	return n
}

// writeError answers a call with an error.
func (p *Provider) writeError(w http.ResponseWriter, e *apiError) {
	status, body := p.spec.fail(w.Header(), e)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

// A reply writes the reply of an admitted call.
type reply struct {
	w      http.ResponseWriter
	x      *exchange
	frames int
}

func (r *reply) begin() {
	if !r.x.Stream {
		return
	}
	contentType := "text/event-stream"
	if !r.x.sse {
		contentType = "application/json"
	}
	r.w.Header().Set("Content-Type", contentType)
	r.w.WriteHeader(http.StatusOK)
	r.write(r.x.endpoint.begin(r.x)...)
}

// delta writes n tokens. It returns false when the client has gone.
func (r *reply) delta(n int64) bool {
	if !r.x.Stream {
		return true
	}
	return r.write(frame{r.x.endpoint.event, r.x.endpoint.delta(r.x, text(n))})
}

func (r *reply) end() {
	if !r.x.Stream {
		r.w.Header().Set("Content-Type", "application/json")
		json.NewEncoder(r.w).Encode(r.x.endpoint.reply(r.x))
		return
	}
	r.write(r.x.endpoint.end(r.x)...)
	r.close()
}

// fail ends the reply with an error: a frame of a stream that has begun.
func (r *reply) fail(e *apiError) {
	if !r.x.Stream {
		r.x.p.writeError(r.w, e)
		return
	}
	_, body := r.x.p.spec.fail(http.Header{}, e)
	event, data := r.x.p.spec.errorEvent, body
	if r.x.endpoint.fail != nil {
		event, data = r.x.endpoint.fail(e, body)
	}
	r.write(frame{event, data})
	r.close()
}

// cut breaks the connection.
func (r *reply) cut() {
	if !r.x.Stream {
		r.w.Header().Set("Content-Type", "application/json")
		body, _ := json.Marshal(r.x.endpoint.reply(r.x))
		r.w.Write(body[:len(body)/2])
		http.NewResponseController(r.w).Flush()
	}
	panic(http.ErrAbortHandler)
}

func (r *reply) write(frames ...frame) bool {
	for _, f := range frames {
		var b strings.Builder
		data, isText := f.data.(string)
		if !isText {
			encoded, err := json.Marshal(f.data)
			if err != nil {
				panic(err) // frames are maps of plain values
			}
			data = string(encoded)
		}
		switch {
		case !r.x.sse && r.frames == 0:
			b.WriteString("[" + data)
		case !r.x.sse:
			b.WriteString(",\r\n" + data)
		case f.event == comment:
			b.WriteString(": " + data + "\n\n")
		case f.event != "":
			b.WriteString("event: " + f.event + "\ndata: " + data + "\n\n")
		default:
			b.WriteString("data: " + data + "\n\n")
		}
		r.frames++
		if _, err := r.w.Write([]byte(b.String())); err != nil {
			return false
		}
	}
	return http.NewResponseController(r.w).Flush() == nil
}

// comment is the event of a frame that clients skip.
const comment = ":"

// close ends an array.
func (r *reply) close() {
	if !r.x.sse {
		r.w.Write([]byte("]"))
	}
}

const maxText = 1000 // tokens

// text returns a text of n tokens, cut at maxText.
func text(n int64) string { return strings.Repeat("tok ", int(min(n, maxText))) }

// noQuota is of providers that send no headers.
func noQuota(http.Header, []view, time.Time) {}

// ceil returns d in whole units, rounded up.
func ceil(d, unit time.Duration) int64 {
	n := int64(d / unit)
	if d%unit > 0 {
		n++
	}
	return n
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// setRetryAfter sets Retry-After in whole seconds, if the wait is known.
func setRetryAfter(h http.Header, e *apiError) {
	if wait, known := e.retryIn(); known {
		h.Set("Retry-After", itoa(ceil(wait, time.Second)))
	}
}

// setRetryAfterMs is setRetryAfter with Retry-After-Ms, in milliseconds, beside it.
func setRetryAfterMs(h http.Header, e *apiError) {
	setRetryAfter(h, e)
	if wait, known := e.retryIn(); known {
		h.Set("Retry-After-Ms", itoa(ceil(wait, time.Millisecond)))
	}
}

// perName returns the time of a limit in words, "minute" or "10s".
func perName(per time.Duration) string {
	switch per {
	case time.Second:
		return "second"
	case time.Minute:
		return "minute"
	case time.Hour:
		return "hour"
	case 24 * time.Hour:
		return "day"
	}
	return formatPer(per)
}

// roundTo rounds to a multiple of unit.
func roundTo(n, unit int64) int64 { return int64(math.Round(float64(n)/float64(unit))) * unit }
