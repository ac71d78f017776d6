package choked_test

import (
	"context"
	"log"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/cluster"
	"github.com/choked/choked/estimator/tiktoken"
)

// What the example takes as given.
var (
	ctx    = context.Background()
	client interface {
		Chat(context.Context, string) (*Reply, error)
	}
)

func Example() {
	node, err := cluster.Start(cluster.Config{ // every worker is a member: there is nothing else to run
		Bind:   ":7946", // the one port to open, TCP and UDP
		Join:   []string{"workers.internal:7946"},
		Secret: os.Getenv("CHOKED_SECRET"),
		Dir:    "/var/lib/choked",
	})
	if err != nil {
		log.Fatal(err)
	}
	choke := choked.New(node)
	chat, err := choke.Limiter("openai_chat", choked.MustLimits("50/s", "100000/m"), tiktoken.OpenAI("gpt-4o"))
	if err != nil {
		log.Fatal(err)
	}
	ask := choked.Wrap(chat, client.Chat) // estimated, queued in turn, admitted; settled by the reply's usage
	reply, err := ask(ctx, "What is a token?")
	log.Println(reply, err)
}

// The README shows code that compiles: the body of [Example].
func TestTheReadmeShowsTheExample(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	source, err := os.ReadFile("readme_test.go")
	require.NoError(t, err)
	_, block, ok := strings.Cut(string(readme), "```go\n")
	require.True(t, ok, "README.md has a block of Go")
	block, _, _ = strings.Cut(block, "```\n")
	_, body, _ := strings.Cut(string(source), "func Example() {\n")
	body, _, _ = strings.Cut(body, "\n}\n")
	body = strings.ReplaceAll("\n"+body, "\n\t", "\n")[1:] + "\n"
	assert.Equal(t, body, block)
}
