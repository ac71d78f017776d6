package providertest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/choked/choked/providertest"
)

// A client calls a provider without a socket. The second call is refused: the provider
// counts the maximum of the first one's reply, and not the tokens that it has.
func Example() {
	provider, err := providertest.New(providertest.Config{
		Provider: providertest.OpenAI, Requests: "500/m", Tokens: "1000/m",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: provider}
	for range 2 {
		resp, err := client.Post("https://api.openai.com/v1/chat/completions", "application/json", strings.NewReader(
			`{"model": "gpt-test", "max_tokens": 600, "messages": [{"role": "user", "content": "To be, or not to be?"}]}`))
		if err != nil {
			fmt.Println(err)
			return
		}
		var reply struct {
			Usage struct {
				TotalTokens int `json:"total_tokens"`
			}
		}
		json.NewDecoder(resp.Body).Decode(&reply)
		resp.Body.Close()
		fmt.Println(resp.StatusCode, reply.Usage.TotalTokens, resp.Header.Get("X-Ratelimit-Remaining-Tokens"))
	}
	tokens := provider.Stats().Limits[1]
	fmt.Println(tokens.Unit, tokens.Limit, "peak", tokens.Peak, "refused", tokens.Refused)
	// Output:
	// 200 105 400
	// 429 0 0
	// tokens 1000/m peak 1200 refused 1
}

// A provider behind a server, for code that only takes an address.
func ExampleProvider_ServeHTTP() {
	provider, err := providertest.New(providertest.Config{Provider: providertest.Anthropic, Requests: "50/m"})
	if err != nil {
		fmt.Println(err)
		return
	}
	server := httptest.NewServer(provider)
	defer server.Close()

	req, err := providertest.NewRequest(context.Background(), providertest.Anthropic, server.URL, providertest.Prompt{
		Text: "To be, or not to be?", MaxTokens: 20,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	fmt.Println(req.URL.Path, resp.Status, resp.Header.Get("Anthropic-Ratelimit-Requests-Remaining"))
	// Output: /v1/messages 200 OK 49
}

// Failures are made to order.
func ExampleProvider_FailNext() {
	provider, err := providertest.New(providertest.Config{Provider: providertest.Anthropic})
	if err != nil {
		fmt.Println(err)
		return
	}
	provider.FailNext(1, providertest.Overloaded)
	client := &http.Client{Transport: provider}
	for range 2 {
		req, _ := providertest.NewRequest(context.Background(), providertest.Anthropic, "http://test", providertest.Prompt{Text: "Hello"})
		resp, err := client.Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		resp.Body.Close()
		fmt.Println(resp.StatusCode)
	}
	// Output:
	// 529
	// 200
}

// A limit that cannot be read is named, with the accepted form.
func ExampleNew_badLimit() {
	_, err := providertest.New(providertest.Config{Provider: providertest.OpenAI, Tokens: "200000"})
	fmt.Println(err)
	// Output: providertest: tokens "200000": no window: want units per time, such as 200000/m; the time is s, m, h, d, or a number of them, such as 10s
}
