package estimator

import "strings"

// messages takes a list of messages, one message, or a bare string in their place.
func (p *Prompt) messages(v any) {
	switch v := v.(type) {
	case string:
		p.Messages++
		p.text(v)
	case map[string]any:
		p.empty = p.empty || len(v) == 0
		if !p.message(v) {
			p.Messages++
			p.content(v)
		}
	case []any:
		for _, m := range v {
			p.messages(m)
		}
	}
}

// bodies are the keys of a message under which a model finds text. A name is
// not among them: it is one of the author here, and counted as such.
var bodies = []string{"content", "parts", "refusal", "arguments", "output", "summary", "input", "reasoning_content"}

// message takes one message of a chat, or an item of a responses input, and
// says whether v was one.
func (p *Prompt) message(v map[string]any) bool {
	role, hasRole := v["role"].(string)
	kind, _ := v["type"].(string)
	known := false
	switch kind {
	case "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning":
		known = true
	default:
		if !hasRole && v["content"] == nil && v["parts"] == nil {
			return false
		}
		if !hasRole && kind != "" && kind != "message" {
			return false // a part of a message: block knows it
		}
	}
	p.Messages++
	if !known && !hasAny(v, bodies...) && !hasAny(v, "tool_calls", "function_call", "audio") {
		p.loose(v)
		return true
	}
	p.text(role)
	if name, ok := v["name"].(string); ok && name != "" {
		p.Names++
		p.text(name)
	}
	for _, key := range bodies {
		p.content(v[key])
	}
	p.calls(v["tool_calls"])
	if call, ok := v["function_call"].(map[string]any); ok {
		p.call(call)
	}
	return true
}

func (p *Prompt) calls(v any) {
	list, _ := v.([]any)
	for _, c := range list {
		if call, ok := c.(map[string]any); ok {
			p.call(call)
		}
	}
}

func (p *Prompt) call(v map[string]any) {
	for _, key := range []string{"function", "custom"} {
		if inner, ok := v[key].(map[string]any); ok {
			v = inner
		}
	}
	p.Calls++
	if !hasAny(v, "name", "arguments", "input", "args") {
		p.loose(v)
		return
	}
	p.content(v["name"])
	for _, key := range []string{"arguments", "input", "args"} {
		if args, ok := v[key]; ok && args != nil {
			p.text(compact(args))
		}
	}
}

// content takes the content of a message: a string, a part, or a list of both.
func (p *Prompt) content(v any) {
	switch v := v.(type) {
	case string:
		p.text(v)
	case map[string]any:
		if !p.block(v) {
			p.loose(v)
		}
	case []any:
		for _, item := range v {
			p.content(item)
		}
	}
}

// block takes one part of a multi-part content, and says whether it knew it. Of
// a kind that it knows it takes the keys that hold what a model reads, and
// leaves ids, signatures and data.
func (p *Prompt) block(v map[string]any) bool {
	kind, _ := v["type"].(string)
	switch {
	case strings.Contains(kind, "image"), hasAny(v, "image_url", "image_base64", "inlineData", "inline_data"):
		p.image(detailOf(v))
		p.content(v["text"])
		return true
	case strings.Contains(kind, "audio"), strings.Contains(kind, "video"), kind == "file", kind == "input_file", strings.HasPrefix(kind, "redacted"),
		hasAny(v, "video_url", "video_base64", "fileData", "file_data"):
		return true
	case strings.HasSuffix(kind, "tool_use"):
		p.call(v)
		return true
	case kind != "" && !isText(kind):
		p.loose(v)
		return true
	}
	known := kind != ""
	for _, key := range []string{"text", "content", "thinking", "refusal", "output", "summary", "title", "context", "parts", "transcript"} {
		if inner, ok := v[key]; ok {
			known = true
			p.content(inner)
		}
	}
	if source, ok := v["source"].(map[string]any); ok {
		known = true
		if source["type"] == "text" { // a document in plain text, under the key that else holds base64
			p.content(source["data"])
		}
		p.content(source["content"])
	}
	for _, key := range []string{"functionCall", "function_call"} {
		if call, ok := v[key].(map[string]any); ok {
			known = true
			p.call(call)
		}
	}
	if r, ok := v["functionResponse"].(map[string]any); ok {
		known = true
		p.content(r["name"])
		p.text(compact(r["response"]))
	}
	return known
}

// isText says whether a part of that kind has its text under the keys that block knows.
func isText(kind string) bool {
	switch kind {
	case "text", "input_text", "output_text", "summary_text", "reasoning_text", "refusal", "thinking", "tool_result", "document", "search_result":
		return true
	}
	return false
}

// loose takes every text of an object whose form is not known, but ids and
// base64: what a provider adds, or a Go type without JSON tags, should count
// rather than be free.
func (p *Prompt) loose(v map[string]any) {
	for _, key := range sortedKeys(v) {
		if key != "id" && key != "type" && !strings.HasSuffix(key, "_id") {
			p.value(v[key])
		}
	}
}

func (p *Prompt) value(v any) {
	switch v := v.(type) {
	case string:
		if !isData(v) {
			p.text(v)
		}
	case map[string]any:
		p.content(v)
	case []any:
		for _, item := range v {
			p.value(item)
		}
	}
}

func hasAny(v map[string]any, keys ...string) bool {
	for _, key := range keys {
		if v[key] != nil {
			return true
		}
	}
	return false
}

// detailOf finds an image's detail, beside its URL or inside it.
func detailOf(v map[string]any) string {
	if inner, ok := v["image_url"].(map[string]any); ok {
		v = inner
	}
	detail, _ := v["detail"].(string)
	return detail
}
