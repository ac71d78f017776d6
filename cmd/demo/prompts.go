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
	maxFileSize     = 16 << 20 // bytes
	maxPromptSize   = 2000     // bytes
	maxPromptWords  = 48
	commaBreakAfter = 18 // words after which a prompt may end at a comma, semicolon or colon
)

// loadPrompts returns the text of the file at path and the prompts made of it.
// An empty path stands for the built-in text.
func loadPrompts(path string) (text string, prompts []string, err error) {
	text = opticks
	if path != "" {
		f, err := os.Open(path)
		if err != nil {
			return "", nil, err
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
		if err != nil {
			return "", nil, err
		}
		if len(b) > maxFileSize {
			return "", nil, fmt.Errorf("%s: want a text of at most %d MB", path, maxFileSize>>20)
		}
		text = string(b)
	}
	if prompts = splitPrompts(text); len(prompts) == 0 {
		return "", nil, fmt.Errorf("%s: the text is empty", path)
	}
	return text, prompts, nil
}

// splitPrompts splits a text into prompts: sentences, and parts of long
// sentences. A prompt does not extend over the end of a paragraph.
func splitPrompts(text string) []string {
	var s splitter
	for paragraph := range strings.SplitSeq(strings.ReplaceAll(text, "\r\n", "\n"), "\n\n") {
		for word := range strings.FieldsSeq(paragraph) {
			s.add(word)
		}
		s.endPrompt()
	}
	return s.prompts
}

// splitter joins words to prompts.
type splitter struct {
	prompts []string // complete ones
	words   []string // of the prompt that is not complete yet
	size    int      // bytes of these words, with spaces
}

// add appends a word to the current prompt, which it may complete. A word that
// exceeds maxPromptSize is split into prompts of its own.
func (s *splitter) add(word string) {
	for len(word) > maxPromptSize {
		s.endPrompt()
		n := maxPromptSize
		for n > maxPromptSize-utf8.UTFMax && !utf8.RuneStart(word[n]) {
			n--
		}
		s.prompts = append(s.prompts, word[:n])
		word = word[n:]
	}
	if s.size+1+len(word) > maxPromptSize {
		s.endPrompt()
	}
	s.words, s.size = append(s.words, word), s.size+1+len(word)
	if endsSentence(word) || len(s.words) >= maxPromptWords || len(s.words) >= commaBreakAfter && endsIn(word, ",;:") {
		s.endPrompt()
	}
}

func (s *splitter) endPrompt() {
	if len(s.words) > 0 {
		s.prompts = append(s.prompts, strings.Join(s.words, " "))
	}
	s.words, s.size = nil, 0
}

func endsIn(word, marks string) bool {
	return strings.IndexByte(marks, word[len(word)-1]) >= 0
}

// endsSentence reports whether a sentence ends after word. Abbreviations and
// numbers of up to three bytes, such as "Qu." and "27.", do not end one.
func endsSentence(word string) bool {
	abbreviated := len(word) <= 3 && endsIn(word, ".")
	return endsIn(word, ".?!") && !abbreviated
}

// countTokens is the provider's tokenizer. A word or number of n letters and
// digits is ⌈n/5⌉ tokens, any other mark is one. The workers know it, as clients
// of real providers know the provider's tokenizer.
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
