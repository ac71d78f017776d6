package main

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestBuiltInPrompts(t *testing.T) {
	_, prompts, err := loadPrompts("")
	require.NoError(t, err)
	var sum, shortest, longest int64 = 0, 1 << 30, 0
	for _, p := range prompts {
		n := countTokens(p)
		sum, shortest, longest = sum+n, min(shortest, n), max(longest, n)
	}
	mean := float64(sum) / float64(len(prompts))
	t.Logf("%d prompts of %d to %d tokens, %.1f on average", len(prompts), shortest, longest, mean)
	assert.Less(t, mean, 100000.0/60/50, "at the default limits, requests are the tighter limit")
	assert.Greater(t, len(prompts), 200)
}

func TestSplitPrompts(t *testing.T) {
	assert.Equal(t, []string{"One.", "Qu. 2. Two three.", "Five?", "Six"}, splitPrompts("One. Qu. 2. Two\nthree. Five?\r\n\r\nSix"), "sentences")
	assert.Equal(t, []string{strings.TrimSpace(strings.Repeat("a ", 18)) + ",", "b."}, splitPrompts(strings.Repeat("a ", 17)+"a, b."), "a long sentence is split at a comma")
	assert.Empty(t, splitPrompts(" \n\n\t"))
	for _, p := range splitPrompts(strings.Repeat("word ", 1000) + strings.Repeat("é", 5000) + "\xff" + strings.Repeat("x", 5000)) {
		assert.LessOrEqual(t, len(p), maxPromptSize)
		assert.LessOrEqual(t, len(strings.Fields(p)), maxPromptWords)
		assert.True(t, utf8.ValidString(p) || strings.Contains(p, "\xff"), "split between letters")
	}
}
