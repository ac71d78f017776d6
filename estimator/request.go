package estimator

import (
	"math"
	"strings"
)

// request decodes the body of an API call, and reports whether v is one.
func (d *decoder) request(v map[string]any) bool {
	if !d.body(v) {
		return false
	}
	d.instructions(v)
	d.tools(v["tools"])
	d.tools(v["functions"]) // OpenAI chat, the older form
	d.replySchemas(v)
	d.Output = replyLimit(v)
	return true
}

// body decodes the keys that make an object a request, and reports whether v has
// any of them.
func (d *decoder) body(v map[string]any) bool {
	known := false
	for _, key := range []string{"messages", "contents"} { // OpenAI chat and Anthropic, Gemini
		if list, ok := v[key]; ok {
			known = true
			d.messages(list)
		}
	}
	if in, ok := v["input"]; ok && v["role"] == nil && v["type"] == nil { // OpenAI responses and embeddings, Voyage
		known = true
		d.input(in, isConversation(v))
	}
	if in, ok := v["inputs"]; ok { // Voyage multimodal
		known = true
		d.content(in)
	}
	if in, ok := v["prompt"]; ok { // OpenAI completions, and responses by a template
		known = true
		if template, ok := in.(map[string]any); ok { // the provider has the text; the request has its variables
			d.untyped(template["variables"])
		} else {
			d.input(in, false)
			d.content(v["suffix"])
		}
	}
	return known
}

// instructions decodes the system prompt of Anthropic, of OpenAI responses and of
// Gemini, in either of the names that Gemini accepts. It counts as a message.
func (d *decoder) instructions(v map[string]any) {
	for _, key := range []string{"system", "instructions", "systemInstruction", "system_instruction"} {
		if s, ok := v[key]; ok && s != nil {
			d.count.Messages++
			d.content(s)
		}
	}
}

// replySchemas decodes the JSON schemas that the reply must follow: the model
// reads them.
func (d *decoder) replySchemas(v map[string]any) {
	d.replySchema(v["response_format"]) // OpenAI chat
	d.replySchema(v["output_format"])   // Anthropic
	for _, config := range generationConfigs(v) {
		for _, key := range []string{"responseSchema", "response_schema", "responseJsonSchema", "response_json_schema"} {
			if s := config[key]; s != nil {
				d.text(compact(s))
			}
		}
	}
	for _, key := range []string{"text", "output_config"} { // OpenAI responses, Anthropic
		if inner, ok := v[key].(map[string]any); ok {
			d.replySchema(inner["format"])
		}
	}
}

func (d *decoder) replySchema(v any) {
	format, ok := v.(map[string]any)
	if !ok {
		return
	}
	if inner, ok := format["json_schema"].(map[string]any); ok {
		format = inner
	}
	if s, ok := format["schema"]; ok && s != nil {
		d.content(format["name"])
		d.content(format["description"])
		d.text(compact(s))
	}
}

// replyLimit returns the largest limit on a reply that a request names, in
// tokens, times the number of replies: each may be that long.
func replyLimit(v map[string]any) int64 {
	limit := int64(0)
	for _, key := range []string{"max_tokens", "max_completion_tokens", "max_output_tokens", "maxOutputTokens"} {
		limit = max(limit, number(v[key]))
	}
	replies := max(1, number(v["n"]), number(v["best_of"]))
	for _, config := range generationConfigs(v) {
		limit = max(limit, number(config["maxOutputTokens"]), number(config["max_output_tokens"]))
		replies = max(replies, number(config["candidateCount"]), number(config["candidate_count"]))
	}
	if prompts, ok := v["prompt"].([]any); ok && len(prompts) > 0 {
		if _, tokenID := prompts[0].(float64); !tokenID { // several prompts, each with its own replies
			replies *= int64(len(prompts))
		}
	}
	return limit * min(replies, math.MaxInt32)
}

// generationConfigs returns Gemini's settings of the reply, under either of the
// names that Gemini accepts.
func generationConfigs(v map[string]any) (configs []map[string]any) {
	for _, key := range []string{"generationConfig", "generation_config"} {
		if config, ok := v[key].(map[string]any); ok {
			configs = append(configs, config)
		}
	}
	return configs
}

// input decodes the input of an embeddings, a completions or a responses call.
// Only a responses call is a conversation, in which a bare string counts as a
// message of the user.
func (d *decoder) input(in any, conversation bool) {
	switch in := in.(type) {
	case string:
		if conversation {
			d.count.Messages++
			d.text("user")
		}
		d.text(in)
	case []any:
		if d.tokenIDs(in) {
			return
		}
		for _, item := range in {
			d.inputItem(item)
		}
	case map[string]any:
		d.messages(in)
	}
}

func (d *decoder) inputItem(item any) {
	switch item := item.(type) {
	case []any:
		if d.tokenIDs(item) {
			return
		}
	case map[string]any:
		if d.message(item) {
			return
		}
	}
	d.content(item)
}

// isConversation tells a responses call from an embeddings call, which share the
// key "input", by the keys that only one of them has, and otherwise by the model.
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
