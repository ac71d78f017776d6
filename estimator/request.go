package estimator

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
)

// request takes the body of an API call, and says whether v was one.
func (p *Prompt) request(v map[string]any) bool {
	known := false
	for _, key := range []string{"messages", "contents"} {
		if list, ok := v[key]; ok {
			known = true
			p.messages(list)
		}
	}
	if in, ok := v["input"]; ok && v["role"] == nil && v["type"] == nil {
		known = true
		p.input(in, isConversation(v))
	}
	if in, ok := v["inputs"]; ok {
		known = true
		p.content(in)
	}
	if in, ok := v["prompt"]; ok {
		known = true
		if template, ok := in.(map[string]any); ok { // kept by the provider, with values for its variables
			p.value(template["variables"])
		} else {
			p.input(in, false)
			p.content(v["suffix"])
		}
	}
	if !known {
		return false
	}
	for _, key := range []string{"system", "instructions", "systemInstruction", "system_instruction"} {
		if s, ok := v[key]; ok && s != nil {
			p.Messages++
			p.content(s)
		}
	}
	p.tools(v["tools"])
	p.tools(v["functions"])
	p.schema(v["response_format"])
	p.schema(v["output_format"])
	for _, config := range generation(v) {
		for _, key := range []string{"responseSchema", "response_schema", "responseJsonSchema", "response_json_schema"} {
			if s := config[key]; s != nil {
				p.text(compact(s))
			}
		}
	}
	for _, key := range []string{"text", "output_config"} {
		if inner, ok := v[key].(map[string]any); ok {
			p.schema(inner["format"])
		}
	}
	p.limits(v)
	return true
}

// limits notes the largest limit on the reply that a request names, and how many
// replies are to be made: each of them may be as long.
func (p *Prompt) limits(v map[string]any) {
	for _, key := range []string{"max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens"} {
		p.Output = max(p.Output, number(v[key]))
	}
	replies := max(1, number(v["n"]), number(v["best_of"]))
	for _, config := range generation(v) {
		p.Output = max(p.Output, number(config["maxOutputTokens"]), number(config["max_output_tokens"]))
		replies = max(replies, number(config["candidateCount"]), number(config["candidate_count"]))
	}
	if prompts, ok := v["prompt"].([]any); ok && len(prompts) > 0 {
		if _, token := prompts[0].(float64); !token { // several, each of which has its replies
			replies *= int64(len(prompts))
		}
	}
	p.Output *= min(replies, math.MaxInt32)
}

// generation is how Gemini is to reply, under either of the names that it takes.
func generation(v map[string]any) (configs []map[string]any) {
	for _, key := range []string{"generationConfig", "generation_config"} {
		if config, ok := v[key].(map[string]any); ok {
			configs = append(configs, config)
		}
	}
	return configs
}

// input takes the input of an embeddings or a responses call. Only the latter
// is a chat, with what a chat adds.
func (p *Prompt) input(in any, conversation bool) {
	switch in := in.(type) {
	case string:
		if conversation {
			p.Messages++
			p.text("user")
		}
		p.text(in)
	case []any:
		if n, ok := countTokens(in); ok {
			p.Tokens += n
			return
		}
		for _, item := range in {
			if ids, ok := item.([]any); ok {
				if n, ok := countTokens(ids); ok {
					p.Tokens += n
					continue
				}
			}
			if m, ok := item.(map[string]any); ok && p.message(m) {
				continue
			}
			p.content(item)
		}
	case map[string]any:
		p.messages(in)
	}
}

// isConversation tells a responses call from an embeddings call, which share
// the key "input": by the keys that only one of them has, else by the model.
func isConversation(v map[string]any) bool {
	for _, key := range []string{"instructions", "max_output_tokens", "tools", "previous_response_id", "reasoning", "text", "store"} {
		if _, ok := v[key]; ok {
			return true
		}
	}
	for _, key := range []string{"input_type", "encoding_format", "dimensions", "output_dimension", "output_dtype", "truncation"} {
		if _, ok := v[key]; ok {
			return false
		}
	}
	model, _ := v["model"].(string)
	return model != "" && !strings.Contains(model, "embed") && !strings.HasPrefix(model, "voyage")
}

// schema takes the JSON schema that a reply must follow: the model reads it.
func (p *Prompt) schema(v any) {
	format, ok := v.(map[string]any)
	if !ok {
		return
	}
	if inner, ok := format["json_schema"].(map[string]any); ok {
		format = inner
	}
	if s, ok := format["schema"]; ok && s != nil {
		p.content(format["name"])
		p.content(format["description"])
		p.text(compact(s))
	}
}

// compact is v as JSON text, without binary data in it.
func compact(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(withoutData(v)) != nil {
		return ""
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func withoutData(v any) any {
	return replace(v, func(leaf any) any {
		if s, ok := leaf.(string); ok && isData(s) {
			return ""
		}
		return leaf
	})
}

// replace copies lists and maps, with f of what is in them and is neither.
func replace(v any, f func(leaf any) any) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = replace(v[i], f)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = replace(v[k], f)
		}
		return out
	}
	return f(v)
}

// number reads a JSON number as a count, of 2³¹ at most, and anything else as none.
func number(v any) int64 {
	if n, ok := v.(float64); ok && n > 0 {
		return int64(min(n, math.MaxInt32))
	}
	return 0
}

// keysOf lists the keys of an unknown object for an error message, in order, and not all of many.
func keysOf(v map[string]any) string {
	keys := make([]string, 0, len(v))
	for k := range v {
		if len(k) > 32 {
			k = k[:32] + "…"
		}
		keys = append(keys, k)
	}
	slices.Sort(keys)
	if len(keys) > 8 {
		keys = append(keys[:8], "…")
	}
	b, _ := json.Marshal(keys)
	return string(b)
}
