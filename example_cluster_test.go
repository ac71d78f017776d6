package choked_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/choked/choked"
	"github.com/choked/choked/cluster"
	"github.com/choked/choked/estimator/tiktoken"
)

// Answer is a provider's reply that knows what the call used.
type Answer struct {
	Text   string
	Tokens int64
}

// Used makes an Answer a [choked.Usage].
func (a *Answer) Used() (choked.Cost, bool) { return choked.Cost{Tokens: a.Tokens}, true }

// callProvider stands for a call of a provider's client library.
func callProvider(context.Context, string) (*Answer, error) {
	return &Answer{Text: "A piece of a word.", Tokens: 12}, nil
}

func work(ctx context.Context) error {
	node, err := cluster.Start(cluster.Config{
		Bind:   ":7946",                           // TCP and UDP
		Join:   []string{"workers.internal:7946"}, // the same on all workers
		Secret: os.Getenv("CHOKED_SECRET"),        // the same on all workers
		Dir:    "/var/lib/choked",                 // of this worker alone
	})
	if err != nil {
		return err
	}
	defer node.Close()
	choke := choked.New(node)
	defer choke.Close() // before the node: returns the quota that is not spent
	chat, err := choke.Limiter("openai_chat", choked.MustLimits("requests 50/s; tokens 100000/m"), tiktoken.OpenAI("gpt-4o"))
	if err != nil {
		return err
	}
	ask := choked.Wrap(chat, callProvider) // a func(context.Context, string) (*Answer, error)
	answer, err := ask(ctx, "What is a token?")
	if err != nil {
		return err
	}
	fmt.Println(answer.Text)
	return nil
}

func Example() {
	if err := work(context.Background()); err != nil {
		log.Fatal(err)
	}
}
