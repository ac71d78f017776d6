package estimator

import "strings"

// messages takes a list of messages, one message, or a bare string in their place.
func (p *Prompt) messages(v any) {
	switch v := v.(type) {
	case string:
		p.Messages++
		p.text(v)
	case map[string]any:
		p.message(v)
	case []any:
		for _, m := range v {
			p.messages(m)
		}
	}
}

// message takes one message of a chat, or an item of a responses input, and
// says whether v was one.
func (p *Prompt) message(v map[string]any) bool {
	role, hasRole := v["role"].(string)
	kind, _ := v["type"].(string)
	switch kind {
	case "function_call", "function_call_output", "custom_tool_call", "custom_tool_call_output", "reasoning":
	default:
		if !hasRole && v["content"] == nil && v["parts"] == nil {
			return false
		}
		if !hasRole && kind != "" && kind != "message" {
			return false // a part of a message: block knows it
		}
	}
	p.Messages++
	p.text(role)
	if name, ok := v["name"].(string); ok && name != "" {
		p.Names++
		p.text(name)
	}
	// A name is one of the author here, so it is not taken again below.
	for _, key := range []string{"content", "parts", "refusal", "arguments", "output", "summary", "input", "reasoning_content"} {
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
		p.block(v)
	case []any:
		for _, item := range v {
			p.content(item)
		}
	}
}

// block takes one part of a multi-part content, and says whether it knew it.
// It takes the keys that hold what a model reads and leaves all others, so
// ids, signatures and data of kinds yet to come are not counted.
func (p *Prompt) block(v map[string]any) bool {
	kind, _ := v["type"].(string)
	switch {
	case strings.Contains(kind, "image"), v["image_url"] != nil, v["image_base64"] != nil, v["inlineData"] != nil:
		p.image(detailOf(v))
		p.content(v["text"])
		return true
	case strings.Contains(kind, "audio"), strings.Contains(kind, "video"), strings.HasPrefix(kind, "redacted"):
		return true
	case kind == "tool_use" || kind == "server_tool_use":
		p.call(v)
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

// detailOf finds an image's detail, beside its URL or inside it.
func detailOf(v map[string]any) string {
	if inner, ok := v["image_url"].(map[string]any); ok {
		v = inner
	}
	detail, _ := v["detail"].(string)
	return detail
}

// isDataKey says whether a key holds binary data in the bodies of the providers.
func isDataKey(key string) bool {
	switch key {
	case "data", "b64_json", "file_data", "image_base64", "encrypted_content", "signature":
		return true
	}
	return false
}
