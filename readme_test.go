package choked_test

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The first block of Go in README.md is the function work of the example of this
// package, so it compiles.
func TestReadmeShowsTheExample(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("example_cluster_test.go")
	require.NoError(t, err)
	_, block, ok := strings.Cut(string(readme), "```go\n")
	require.True(t, ok, "README.md has a block of Go")
	block, _, ok = strings.Cut(block, "```\n")
	require.True(t, ok, "the block ends")
	_, body, ok := strings.Cut(string(source), "\nfunc work(")
	require.True(t, ok, "example_cluster_test.go has a function work")
	body, _, _ = strings.Cut(body, "\n}\n")
	assert.Equal(t, "func work("+body+"\n}\n", block)
}

// README.md is read in a few minutes. What is too long for it belongs in docs/.
func TestReadmeIsShort(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	assert.LessOrEqual(t, len(strings.Fields(string(readme))), 900, "words")
}
