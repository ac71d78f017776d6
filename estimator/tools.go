package estimator

import (
	"slices"
	"strings"
)

// tools takes the functions that a request describes, in the forms of OpenAI
// chat (under "function" or "custom"), responses (flat), Anthropic (input_schema)
// and Gemini (functionDeclarations). A provider's built-in tools, which have types
// of their own, describe nothing here.
func (p *Prompt) tools(v any) {
	list, _ := v.([]any)
	for _, item := range list {
		tool, ok := item.(map[string]any)
		if !ok {
			continue
		}
		kind, _ := tool["type"].(string)
		for _, key := range []string{"function", "custom"} {
			if inner, ok := tool[key].(map[string]any); ok {
				tool = inner
			}
		}
		p.tools(tool["functionDeclarations"])
		p.tools(tool["function_declarations"])
		name, ok := tool["name"].(string)
		if described := kind == "" || kind == "function" || kind == "custom" || hasAny(tool, "description"); ok && described {
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
	for _, key := range []string{"parameters", "input_schema", "parametersJsonSchema", "parameters_json_schema"} {
		if schema, ok := f[key].(map[string]any); ok {
			p.parameters(schema)
		}
	}
	p.value(f["format"]) // of a custom tool: a grammar
}

// parameters takes the properties of a schema. The cookbook stops at the first
// level; schemas inside, wherever JSON Schema has them, are taken the same way here.
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
	}
	for _, key := range []string{"items", "additionalProperties"} {
		p.inner(schema[key])
	}
	for _, key := range []string{"anyOf", "oneOf", "allOf", "prefixItems"} {
		list, _ := schema[key].([]any)
		for _, item := range list {
			p.inner(item)
		}
	}
	for _, key := range []string{"$defs", "definitions"} {
		named, _ := schema[key].(map[string]any)
		for _, name := range sortedKeys(named) {
			p.inner(named[name])
		}
	}
}

// inner takes a schema that is not itself a named property.
func (p *Prompt) inner(v any) {
	if schema, ok := v.(map[string]any); ok {
		p.content(schema["description"])
		p.enum(schema["enum"])
		p.parameters(schema)
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
