package estimator

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
)

// countTokenIDs counts the numbers of a list, or of a list of lists. It is not
// ok if the list is empty or holds a value that cannot be a token id.
func countTokenIDs(items []any) (n int64, ok bool) {
	for _, item := range items {
		switch item := item.(type) {
		case float64:
			if item < 0 || item != math.Trunc(item) {
				return 0, false
			}
			n++
		case []any:
			inner, ok := countTokenIDs(item)
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

// compact returns v as JSON text without binary data, or v itself if it is a string.
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

// withoutData copies v with each string of binary data replaced by "".
func withoutData(v any) any {
	return replace(v, func(leaf any) any {
		if s, ok := leaf.(string); ok && isData(s) {
			return ""
		}
		return leaf
	})
}

// replace copies the lists and maps in v, and replaces each other value by f of it.
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

// number returns a JSON number as a count, at most 2³¹-1, and 0 for any other value.
func number(v any) int64 {
	if n, ok := v.(float64); ok && n > 0 {
		return int64(min(n, math.MaxInt32))
	}
	return 0
}

// keysOf lists the keys of an object for an error message: sorted, at most eight,
// each cut after 32 bytes.
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
	b, _ := json.Marshal(keys) // strings always marshal
	return string(b)
}

func sortedKeys(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// hasAny reports whether v has a value other than null under any of the keys.
func hasAny(v map[string]any, keys ...string) bool {
	for _, key := range keys {
		if v[key] != nil {
			return true
		}
	}
	return false
}
