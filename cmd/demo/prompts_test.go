package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestPromptsBuiltIn(t *testing.T) {
	_, prompts, err := loadPrompts("")
	require.NoError(t, err)
	var sum, least, most int64 = 0, 1 << 30, 0
	for _, p := range prompts {
		n := countTokens(p)
		sum, least, most = sum+n, min(least, n), max(most, n)
	}
	mean := float64(sum) / float64(len(prompts))
	t.Logf("%d prompts of %d to %d tokens, %.1f on average", len(prompts), least, most, mean)
	assert.Less(t, mean, 100000.0/60/50, "at the default limits, requests bind")
	assert.Greater(t, len(prompts), 200)
}

func TestCut(t *testing.T) {
	assert.Equal(t, []string{"One.", "Qu. 2. Two three.", "Five?", "Six"}, cut("One. Qu. 2. Two\nthree. Five?\r\n\r\nSix"), "sentences")
	assert.Equal(t, []string{strings.TrimSpace(strings.Repeat("a ", 18)) + ",", "b."}, cut(strings.Repeat("a ", 17)+"a, b."), "a long sentence is cut at a comma")
	assert.Empty(t, cut(" \n\n\t"))
	for _, p := range cut(strings.Repeat("word ", 1000) + strings.Repeat("é", 5000) + "\xff" + strings.Repeat("x", 5000)) {
		assert.LessOrEqual(t, len(p), maxPrompt)
		assert.LessOrEqual(t, len(strings.Fields(p)), maxWords)
		assert.True(t, utf8.ValidString(p) || strings.Contains(p, "\xff"), "cut between letters")
	}
}
