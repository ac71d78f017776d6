package providertest

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// A Prompt is a call as a client makes it.
type Prompt struct {
	Model     string // default: the provider's name and "-test"
	Text      string // at least one character
	MaxTokens int64  // most tokens of the reply; 0: not stated, or 1024 at Anthropic, which requires it
	Stream    bool   // of a reply in text, and its usage
}

// NewRequest returns the request of a prompt in the form of a provider's API, for a
// server at an address such as "http://127.0.0.1:8080". For Voyage it asks for an
// embedding, and for all others for a reply in text.
func NewRequest(ctx context.Context, provider, address string, p Prompt) (*http.Request, error) {
	if _, err := specOf(provider); err != nil {
		return nil, fmt.Errorf("providertest: %w", err)
	}
	if p.Model == "" {
		p.Model = provider + "-test"
	}
	path, body := "/v1/chat/completions", obj{
		"model": p.Model, "messages": []obj{{"role": "user", "content": p.Text}},
	}
	if p.Stream {
		body["stream"] = true
		body["stream_options"] = obj{"include_usage": true}
	}
	if p.MaxTokens > 0 {
		body["max_tokens"] = p.MaxTokens
	}
	switch provider {
	case Azure:
		path = "/openai/deployments/" + p.Model + "/chat/completions"
	case Groq:
		path = "/openai/v1/chat/completions"
	case Anthropic:
		path = "/v1/messages"
		delete(body, "stream_options")
		if p.MaxTokens == 0 {
			body["max_tokens"] = 1024
		}
	case Voyage:
		path, body = "/v1/embeddings", obj{"model": p.Model, "input": []string{p.Text}}
	case Gemini:
		path = "/v1beta/models/" + p.Model + ":generateContent"
		if p.Stream {
			path = "/v1beta/models/" + p.Model + ":streamGenerateContent?alt=sse"
		}
		body = obj{"contents": []obj{{"role": "user", "parts": []obj{{"text": p.Text}}}}}
		if p.MaxTokens > 0 {
			body["generationConfig"] = obj{"maxOutputTokens": p.MaxTokens}
		}
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return nil, err // a map of plain values is always encoded
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(address, "/")+path, bytes.NewReader(encoded))
	if err != nil {
		return nil, fmt.Errorf("providertest: address: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	return r, nil
}
