package estimator

import "strings"

// messages decodes a list of messages, a single message, or a bare string.
func (d *decoder) messages(v any) {
	switch v := v.(type) {
	case string:
		d.count.Messages++
		d.text(v)
	case map[string]any:
		d.emptyMessage = d.emptyMessage || len(v) == 0
		if !d.message(v) {
			d.count.Messages++
			d.content(v)
		}
	case []any:
		for _, m := range v {
			d.messages(m)
		}
	}
}

// textKeys are the keys of a message whose values the model reads. "name" is not
// among them: the name of an author has an overhead of its own.
var textKeys = []string{"content", "parts", "refusal", "arguments", "output", "summary", "input", "reasoning_content"}

// message decodes one message of a chat, or one item of a responses input, and
// reports whether v is one.
func (d *decoder) message(v map[string]any) bool {
	role, hasRole := v["role"].(string)
	kind, _ := v["type"].(string)
	item := isResponsesItem(kind)
	if !item {
		if !hasRole && v["content"] == nil && v["parts"] == nil {
			return false
		}
		if !hasRole && kind != "" && kind != "message" {
			return false // a part of a message: see part
		}
	}
	d.count.Messages++
	if !item && !hasAny(v, textKeys...) && !hasAny(v, "tool_calls", "function_call", "audio") {
		d.unknown(v)
		return true
	}
	d.text(role)
	if name, ok := v["name"].(string); ok && name != "" {
		d.count.Names++
		d.text(name)
	}
	for _, key := range textKeys {
		d.content(v[key])
	}
	d.calls(v["tool_calls"])
	if call, ok := v["function_call"].(map[string]any); ok {
		d.call(call)
	}
	return true
}

// isResponsesItem reports whether an item of that type in a responses input
// counts as a message without a role.
func isResponsesItem(kind string) bool {
	switch kind {
	case "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning":
		return true
	}
	return false
}

func (d *decoder) calls(v any) {
	list, _ := v.([]any)
	for _, c := range list {
		if call, ok := c.(map[string]any); ok {
			d.call(call)
		}
	}
}

// call decodes a tool call, in the form of any provider.
func (d *decoder) call(v map[string]any) {
	for _, key := range []string{"function", "custom"} {
		if inner, ok := v[key].(map[string]any); ok {
			v = inner
		}
	}
	d.count.Calls++
	if !hasAny(v, "name", "arguments", "input", "args") {
		d.unknown(v)
		return
	}
	d.content(v["name"])
	for _, key := range []string{"arguments", "input", "args"} {
		if args, ok := v[key]; ok && args != nil {
			d.text(compact(args))
		}
	}
}

// content decodes the content of a message: a string, a part, or a list of both.
func (d *decoder) content(v any) {
	switch v := v.(type) {
	case string:
		d.text(v)
	case map[string]any:
		if !d.part(v) {
			d.unknown(v)
		}
	case []any:
		for _, item := range v {
			d.content(item)
		}
	}
}

// part decodes one part of a message's content, and reports whether v is one. Of
// a known kind of part it reads only the keys whose values the model reads, which
// leaves out ids, signatures and data. All strings of an unknown kind count.
func (d *decoder) part(v map[string]any) bool {
	kind, _ := v["type"].(string)
	switch {
	case strings.Contains(kind, "image"), hasAny(v, "image_url", "image_base64", "inlineData", "inline_data"):
		d.image(detailOf(v))
		d.content(v["text"])
		return true
	case strings.Contains(kind, "audio"), strings.Contains(kind, "video"), kind == "file", kind == "input_file", strings.HasPrefix(kind, "redacted"),
		hasAny(v, "video_url", "video_base64", "fileData", "file_data"):
		return true
	case strings.HasSuffix(kind, "tool_use"):
		d.call(v)
		return true
	case kind != "" && !isText(kind):
		d.unknown(v)
		return true
	}
	return d.textPart(v) || kind != ""
}

// textPart decodes a part with text, a document, or a tool call or result of
// Gemini, and reports whether v has any of their keys.
func (d *decoder) textPart(v map[string]any) bool {
	known := false
	for _, key := range []string{"text", "content", "thinking", "refusal", "output", "summary", "title", "context", "parts", "transcript"} {
		if inner, ok := v[key]; ok {
			known = true
			d.content(inner)
		}
	}
	if source, ok := v["source"].(map[string]any); ok { // Anthropic's documents
		known = true
		if source["type"] == "text" { // other types have base64 under this key
			d.content(source["data"])
		}
		d.content(source["content"])
	}
	for _, key := range []string{"functionCall", "function_call"} {
		if call, ok := v[key].(map[string]any); ok {
			known = true
			d.call(call)
		}
	}
	if r, ok := v["functionResponse"].(map[string]any); ok {
		known = true
		d.content(r["name"])
		d.text(compact(r["response"]))
	}
	return known
}

// isText reports whether textPart decodes parts of that type.
func isText(kind string) bool {
	switch kind {
	case "text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal", "thinking", "tool_result", "document", "search_result":
		return true
	}
	return false
}

// unknown decodes an object of unknown form: all strings in it count but ids and
// base64. New kinds of parts, and Go types without JSON tags, should not be free.
func (d *decoder) unknown(v map[string]any) {
	for _, key := range sortedKeys(v) {
		if key != "id" && key != "type" && !strings.HasSuffix(key, "_id") {
			d.untyped(v[key])
		}
	}
}

// untyped decodes a value in a place where strings may be text or data.
func (d *decoder) untyped(v any) {
	switch v := v.(type) {
	case string:
		if !isData(v) {
			d.text(v)
		}
	case map[string]any:
		d.content(v)
	case []any:
		for _, item := range v {
			d.untyped(item)
		}
	}
}

// detailOf returns the detail of an image: a key beside its URL or inside it.
func detailOf(v map[string]any) string {
	if inner, ok := v["image_url"].(map[string]any); ok {
		v = inner
	}
	detail, _ := v["detail"].(string)
	return detail
}
