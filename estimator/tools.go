package estimator

import "strings"

// tools decodes the functions that a request describes, in the forms of OpenAI
// chat (under "function" or "custom"), OpenAI responses (flat), Anthropic
// (input_schema) and Gemini (functionDeclarations). A provider's built-in tools
// have types of their own and no description; they are left out.
func (d *decoder) tools(v any) {
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
		d.tools(tool["functionDeclarations"])
		d.tools(tool["function_declarations"])
		name, ok := tool["name"].(string)
		if described := kind == "" || kind == "function" || kind == "custom" || hasAny(tool, "description"); ok && described {
			d.function(name, tool)
		}
	}
}

// function decodes one function into the texts that OpenAI is known to make of
// it: a line "name:description", and a line "name:type:description" for each
// parameter.
// https://cookbook.openai.com/examples/how_to_count_tokens_with_tiktoken
func (d *decoder) function(name string, f map[string]any) {
	d.count.Functions++
	d.text(name + ":" + sentence(f["description"]))
	for _, key := range []string{"parameters", "input_schema", "parametersJsonSchema", "parameters_json_schema"} {
		if schema, ok := f[key].(map[string]any); ok {
			d.properties(schema)
		}
	}
	d.untyped(f["format"]) // the grammar of a custom tool
}

// properties decodes the properties of a schema, and of the schemas inside it.
// The cookbook counts the first level only; deeper levels count the same here.
func (d *decoder) properties(schema map[string]any) {
	properties, _ := schema["properties"].(map[string]any)
	if len(properties) > 0 {
		d.count.Objects++
	}
	for _, name := range sortedKeys(properties) {
		property, _ := properties[name].(map[string]any)
		d.count.Properties++
		kind, _ := property["type"].(string)
		d.text(name + ":" + kind + ":" + sentence(property["description"]))
		d.enum(property["enum"])
		d.properties(property)
	}
	for _, key := range []string{"items", "additionalProperties"} {
		d.schema(schema[key])
	}
	for _, key := range []string{"anyOf", "oneOf", "allOf", "prefixItems"} {
		list, _ := schema[key].([]any)
		for _, item := range list {
			d.schema(item)
		}
	}
	for _, key := range []string{"$defs", "definitions"} {
		named, _ := schema[key].(map[string]any)
		for _, name := range sortedKeys(named) {
			d.schema(named[name])
		}
	}
}

// schema decodes a schema that is not the value of a property.
func (d *decoder) schema(v any) {
	if schema, ok := v.(map[string]any); ok {
		d.content(schema["description"])
		d.enum(schema["enum"])
		d.properties(schema)
	}
}

func (d *decoder) enum(v any) {
	items, _ := v.([]any)
	if len(items) == 0 {
		return
	}
	d.count.Enums++
	for _, item := range items {
		d.count.EnumItems++
		d.text(compact(item))
	}
}

// sentence returns a description as OpenAI renders it: without its last full stop.
func sentence(v any) string {
	s, _ := v.(string)
	return strings.TrimSuffix(s, ".")
}
