package tiktoken_test

import (
	"fmt"

	"github.com/choked/choked/estimator"
	"github.com/choked/choked/estimator/tiktoken"
)

func ExampleOpenAI() {
	e := tiktoken.OpenAI("gpt-4o", estimator.Output(500))
	n, err := e.Estimate([]byte(`{"model": "gpt-4o", "messages": [{"role": "user", "content": "Say hello."}], "max_completion_tokens": 20}`))
	fmt.Println(n, err)
	// Output: 30 <nil>
}

func ExampleDeployments() {
	azure := tiktoken.Deployments{"prod-chat": "gpt-4o", "prod-search": "text-embedding-3-large"}
	fmt.Println(azure.OpenAI("prod-chat").Encoding(), azure.OpenAI("prod-search").Encoding())
	// Output: o200k_base cl100k_base
}
