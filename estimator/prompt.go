package estimator

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
)

// Prompt is what a model reads of an input, and what a provider counts beside
// its text. All numbers are counts of things, except Tokens and Output.
type Prompt struct {
	Texts  []string // each is tokenised on its own
	Tokens int64    // tokens given as numbers, as embeddings inputs may be
	Output int64    // the largest limit on the reply that is named, times the replies asked for; 0: none

	Messages, Names, Calls int64 // of a chat; Calls are tool calls
	Functions              int64 // described to the model, with
	Objects, Properties    int64 // their parameters, and
	Enums, EnumItems       int64 // the enumerations among those
	LowImages, Images      int64 // images at low detail, and all others

	empty bool // a message had no keys at all
}

// errNoText is wrapped by every error of Extract.
var errNoText = errors.New("no text to count")

const understood = "want a string, []byte, []string, chat messages, or a request with " +
	"messages, input, inputs, prompt, contents, role or content"

// Extract takes from an input what a model would read of it:
//
//   - a string, a []string: text;
//   - []int, [][]int and the like: tokens of an embeddings input;
//   - a [Message], a []Message;
//   - a message or request as a map, a list of maps, or a type of any client
//     library, by the JSON it marshals to;
//   - a []byte or json.RawMessage: a request's raw body or a list of messages,
//     and anything else as plain text.
//
// Requests are those of OpenAI chat, completions, responses and embeddings,
// Anthropic messages, Voyage embeddings (multimodal too) and Gemini contents, and
// a line of an OpenAI or Anthropic batch of them. Of a message it takes role, name,
// string or multi-part content, tool calls and their results; of a request also
// system, instructions, tools and response schemas.
//
// It never takes image, audio or file data, an id, a signature, or the model's
// name. A string where a model reads text counts, whatever is in it. In what is an
// object to the model, a tool's input or result, and in a message or a part of a
// kind that is not known, every string counts but those of a kilobyte and more
// that are base64 or a data URL. A []byte is text in a map[string]any and in a
// []any, and in any other type the base64 that encoding/json makes of it.
//
// An error names the type or the keys that were given and what would have been
// understood.
func Extract(input any) (Prompt, error) {
	var p Prompt
	switch in := input.(type) {
	case nil:
		return p, fmt.Errorf("estimator: input is nil: %w: %s", errNoText, understood)
	case string:
		p.text(in)
	case []string:
		for _, s := range in {
			p.text(s)
		}
	case Message:
		p.typedMessage(in)
	case []Message:
		for _, m := range in {
			p.typedMessage(m)
		}
	case json.RawMessage:
		p.raw(in)
	case []byte:
		p.raw(in)
	case map[string]any, []any:
		var seen survey
		seen.take(input, 0)
		if seen.values > mostValues {
			return p, fmt.Errorf("estimator: a %T that holds more than %d values, or some of them many times over: %w", input, mostValues, errNoText)
		}
		if seen.circular {
			return p, fmt.Errorf("estimator: a %T that holds what points to itself has no JSON: %w", input, errNoText)
		}
		if seen.bytes && !seen.deep {
			input = replace(input, asText)
		}
		if seen.other || seen.deep {
			return p, p.other(input)
		}
		return p, p.decoded(input)
	default:
		return p, p.other(input)
	}
	return p, nil
}

// mostValues bounds what a map or a list may hold. One that holds another twice, and
// that one a third twice, is small and has no end.
const mostValues = 1 << 20

// survey is what is in a map or a list of any values.
type survey struct {
	values int
	bytes  bool // some are bytes
	other  bool // some are neither that nor as encoding/json decodes them, and could go unseen
	deep   bool // it may hold itself, which encoding/json reports

	circular bool // a pointer in it leads back to itself
}

func (s *survey) take(v any, depth int) {
	if s.values++; s.values > mostValues {
		return
	}
	if depth > 100 {
		s.deep = true
		return
	}
	switch v := v.(type) {
	case nil, string, bool:
	case []byte:
		s.bytes = true
	case float64:
		s.other = s.other || math.IsNaN(v) || math.IsInf(v, 0) // which encoding/json reports
	case []any:
		for _, item := range v {
			s.take(item, depth+1)
		}
	case map[string]any:
		for _, item := range v {
			s.take(item, depth+1)
		}
	default:
		s.other = true
		_, ok := follow(reflect.ValueOf(v))
		s.circular = s.circular || !ok
	}
}

// asText makes text of bytes, of which encoding/json would make base64.
func asText(v any) any {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return v
}

// raw takes a JSON body that it knows, and any other bytes as text: a document
// may well be JSON, a table of numbers for one.
func (p *Prompt) raw(body []byte) {
	trimmed := bytes.TrimLeft(bytes.TrimPrefix(body, []byte("\ufeff")), " \t\r\n")
	if len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[' || trimmed[0] == '"') {
		var v any
		if json.Unmarshal(trimmed, &v) == nil {
			var q Prompt
			if s, ok := v.(string); ok {
				q.text(s)
				*p = q
				return
			}
			numbers, _ := v.([]any)
			if _, ok := countTokens(numbers); !ok && q.decoded(v) == nil {
				*p = q
				return
			}
		}
	}
	p.text(string(body))
}

// decoded takes a value as encoding/json decodes it.
func (p *Prompt) decoded(v any) error {
	switch v := v.(type) {
	case map[string]any:
		if p.request(v) || p.message(v) {
			return nil
		}
		for _, key := range []string{"body", "params"} { // a line of a batch, of OpenAI's or Anthropic's
			if body, ok := v[key].(map[string]any); ok && p.request(body) {
				return nil
			}
		}
		return fmt.Errorf("estimator: an object with keys %s: %w: %s", keysOf(v), errNoText, understood)
	case []any:
		return p.list(v)
	case string:
		p.text(v)
	default:
		return fmt.Errorf("estimator: %T: %w: %s", v, errNoText, understood)
	}
	return nil
}

func (p *Prompt) list(items []any) error {
	if n, ok := countTokens(items); ok {
		p.Tokens += n
		return nil
	}
	for i, item := range items {
		switch item := item.(type) {
		case string:
			p.text(item)
			continue
		case map[string]any:
			if p.message(item) || p.block(item) {
				continue
			}
			return fmt.Errorf("estimator: item %d has keys %s: %w: want role or content", i, keysOf(item), errNoText)
		}
		return fmt.Errorf("estimator: item %d is a %T: %w: want a string or a message", i, item, errNoText)
	}
	return nil
}

// other takes any other type through its JSON.
func (p *Prompt) other(input any) error {
	v, ok := follow(reflect.ValueOf(input))
	if !ok {
		return fmt.Errorf("estimator: a %T that points to itself has no JSON: %w", input, errNoText)
	}
	_, marshals := input.(json.Marshaler)
	_, marshalsText := input.(encoding.TextMarshaler)
	switch v.Kind() {
	case reflect.String:
		if !marshals {
			p.text(v.String())
			return nil
		}
	case reflect.Slice:
		// encoding/json would make base64 of bytes that are text.
		switch raw := v.Interface().(type) {
		case json.RawMessage:
			p.raw(raw)
			return nil
		case [][]byte:
			for _, text := range raw {
				p.text(string(text))
			}
			return nil
		}
		if v.Type().Elem().Kind() == reflect.Uint8 && !marshals && !marshalsText {
			p.raw(v.Bytes())
			return nil
		}
	case reflect.Struct, reflect.Map, reflect.Array, reflect.Pointer:
	default:
		return fmt.Errorf("estimator: a %T: %w: %s", input, errNoText, understood)
	}
	body, err := json.Marshal(input)
	if err != nil {
		return fmt.Errorf("estimator: a %T does not marshal to JSON: %w (%w)", input, errNoText, err)
	}
	var decoded any
	if err := json.Unmarshal(body, &decoded); err != nil {
		return fmt.Errorf("estimator: the JSON of a %T: %w (%w)", input, errNoText, err)
	}
	if err := p.decoded(decoded); err != nil {
		return fmt.Errorf("%w (taken from a %T through its JSON)", err, input)
	}
	if p.empty {
		return fmt.Errorf("estimator: a %T holds a message whose JSON is {}: %w: want fields that encoding/json sees", input, errNoText)
	}
	return nil
}

// follow returns what a pointer leads to, or one to an interface that holds another.
// ok is false if that has no end: encoding/json does not notice that in Go 1.27.
func follow(v reflect.Value) (end reflect.Value, ok bool) {
	for range 100 {
		if v.Kind() != reflect.Pointer && v.Kind() != reflect.Interface || v.IsNil() {
			return v, true
		}
		v = v.Elem()
	}
	return v, false
}

func (p *Prompt) text(s string) {
	if s != "" {
		p.Texts = append(p.Texts, s)
	}
}

func (p *Prompt) image(detail string) {
	if detail == "low" {
		p.LowImages++
	} else {
		p.Images++
	}
}

// countTokens counts a list, or a list of lists, of numbers that tokens may have.
func countTokens(items []any) (n int64, ok bool) {
	for _, item := range items {
		switch item := item.(type) {
		case float64:
			if item < 0 || item != math.Trunc(item) {
				return 0, false
			}
			n++
		case []any:
			inner, ok := countTokens(item)
			if !ok {
				return 0, false
			}
			n += inner
		default:
			return 0, false
		}
	}
	return n, n > 0
}
