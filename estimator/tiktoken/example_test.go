package tiktoken_test

import (
	"fmt"

	"github.com/choked/choked/estimator"
	"github.com/choked/choked/estimator/tiktoken"
)

func ExampleOpenAI() {
	e := tiktoken.OpenAI("gpt-4o", estimator.Output(500))
	cost, err := e.Estimate([]byte(`{"model": "gpt-4o", "messages": [{"role": "user", "content": "Say hello."}], "max_completion_tokens": 20}`))
	fmt.Println(cost, err)
	// Output: 30 tokens, 10 input tokens, 20 output tokens <nil>
}

// The names of deployments say nothing of the models behind them.
func ExampleOpenAI_deployment() {
	models := map[string]string{"prod-chat": "gpt-4o", "prod-search": "text-embedding-3-large"}
	for _, deployment := range []string{"prod-chat", "prod-search", "prod-new"} {
		fmt.Println(deployment, tiktoken.OpenAI(models[deployment]))
	}
	fmt.Println(tiktoken.OpenAI("prod-new"))
	// Output:
	// prod-chat openai(gpt-4o, o200k_base)
	// prod-search openai(text-embedding-3-large, cl100k_base)
	// prod-new openai(o200k_base)
	// openai(prod-new unknown, o200k_base assumed)
}

func ExampleNew() {
	e, err := tiktoken.New("openai") // from a configuration file
	if err != nil {
		fmt.Println(err)
		return
	}
	cost, err := e.Estimate("The quick brown fox jumps over the lazy dog.")
	fmt.Println(cost.Input, err)

	_, err = tiktoken.New("opnai")
	fmt.Println(err)
	// Output:
	// 10 <nil>
	// estimator "opnai": unknown name: want "default", "openai", "tiktoken" or "voyageai"
}

func ExampleEstimator_Counter() {
	c, err := tiktoken.OpenAI("gpt-4o").Counter() // loads the vocabulary now
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(c.Count("hello world"))
	// Output: 2
}
