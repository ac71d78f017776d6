package estimator

import (
	"slices"
	"strings"
)

// tools takes the functions that a request describes, in the forms of OpenAI
// chat (under "function"), responses (flat), Anthropic (input_schema) and Gemini
// (functionDeclarations). A provider's built-in tools describe nothing here.
func (p *Prompt) tools(v any) {
	list, _ := v.([]any)
	for _, item := range list {
		tool, ok := item.(map[string]any)
		if !ok {
			continue
		}
		if inner, ok := tool["function"].(map[string]any); ok {
			tool = inner
		}
		p.tools(tool["functionDeclarations"])
		if name, ok := tool["name"].(string); ok && (tool["description"] != nil || parametersOf(tool) != nil) {
			p.function(name, tool)
		}
	}
}

// function takes one function as OpenAI is known to render it: a line
// "name:description", then a line "name:type:description" for each parameter.
// https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken
func (p *Prompt) function(name string, f map[string]any) {
	p.Functions++
	p.text(name + ":" + sentence(f["description"]))
	p.parameters(parametersOf(f))
}

func parametersOf(f map[string]any) map[string]any {
	for _, key := range []string{"parameters", "input_schema"} {
		if m, ok := f[key].(map[string]any); ok {
			return m
		}
	}
	return nil
}

// parameters takes the properties of a schema. The cookbook stops at the first
// level; objects and lists inside are taken the same way here.
func (p *Prompt) parameters(schema map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	if len(properties) > 0 {
		p.Objects++
	}
	for _, name := range sortedKeys(properties) {
		property, _ := properties[name].(map[string]any)
		p.Properties++
		kind, _ := property["type"].(string)
		p.text(name + ":" + kind + ":" + sentence(property["description"]))
		p.enum(property["enum"])
		p.parameters(property)
		if items, ok := property["items"].(map[string]any); ok {
			p.enum(items["enum"])
			p.parameters(items)
		}
	}
}

func (p *Prompt) enum(v any) {
	items, _ := v.([]any)
	if len(items) == 0 {
		return
	}
	p.Enums++
	for _, item := range items {
		p.EnumItems++
		p.text(compact(item))
	}
}

// sentence is a description as OpenAI renders it: without its last full stop.
func sentence(v any) string {
	s, _ := v.(string)
	return strings.TrimSuffix(s, ".")
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
