package bpe

// patterns maps regular expressions, as the encoders publish them, to the splits
// that match them. Some are published in more than one form.
var patterns = map[string]Split{
	`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`:  GPT2,
	`'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`:     GPT2,
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)` + symbolWord + `|\p{N}{1,3}` + symbolLines:     CL100K,
	`'(?i:[sdmt]|ll|ve|re)` + symbolWord + `|\p{N}{1,3}` + symbolLines:            CL100K,
	`(?i:'s|'t|'re|'ve|'m|'ll|'d)` + symbolWord + `|\p{N}` + symbolLines:          Qwen,
	casedWord + `|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`: O200K,
}

const (
	symbolWord  = `|[^\r\n\p{L}\p{N}]?\p{L}+`
	symbolLines = `| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	casedWord   = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?` +
		`|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?`
)

// SplitOf returns the split that matches a regular expression; ok is false for an
// unknown expression.
func SplitOf(pattern string) (split Split, ok bool) {
	split, ok = patterns[pattern]
	return split, ok
}
