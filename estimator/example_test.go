package estimator_test

import (
	"fmt"
	"strings"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/estimator"
)

func ExampleDefault() {
	e := estimator.Default()
	cost, err := e.Estimate([]estimator.Message{
		{Role: "system", Content: "You are a patient librarian."},
		{Role: "user", Content: "Which book should I read on a rainy day?"},
	})
	fmt.Println(cost.Tokens, err)
	// Output: 25 <nil>
}

func ExampleExtract() {
	p, err := estimator.Extract([]byte(`{"model": "gpt-4o", "max_tokens": 100, "messages": [{"role": "user", "content": [
		{"type": "text", "text": "What is this?"},
		{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]}]}`))
	fmt.Printf("%q and %d tokens for the image and the message, a reply of at most %d, %v\n",
		p.Texts, p.Tokens(estimator.OpenAIChat), p.Output, err)
	// Output: ["user" "What is this?"] and 771 tokens for the image and the message, a reply of at most 100, <nil>
}

// Letters is a tokenizer that makes a token of each byte.
type Letters struct{}

func (Letters) Count(text string) int { return len(text) }

func ExampleUsing() {
	e := estimator.Using(Letters{}, estimator.Output(16))
	cost, err := e.Estimate([]string{"one", "two"})
	fmt.Println(cost, err)
	// Output: 22 tokens, 6 input tokens, 16 output tokens <nil>
}

func ExampleCalibrate() {
	e := estimator.Calibrate(estimator.Using(Letters{}))
	text := strings.Repeat("x", 100)
	for range 200 {
		estimated, err := e.Estimate(text)
		if err != nil {
			fmt.Println(err)
			return
		}
		e.Observe(estimated, bucket.Cost{Input: 80}) // what the provider reported; a Limiter does this
	}
	cost, err := e.Estimate(text)
	fmt.Printf("%v, %v, factor %.2f\n", cost, err, e.Factor(bucket.Input))
	// Output: 80 tokens, 80 input tokens, <nil>, factor 0.80
}

func ExampleNew() {
	_, err := estimator.New("opnai")
	fmt.Println(err)
	// Output: estimator "opnai": unknown name: want "default", "openai", "tiktoken" or "voyageai"
}
