package main

import (
	_ "embed"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"
	"unicode/utf8"
)

//go:embed prompts.txt
var opticks string

const (
	maxFile   = 16 << 20
	maxPrompt = 2000 // bytes
	clause    = 18   // words; from so many on, a prompt may end at a comma
	maxWords  = 48
)

// loadPrompts returns the text of the file at path, and the prompts in it; "" is
// the text built in.
func loadPrompts(path string) (text string, prompts []string, err error) {
	text = opticks
	if path != "" {
		f, err := os.Open(path)
		if err != nil {
			return "", nil, err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
		if err != nil {
			return "", nil, err
		}
		if len(b) > maxFile {
			return "", nil, fmt.Errorf("%s: want a text of at most %d MB", path, maxFile>>20)
		}
		text = string(b)
	}
	if prompts = cut(text); len(prompts) == 0 {
		return "", nil, fmt.Errorf("%s: want a text, this is empty", path)
	}
	return text, prompts, nil
}

// cut makes prompts of a text: sentences, and parts of long ones.
func cut(text string) (prompts []string) {
	var words []string
	size := 0
	end := func() {
		if len(words) > 0 {
			prompts = append(prompts, strings.Join(words, " "))
		}
		words, size = nil, 0
	}
	for paragraph := range strings.SplitSeq(strings.ReplaceAll(text, "\r\n", "\n"), "\n\n") {
		for word := range strings.FieldsSeq(paragraph) {
			for len(word) > maxPrompt { // not of any language
				end()
				n := maxPrompt
				for n > maxPrompt-utf8.UTFMax && !utf8.RuneStart(word[n]) {
					n--
				}
				prompts = append(prompts, word[:n])
				word = word[n:]
			}
			if size+1+len(word) > maxPrompt {
				end()
			}
			words, size = append(words, word), size+1+len(word)
			switch last := word[len(word)-1]; {
			case strings.ContainsRune(".?!", rune(last)) && !abbreviates(word), len(words) >= maxWords,
				strings.ContainsRune(",;:", rune(last)) && len(words) >= clause:
				end()
			}
		}
		end()
	}
	return prompts
}

// abbreviates reports whether a word that ends in a full stop is short for
// something or a number, such as "Qu." or "27.".
func abbreviates(word string) bool {
	return len(word) <= 3 && word[len(word)-1] == '.'
}

// countTokens is the provider's tokenizer: a token for each five letters begun
// of a word or number, and for each mark. As of real providers, it is known to
// those who send.
func countTokens(text string) int64 {
	n, run := int64(0), 0
	for _, c := range text {
		switch {
		case unicode.IsLetter(c) || unicode.IsDigit(c):
			if run%5 == 0 {
				n++
			}
			run++
			continue
		case !unicode.IsSpace(c):
			n++
		}
		run = 0
	}
	return max(n, 1)
}
