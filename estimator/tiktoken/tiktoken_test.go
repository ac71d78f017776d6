package tiktoken_test

import (
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/choked/choked/estimator"
	"github.com/choked/choked/estimator/internal/corpus"
	"github.com/choked/choked/estimator/tiktoken"
)

func estimate(t testing.TB, e estimator.Estimator, input any) int64 {
	t.Helper()
	cost, err := e.Estimate(input)
	if err != nil {
		t.Fatalf("Estimate: %v", err)
	}
	return cost.Tokens
}

func TestModelDecidesEncoding(t *testing.T) {
	const o200k, cl100k = "o200k_base", "cl100k_base"
	for model, want := range map[string]string{
		"gpt-4o": o200k, "gpt-4o-2024-08-06": o200k, "gpt-4o-mini": o200k, "chatgpt-4o-latest": o200k,
		"gpt-4.1": o200k, "gpt-4.1-nano": o200k, "gpt-4.5-preview": o200k,
		"gpt-5": o200k, "gpt-5-mini": o200k, "gpt-5.1": o200k, "gpt-5.1-codex": o200k, "gpt-oss-120b": o200k,
		"o1": o200k, "o1-mini": o200k, "o3": o200k, "o3-pro": o200k, "o4-mini": o200k,
		"gpt-4": cl100k, "gpt-4-0613": cl100k, "gpt-4-32k": cl100k, "gpt-4-turbo": cl100k, "gpt-4-1106-preview": cl100k,
		"gpt-3.5-turbo": cl100k, "gpt-3.5-turbo-16k": cl100k, "gpt-35-turbo": cl100k,
		"text-embedding-3-small": cl100k, "text-embedding-3-large": cl100k, "text-embedding-ada-002": cl100k,
		"ft:gpt-4o-mini-2024-07-18:acme::abc123": o200k, "ft:gpt-3.5-turbo-0125:acme::abc123": cl100k, "ft:gpt-4-0613:acme::x": cl100k,
		"openai/gpt-4": cl100k, "GPT-4": cl100k, " gpt-4 ": cl100k,
		"": o200k, "a-model-of-tomorrow": o200k,
	} {
		if got := tiktoken.OpenAI(model).Encoding(); got != want {
			t.Errorf("OpenAI(%q) counts by %s, want %s", model, got, want)
		}
	}
}

func TestUnknownModelShowsItsEncoding(t *testing.T) {
	for _, test := range []struct {
		model      string
		known      bool
		encoding   string
		wantString string
	}{
		{"gpt-4o", true, "o200k_base", "openai(gpt-4o, o200k_base)"},
		{"gpt-4-0613", true, "cl100k_base", "openai(gpt-4-0613, cl100k_base)"},
		{"ft:gpt-4o-mini:acme::x", true, "o200k_base", "openai(ft:gpt-4o-mini:acme::x, o200k_base)"},
		{"gpt-5.1-codex", true, "o200k_base", "openai(gpt-5.1-codex, o200k_base)"},
		{"chatgpt-4o-latest", true, "o200k_base", "openai(chatgpt-4o-latest, o200k_base)"},
		{"gpt-oss-120b", true, "o200k_base", "openai(gpt-oss-120b, o200k_base)"},
		{"o1", true, "o200k_base", "openai(o1, o200k_base)"},
		{"openai/o3-pro", true, "o200k_base", "openai(openai/o3-pro, o200k_base)"},
		{"O4-Mini", true, "o200k_base", "openai(O4-Mini, o200k_base)"},
		{"text-embedding-3-large", true, "cl100k_base", "openai(text-embedding-3-large, cl100k_base)"},
		{"gpt-9-turbo", false, "o200k_base", "openai(gpt-9-turbo unknown, o200k_base assumed)"},
		{"prod-chat", false, "o200k_base", "openai(prod-chat unknown, o200k_base assumed)"},
		{"text-davinci-003", false, "o200k_base", "openai(text-davinci-003 unknown, o200k_base assumed)"},
		{"", false, "o200k_base", "openai(o200k_base)"},
	} {
		e := tiktoken.OpenAI(test.model)
		if e.Known() != test.known || e.Encoding() != test.encoding || e.String() != test.wantString {
			t.Errorf("OpenAI(%q): known %t, %s, %s; want %t, %s, %s",
				test.model, e.Known(), e.Encoding(), e, test.known, test.encoding, test.wantString)
		}
	}
}

func TestNewKnowsAllNames(t *testing.T) {
	for _, name := range []string{"openai", "tiktoken", "default", "voyageai"} {
		e, err := tiktoken.New(name)
		if err != nil {
			t.Fatalf("New(%q): %v", name, err)
		}
		if n := estimate(t, e, "hello world"); n < 1 || n > 4 {
			t.Errorf("New(%q) estimates two words at %d", name, n)
		}
	}
	if _, err := tiktoken.New("opnai"); err == nil || !strings.Contains(err.Error(), `"tiktoken"`) {
		t.Errorf("New(%q) = %v, want an error that lists the names", "opnai", err)
	}
}

// OpenAI's cookbook, "How to count tokens with tiktoken", section 6, prints these
// counts for these messages, and the API reported them.
func TestChatCountsEqualCookbook(t *testing.T) {
	messages := []estimator.Message{
		{Role: "system", Content: "You are a helpful, pattern-following assistant that translates corporate jargon into plain English."},
		{Role: "system", Name: "example_user", Content: "New synergies will help drive top-line growth."},
		{Role: "system", Name: "example_assistant", Content: "Things working well together will increase revenue."},
		{Role: "system", Name: "example_user", Content: "Let's circle back when we have more bandwidth to touch base on opportunities for increased leverage."},
		{Role: "system", Name: "example_assistant", Content: "Let's talk later when we're less busy about how to do better."},
		{Role: "user", Content: "This late pivot means we don't have time to boil the ocean for the client deliverable."},
	}
	for model, want := range map[string]int64{"gpt-3.5-turbo": 129, "gpt-4-0613": 129, "gpt-4": 129, "gpt-4o": 124, "gpt-4o-mini": 124} {
		if got := estimate(t, tiktoken.OpenAI(model), messages); got != want {
			t.Errorf("%s: Estimate = %d, want %d", model, got, want)
		}
	}
}

func TestImageCostDependsOnModel(t *testing.T) {
	// An image of 1024 × 1024 pixels costs a base and four tiles, at low detail the
	// base alone.
	parts := []estimator.Message{{Role: "user", Parts: []estimator.Part{{ImageURL: "https://x/y"}, {ImageURL: "https://x/z", Detail: "low"}}}}
	for model, want := range map[string]int64{
		"gpt-4o": 85 + 4*170 + 85, "gpt-4o-mini": 2833 + 4*5667 + 2833, "ft:gpt-4o-mini-2024-07-18:acme::abc123": 2833 + 4*5667 + 2833,
	} {
		if got := estimate(t, tiktoken.OpenAI(model), parts); got != want+3+1+3 {
			t.Errorf("%s: Estimate = %d, want %d for the images and 7 for the chat", model, got, want)
		}
	}
}

func TestToolCountsEqualCookbook(t *testing.T) {
	body := []byte(`{"messages":[
		{"role":"system","content":"You are a helpful assistant that can answer to questions about the weather."},
		{"role":"user","content":"What's the weather like in San Francisco?"}],
		"tools":[{"type":"function","function":{"name":"get_current_weather","description":"Get the current weather in a given location",
		"parameters":{"type":"object","properties":{
			"location":{"type":"string","description":"The city and state, e.g. San Francisco, CA"},
			"unit":{"type":"string","description":"The unit of temperature to return","enum":["celsius","fahrenheit"]}},
		"required":["location"]}}}]}`)
	for model, want := range map[string]int64{"gpt-3.5-turbo": 105, "gpt-4": 105, "gpt-4o": 101, "gpt-4o-mini": 101} {
		if got := estimate(t, tiktoken.OpenAI(model), body); got != want {
			t.Errorf("%s: Estimate = %d, want %d", model, got, want)
		}
	}
}

func TestEstimateErrorNamesInput(t *testing.T) {
	if _, err := tiktoken.OpenAI("gpt-4o").Estimate(3.5); !errors.Is(err, estimator.ErrNoText) || !strings.Contains(err.Error(), "float64") {
		t.Errorf("Estimate(3.5) = %v, want ErrNoText and the type", err)
	}
}

func TestCounterLoadsVocabularyOfModel(t *testing.T) {
	// The two encodings differ in this text.
	const text = "Привет, мир"
	for model, want := range map[string]int{"gpt-4": 6, "gpt-4o": 4, "": 4, "prod-chat": 4} {
		c, err := tiktoken.OpenAI(model).Counter()
		if err != nil {
			t.Fatalf("Counter of OpenAI(%q): %v", model, err)
		}
		if got := c.Count(text); got != want {
			t.Errorf("Counter of OpenAI(%q): Count(%q) = %d, want %d", model, text, got, want)
		}
	}
}

func TestEstimatorsShareVocabularyConcurrently(t *testing.T) {
	var wg sync.WaitGroup
	text := corpus.Prose()[0].Body
	want := estimate(t, tiktoken.OpenAI("gpt-4o"), text)
	for range 8 {
		wg.Go(func() {
			for range 20 {
				if n, err := tiktoken.OpenAI("gpt-4o").Estimate(text); n.Tokens != want || err != nil {
					t.Errorf("Estimate = %v, %v; want %d tokens", n, err, want)
				}
			}
		})
	}
	wg.Wait()
}

// poolDrops is true if sync.Pool drops items, as it does under the race detector.
var poolDrops bool

func TestCountDoesNotAllocate(t *testing.T) {
	if poolDrops {
		t.Skip("the race detector makes sync.Pool drop items")
	}
	c, err := tiktoken.OpenAI("gpt-4o").Counter()
	if err != nil {
		t.Fatal(err)
	}
	text := corpus.English(2 << 10)
	if n := testing.AllocsPerRun(200, func() { c.Count(text) }); n >= 1 {
		t.Errorf("%g allocations for 2 KB, want 0", n)
	}
}
