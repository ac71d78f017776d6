package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The flags and variables in deploy/ exist.
func TestDeployFilesUseKnownFlags(t *testing.T) {
	f := newFlags("choked serve", func(string) string { return "" }, nil, nil)
	var o options
	serveFlags(f, &o)
	f.config = filepath.Join("..", "..", "deploy", "choked.conf")
	require.NoError(t, f.file(make(map[string]bool)))
	assert.Len(t, o.node.Join, 3)

	for _, name := range []string{"Dockerfile", "kubernetes.yaml"} {
		b, err := os.ReadFile(filepath.Join("..", "..", "deploy", name))
		require.NoError(t, err)
		set := regexp.MustCompile(`CHOKED_([A-Z_]+)[,=]`).FindAllStringSubmatch(string(b), -1)
		assert.NotEmpty(t, set)
		for _, m := range set {
			flag := strings.ToLower(strings.ReplaceAll(m[1], "_", "-"))
			assert.NotNil(t, f.Lookup(flag), "%s: CHOKED_%s", name, m[1])
		}
	}
	b, err := os.ReadFile(filepath.Join("..", "..", "deploy", "choked.service"))
	require.NoError(t, err)
	assert.Contains(t, string(b), "choked serve -config /etc/choked/choked.conf")
	for _, file := range []string{o.tokens, o.secretFile, o.cert, o.key} {
		assert.Contains(t, string(b), filepath.Base(file), "the unit has to explain how to create %s", file)
	}
	b, err = os.ReadFile(filepath.Join("..", "..", "deploy", "Dockerfile"))
	require.NoError(t, err)
	assert.Regexp(t, `(?s)choked token -file tokens .*docker run --user "\$\(id -u\)" `, string(b), "the container has to run as a user who can read the tokens")
}
