package estimator

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"unicode/utf8"
)

// ErrNoText means that an input holds no text that an estimator can count:
// [Extract] accepts neither its type nor its keys or bytes. Every error of Extract
// wraps it. The same input fails each time; a caller that has to go on can charge
// a cost of its own choice.
var ErrNoText = errors.New("no text to count")

// accepted ends the errors of inputs of an unknown form.
const accepted = "want a string, UTF-8 or JSON as []byte, []string, chat messages, or a request with " +
	"messages, input, inputs, prompt, contents, role or content"

// Extract returns the part of an input that a model reads. It accepts
//
//   - a string, a []string: texts;
//   - []int, [][]int and the like: token ids of an embeddings request;
//   - a [Message], a []Message;
//   - a message or a request as a map, a list of maps, or a type of any client
//     library, through the JSON that it marshals to;
//   - a []byte or json.RawMessage: the raw body of a request, a list of messages,
//     and otherwise plain text in UTF-8.
//
// Requests are those of OpenAI chat, completions, responses and embeddings, of
// Anthropic messages, of Voyage embeddings (also multimodal) and of Gemini
// contents, and a line of an OpenAI or Anthropic batch file. Of a message Extract
// reads role, name, content (a string or parts), tool calls and their results; of
// a request also system, instructions, tools and schemas of the reply.
//
// Extract leaves out the data of images, audio and files, ids, signatures and the
// model's name. A string in a place where the model reads text always counts,
// even if it looks like data. In tool inputs and results, and in messages and
// parts of unknown kind, every string counts but base64 and data URLs of 1 KB or
// more. A []byte inside a map[string]any or a []any is text; inside any other
// type it is the base64 that encoding/json makes of it.
//
// Every error wraps [ErrNoText], names the type, the keys or the size of the
// input, and lists the accepted inputs. An image, a PDF or a multipart form as a
// []byte is such an error: it is neither JSON nor UTF-8. Convert bytes in another
// encoding to UTF-8 first, or to a string, in which each byte that is not UTF-8
// counts as U+FFFD.
//
// Extract does not modify the input. The result shares its strings.
func Extract(input any) (Prompt, error) {
	var d decoder
	err := d.value(input)
	return d.Prompt, err
}

// value decodes an input of any Go type.
func (d *decoder) value(input any) error {
	switch in := input.(type) {
	case nil:
		return fmt.Errorf("extract from nil: %w: %s", ErrNoText, accepted)
	case string:
		d.text(in)
	case []string:
		for _, s := range in {
			d.text(s)
		}
	case Message:
		d.typedMessage(in)
	case []Message:
		for _, m := range in {
			d.typedMessage(m)
		}
	case json.RawMessage:
		return d.raw(in)
	case []byte:
		return d.raw(in)
	case map[string]any, []any:
		return d.collection(input)
	default:
		return d.marshalled(input)
	}
	return nil
}

// collection decodes a map[string]any or a []any. It skips encoding/json if the
// values in it are already such as encoding/json would return.
func (d *decoder) collection(input any) error {
	var found survey
	found.visit(input, 0)
	if found.values > maxValues {
		return fmt.Errorf("extract from %T: %w: it holds more than %d values, each counted as often as it is referred to",
			input, ErrNoText, maxValues)
	}
	if found.circular {
		return fmt.Errorf("extract from %T: %w: a pointer in it points to itself, which has no JSON", input, ErrNoText)
	}
	if found.bytes && !found.deep {
		input = replace(input, bytesToString)
	}
	if found.other || found.deep {
		return d.marshalled(input)
	}
	return d.decoded(input)
}

// maxValues bounds the values in a map or a list. A map that holds another twice,
// and so on forty levels deep, is small and has 2⁴⁰ values.
const maxValues = 1 << 20

// survey describes the values in a map or a list.
type survey struct {
	values   int
	bytes    bool // some are []byte
	other    bool // some are of a type that encoding/json does not return
	deep     bool // more than 100 levels; it may hold itself, which encoding/json reports
	circular bool // a pointer in it points to itself
}

func (s *survey) visit(v any, depth int) {
	if s.values++; s.values > maxValues {
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
		s.other = s.other || math.IsNaN(v) || math.IsInf(v, 0) // encoding/json reports these
	case []any:
		for _, item := range v {
			s.visit(item, depth+1)
		}
	case map[string]any:
		for _, item := range v {
			s.visit(item, depth+1)
		}
	default:
		s.other = true
		_, ok := indirect(reflect.ValueOf(v))
		s.circular = s.circular || !ok
	}
}

// bytesToString turns bytes into text, before encoding/json makes base64 of them.
func bytesToString(v any) any {
	if b, ok := v.([]byte); ok {
		return string(b)
	}
	return v
}

// raw decodes a JSON body of a known form, and reads all other bytes as text: a
// document may be JSON too, for example a table of numbers.
func (d *decoder) raw(body []byte) error {
	isJSON := false
	trimmed := bytes.TrimLeft(bytes.TrimPrefix(body, []byte("\ufeff")), " \t\r\n")
	if len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[' || trimmed[0] == '"') {
		var v any
		if isJSON = json.Unmarshal(trimmed, &v) == nil; isJSON {
			if known, ok := knownJSON(v); ok {
				*d = known
				return nil
			}
		}
	}
	if !isJSON && !utf8.Valid(body) {
		return fmt.Errorf("extract from %d bytes: %w: neither JSON nor UTF-8 (at byte %d), perhaps a file or a multipart form: %s",
			len(body), ErrNoText, validPrefix(body), accepted)
	}
	d.text(string(body))
	return nil
}

// knownJSON decodes the value of a raw body, if it has a known form. A list of
// numbers has none: in a raw body it is text, not token ids.
func knownJSON(v any) (d decoder, ok bool) {
	if s, ok := v.(string); ok {
		d.text(s)
		return d, true
	}
	list, _ := v.([]any)
	if _, numbers := countTokenIDs(list); numbers {
		return decoder{}, false
	}
	err := d.decoded(v)
	return d, err == nil
}

// validPrefix returns the length of the longest prefix of b that is UTF-8.
func validPrefix(b []byte) int {
	n := 0
	for n < len(b) {
		r, size := utf8.DecodeRune(b[n:])
		if r == utf8.RuneError && size == 1 {
			break
		}
		n += size
	}
	return n
}

// decoded decodes a value as encoding/json returns it.
func (d *decoder) decoded(v any) error {
	switch v := v.(type) {
	case map[string]any:
		if d.request(v) || d.message(v) {
			return nil
		}
		for _, key := range []string{"body", "params"} { // a line of a batch file of OpenAI, of Anthropic
			if body, ok := v[key].(map[string]any); ok && d.request(body) {
				return nil
			}
		}
		return fmt.Errorf("extract from object with keys %s: %w: %s", keysOf(v), ErrNoText, accepted)
	case []any:
		return d.list(v)
	case string:
		d.text(v)
	default:
		return fmt.Errorf("extract from %T: %w: %s", v, ErrNoText, accepted)
	}
	return nil
}

func (d *decoder) list(items []any) error {
	if d.tokenIDs(items) {
		return nil
	}
	for i, item := range items {
		switch item := item.(type) {
		case string:
			d.text(item)
			continue
		case map[string]any:
			if d.message(item) || d.part(item) {
				continue
			}
			return fmt.Errorf("extract from item %d with keys %s: %w: want role or content", i, keysOf(item), ErrNoText)
		}
		return fmt.Errorf("extract from item %d, a %T: %w: want a string or a message", i, item, ErrNoText)
	}
	return nil
}

// marshalled decodes an input of any other type through its JSON.
func (d *decoder) marshalled(input any) error {
	v, ok := indirect(reflect.ValueOf(input))
	if !ok {
		return fmt.Errorf("extract from %T: %w: it points to itself, which has no JSON", input, ErrNoText)
	}
	if done, err := d.textual(input, v); done {
		return err
	}
	switch v.Kind() {
	case reflect.String, reflect.Slice, reflect.Struct, reflect.Map, reflect.Array, reflect.Pointer:
	default:
		return fmt.Errorf("extract from %T: %w: %s", input, ErrNoText, accepted)
	}
	body, err := json.Marshal(input)
	if err != nil {
		return fmt.Errorf("extract from %T: %w: marshal to JSON: %w", input, ErrNoText, err)
	}
	var decoded any
	if err := json.Unmarshal(body, &decoded); err != nil {
		return fmt.Errorf("extract from %T: %w: decode its JSON: %w", input, ErrNoText, err)
	}
	if err := d.decoded(decoded); err != nil {
		return fmt.Errorf("%w (in the JSON of %T)", err, input)
	}
	if d.emptyMessage {
		return fmt.Errorf("extract from %T: %w: the JSON of a message in it is {}: want fields that encoding/json sees", input, ErrNoText)
	}
	return nil
}

// textual decodes an input whose underlying type is a string or bytes, and
// reports whether it did. encoding/json would make base64 of bytes that are text.
// An input with a method to marshal itself is left to that method.
func (d *decoder) textual(input any, v reflect.Value) (done bool, err error) {
	_, marshals := input.(json.Marshaler)
	_, marshalsText := input.(encoding.TextMarshaler)
	switch v.Kind() {
	case reflect.String:
		if marshals {
			return false, nil
		}
		d.text(v.String())
		return true, nil
	case reflect.Slice:
		switch raw := v.Interface().(type) {
		case json.RawMessage:
			return true, d.raw(raw)
		case [][]byte:
			return true, d.byteTexts(raw)
		}
		if v.Type().Elem().Kind() == reflect.Uint8 && !marshals && !marshalsText {
			return true, d.raw(v.Bytes())
		}
	}
	return false, nil
}

func (d *decoder) byteTexts(texts [][]byte) error {
	for i, text := range texts {
		if !utf8.Valid(text) {
			return fmt.Errorf("extract from item %d of %d bytes: %w: not UTF-8 (at byte %d)", i, len(text), ErrNoText, validPrefix(text))
		}
		d.text(string(text))
	}
	return nil
}

// indirect follows pointers and interfaces to the value at their end. It is not
// ok if they have no end, which encoding/json of Go 1.27 does not detect.
func indirect(v reflect.Value) (end reflect.Value, ok bool) {
	for range 100 {
		if v.Kind() != reflect.Pointer && v.Kind() != reflect.Interface || v.IsNil() {
			return v, true
		}
		v = v.Elem()
	}
	return v, false
}
