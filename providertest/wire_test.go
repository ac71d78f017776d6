package providertest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/providertest"
)

// quota returns the headers of an answer whose names have a prefix, without it.
func quota(a answer, prefix string) map[string]string {
	found := make(map[string]string)
	for name := range a.header {
		if rest, ok := strings.CutPrefix(strings.ToLower(name), prefix); ok {
			found[rest] = a.header.Get(name)
		}
	}
	return found
}

// openAIError is the body of an error of OpenAI and of those that follow it.
type openAIError struct {
	Error struct {
		Message string
		Type    string
		Code    any
	}
}

func TestOpenAIHeadersAndRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.OpenAI, Requests: "10000/d, 3/m", Tokens: "30000/m", Failed: providertest.IgnoreFailed})
		assert.Equal(t, map[string]string{
			"limit-requests": "3", "remaining-requests": "2", "reset-requests": "1m0s",
			"limit-tokens": "30000", "remaining-tokens": "2000", "reset-tokens": "1m0s",
		}, quota(c.call(atMost(28000)), "x-ratelimit-"), "of the shortest limit")
		time.Sleep(20*s + 500*time.Microsecond)

		a := c.call(atMost(3000))
		assert.Equal(t, http.StatusTooManyRequests, a.status)
		assert.Equal(t, "40s", quota(a, "x-ratelimit-")["reset-tokens"], "rounded up to milliseconds")
		assert.Empty(t, a.header.Get("Retry-After"), "not promised")
		e := decode[openAIError](t, a.text).Error
		assert.Equal(t, "tokens", e.Type)
		assert.Equal(t, "rate_limit_exceeded", e.Code)
		assert.Contains(t, e.Message, "on tokens per min (TPM): Limit 30000, Used 28000, Requested 3000. Please try again in 40s.")

		e = decode[openAIError](t, c.call(atMost(30001)).text).Error
		assert.Contains(t, e.Message, "Request too large for openai-test in organization org-test on tokens per min (TPM): Limit 30000, Requested 30001.")
		c.status()
		c.status()
		e = decode[openAIError](t, c.call(atMost(1)).text).Error
		assert.Equal(t, "requests", e.Type)
		assert.Contains(t, e.Message, "on requests per min (RPM): Limit 3, Used 3, Requested 1. Please try again in 40s.")
	})
}

func TestAzureHeadersAndRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Azure, Requests: "120/m", Tokens: "1000/m"})
		time.Sleep(5500 * ms)
		assert.Equal(t, map[string]string{
			"limit-requests": "20", "remaining-requests": "19", "reset-requests": "4.5s",
			"limit-tokens": "1000", "remaining-tokens": "8", "reset-tokens": "54.5s",
		}, quota(c.call(atMost(990)), "x-ratelimit-"), "20 for 120 a minute: of ten seconds")
		a := c.call(atMost(90))
		assert.Equal(t, http.StatusTooManyRequests, a.status)
		assert.Equal(t, "55", a.header.Get("Retry-After"), "seconds, rounded up")
		assert.Equal(t, "54500", a.header.Get("Retry-After-Ms"))
		e := decode[openAIError](t, a.text).Error
		assert.Equal(t, "429", e.Code)
		assert.Contains(t, e.Message, "have exceeded token rate limit of your current OpenAI S0 pricing tier. Please retry after 55 seconds.")
		assert.Empty(t, c.call(atMost(1001)).header.Get("Retry-After"), "larger than the limit")
	})
}

func TestAnthropicHeadersAndRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{
			Provider: providertest.Anthropic, Requests: "50/m", Input: "40000/m", Output: "8000/m",
			Usage: uses(providertest.Usage{Input: 30400, Output: 100}),
		})
		now := time.Now().UTC()
		at := func(d time.Duration) string { return now.Add(d).Format(time.RFC3339) }
		got := quota(c.call(atMost(5000)), "anthropic-ratelimit-")
		assert.Equal(t, map[string]string{
			"requests-limit": "50", "requests-remaining": "49", "requests-reset": at(2 * s),
			"input-tokens-limit": "40000", "input-tokens-remaining": "10000", "input-tokens-reset": at(46 * s),
			"output-tokens-limit": "8000", "output-tokens-remaining": "8000", "output-tokens-reset": at(0),
			"tokens-limit": "8000", "tokens-remaining": "8000", "tokens-reset": at(0),
		}, got, "instants in full seconds, 9600 tokens as 10000")

		a := c.call(atMost(5000))
		assert.Equal(t, http.StatusTooManyRequests, a.status)
		assert.Equal(t, "32", a.header.Get("Retry-After"), "20800 tokens at 40000 a minute, 31.2 s, rounded up")
		body := decode[struct {
			Type  string
			Error struct{ Type, Message string }
			ID    string `json:"request_id"`
		}](t, a.text)
		assert.Equal(t, "error rate_limit_error req_2", body.Type+" "+body.Error.Type+" "+body.ID)
		assert.Contains(t, body.Error.Message, "rate limit of 40,000 input tokens per minute")
		assert.Equal(t, "10000", quota(a, "anthropic-ratelimit-")["input-tokens-remaining"])

		c.FailNext(1, providertest.OutOfQuota)
		a = c.call(atMost(5000))
		assert.Equal(t, http.StatusTooManyRequests, a.status, "the spend cap is a 429, too")
		assert.Empty(t, a.header.Get("Retry-After"), "but without a time to wait")

		a = c.post("/v1/messages", `{"messages":[{"role":"user","content":"hello"}]}`)
		assert.Equal(t, http.StatusBadRequest, a.status)
		assert.Contains(t, a.text, "max_tokens: field required")
	})
}

// googleError is the body of an error of Gemini.
type googleError struct {
	Error struct {
		Code    int
		Message string
		Status  string
		Details []struct {
			Type       string `json:"@type"`
			Violations []struct{ QuotaMetric, QuotaID, QuotaValue string }
			RetryDelay string
		}
	}
}

// quotas returns the ids of the quotas that an error names, and the time to wait.
func (e googleError) quotas() (ids []string, delay string) {
	for _, d := range e.Error.Details {
		switch d.Type {
		case "type.googleapis.com/google.rpc.QuotaFailure":
			for _, v := range d.Violations {
				ids = append(ids, v.QuotaID+"="+v.QuotaValue)
			}
		case "type.googleapis.com/google.rpc.RetryInfo":
			delay = d.RetryDelay
		}
	}
	return ids, delay
}

func TestGeminiRefusalsAreInTheBody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Gemini, Requests: "2/m, 3/d", Input: "10/m", Failed: providertest.IgnoreFailed})
		a := c.call(providertest.Prompt{Text: strings.Repeat("1234", 10)})
		assert.Equal(t, http.StatusOK, a.status)
		assert.Empty(t, quota(a, "x-ratelimit-"), "no headers")
		time.Sleep(23600 * ms)
		refused := func(text string) googleError {
			a := c.call(providertest.Prompt{Text: text})
			assert.Equal(t, http.StatusTooManyRequests, a.status)
			assert.Empty(t, a.header.Get("Retry-After"))
			e := decode[googleError](t, a.text)
			assert.Equal(t, "429 RESOURCE_EXHAUSTED", fmt.Sprint(e.Error.Code, " ", e.Error.Status))
			return e
		}
		ids, delay := refused("1").quotas()
		assert.Equal(t, []string{"GenerateContentInputTokensPerModelPerMinute-FreeTier=10"}, ids)
		assert.Equal(t, "36.4s", delay)

		time.Sleep(m)
		c.status()
		c.status()
		ids, delay = refused("1").quotas()
		assert.Equal(t, []string{
			"GenerateRequestsPerMinutePerProjectPerModel-FreeTier=2", "GenerateRequestsPerDayPerProjectPerModel-FreeTier=3",
		}, ids, "all that have no room")
		assert.Equal(t, "28716.4s", delay, "until the day is over in Los Angeles")

		ids, delay = refused(strings.Repeat("1234", 11)).quotas()
		assert.Len(t, ids, 3)
		assert.Empty(t, delay, "larger than the limit")
	})
}

func TestVoyageRefusalIsAMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Voyage, Requests: "1/m"})
		a := c.call(providertest.Prompt{Text: "1234567"})
		body := decode[struct {
			Data []struct {
				Index     int
				Embedding []float64
			}
			Usage struct {
				Tokens int64 `json:"total_tokens"`
			}
		}](t, a.text)
		assert.Len(t, body.Data, 1)
		assert.Equal(t, int64(2), body.Usage.Tokens, "a quarter of the characters, rounded up")
		a = c.call(providertest.Prompt{})
		assert.Equal(t, http.StatusTooManyRequests, a.status)
		assert.Empty(t, quota(a, "x-ratelimit-"))
		assert.Empty(t, a.header.Get("Retry-After"))
		assert.Contains(t, decode[struct{ Detail string }](t, a.text).Detail, "rate limit of 1 requests per minute")
	})
}

func TestGroqHeadersAndRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Groq, Requests: "30/m, 14400/d", Tokens: "6000/m, 500000/d"})
		a := c.call(atMost(5032))
		assert.Equal(t, map[string]string{
			"limit-requests": "14400", "remaining-requests": "14399", "reset-requests": "24h0m0s",
			"limit-tokens": "6000", "remaining-tokens": "966", "reset-tokens": "1m0s",
		}, quota(a, "x-ratelimit-"), "requests of the day, tokens of the minute")
		assert.Empty(t, a.header.Get("Retry-After"), "only with a 429")
		time.Sleep(52340 * ms)
		a = c.call(atMost(1441))
		assert.Equal(t, http.StatusTooManyRequests, a.status)
		assert.Equal(t, "8", a.header.Get("Retry-After"), "7.66 s, rounded up")
		e := decode[openAIError](t, a.text).Error
		assert.Contains(t, e.Message, "Rate limit reached for model `groq-test` in organization `org_test` service tier `on_demand` "+
			"on tokens per minute (TPM): Limit 6000, Used 5034, Requested 1443. Please try again in 7.66s.")
		a = c.call(atMost(6001))
		assert.Equal(t, http.StatusRequestEntityTooLarge, a.status)
		assert.Equal(t, "rate_limit_exceeded", decode[openAIError](t, a.text).Error.Code)
	})
}

func TestDeepSeekRefusalNamesTheConcurrency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.DeepSeek, InFlight: "39", Latency: s})
		var wg sync.WaitGroup
		for range 39 {
			wg.Go(func() { c.status() })
		}
		synctest.Wait()
		a := c.call(providertest.Prompt{})
		assert.Equal(t, http.StatusTooManyRequests, a.status)
		assert.Contains(t, decode[openAIError](t, a.text).Error.Message,
			"Your current concurrency is 40, which exceeds your concurrency limit of 39")
		assert.Empty(t, quota(a, "x-ratelimit-"))
		assert.Empty(t, a.header.Get("Retry-After"))
		wg.Wait()
	})
}

func TestGenericSendsRetryAfterInBothForms(t *testing.T) {
	for _, provider := range []string{providertest.Generic, providertest.Bucket} {
		synctest.Test(t, func(t *testing.T) {
			c := open(t, providertest.Config{Provider: provider, Requests: "1/m"})
			c.status()
			time.Sleep(1400*ms + 1)
			a := c.post("/any/path", `{"prompt":"hello"}`)
			assert.Equal(t, http.StatusTooManyRequests, a.status)
			assert.Equal(t, "59 58600", a.header.Get("Retry-After")+" "+a.header.Get("Retry-After-Ms"))
			assert.Equal(t, "0", a.header.Get("X-Ratelimit-Remaining-Requests"))
			assert.Contains(t, decode[openAIError](t, a.text).Error.Message, "requests 1/m, requested 1")
		})
	}
}

// The usage of a call is where the clients of its provider look for it.
func TestUsageOfReplies(t *testing.T) {
	usage := providertest.Usage{Estimate: 9, Input: 100, CacheWrite: 20, CacheRead: 3, Output: 40}
	type tokens struct { // the names of all providers
		Prompt     int64 `json:"prompt_tokens"`
		Completion int64 `json:"completion_tokens"`
		Total      int64 `json:"total_tokens"`
		Input      int64 `json:"input_tokens"`
		CacheWrite int64 `json:"cache_creation_input_tokens"`
		CacheRead  int64 `json:"cache_read_input_tokens"`
		Output     int64 `json:"output_tokens"`
		Candidates int64 `json:"candidatesTokenCount"`
		PromptG    int64 `json:"promptTokenCount"`
		TotalG     int64 `json:"totalTokenCount"`
		CachedG    int64 `json:"cachedContentTokenCount"`
	}
	chat := tokens{Prompt: 123, Completion: 40, Total: 163}
	for provider, want := range map[string]tokens{
		providertest.OpenAI: chat, providertest.Azure: chat, providertest.Groq: chat, providertest.DeepSeek: chat,
		providertest.Generic: chat, providertest.Bucket: chat,
		providertest.Voyage:    {Prompt: 123, Total: 123},
		providertest.Anthropic: {Input: 100, CacheWrite: 20, CacheRead: 3, Output: 40},
		providertest.Gemini:    {PromptG: 123, Candidates: 40, TotalG: 163, CachedG: 3},
	} {
		t.Run(provider, func(t *testing.T) {
			c := open(t, providertest.Config{Provider: provider, Usage: uses(usage)})
			a := c.call(atMost(50))
			require.Equal(t, http.StatusOK, a.status, a.text)
			assert.Equal(t, "application/json", a.header.Get("Content-Type"))
			body := decode[struct{ Usage, UsageMetadata tokens }](t, a.text)
			body.Usage.Candidates, body.Usage.PromptG = body.UsageMetadata.Candidates, body.UsageMetadata.PromptG
			body.Usage.TotalG, body.Usage.CachedG = body.UsageMetadata.TotalG, body.UsageMetadata.CachedG
			assert.Equal(t, want, body.Usage)
		})
	}
	c := open(t, providertest.Config{Provider: providertest.OpenAI, Usage: uses(usage)})
	a := c.post("/v1/responses", `{"model":"gpt","input":"hello","max_output_tokens":30}`)
	body := decode[struct {
		Status string
		Usage  tokens
		Output []struct {
			Content []struct{ Type, Text string }
		}
	}](t, a.text)
	assert.Equal(t, tokens{Input: 123, Output: 30, Total: 153}, body.Usage, "no more than max_output_tokens")
	assert.Equal(t, "completed", body.Status)
	assert.Equal(t, "output_text", body.Output[0].Content[0].Type)
	assert.Equal(t, strings.Repeat("tok ", 30), body.Output[0].Content[0].Text)
}

func TestReplyThatIsCutAtTheMaximumSaysSo(t *testing.T) {
	for provider, want := range map[string][2]string{
		providertest.OpenAI:    {`"finish_reason":"stop"`, `"finish_reason":"length"`},
		providertest.Anthropic: {`"stop_reason":"end_turn"`, `"stop_reason":"max_tokens"`},
		providertest.Gemini:    {`"finishReason":"STOP"`, `"finishReason":"MAX_TOKENS"`},
	} {
		c := open(t, providertest.Config{Provider: provider})
		assert.Contains(t, c.call(atMost(101)).text, want[0], "a reply has 100 tokens by default")
		assert.Contains(t, c.call(atMost(100)).text, want[1])
		assert.Contains(t, c.call(providertest.Prompt{MaxTokens: 101, Stream: true}).text, want[0])
		assert.Contains(t, c.call(providertest.Prompt{MaxTokens: 99, Stream: true}).text, want[1])
	}
}

// delta is a part of a chat completion's stream.
type delta struct {
	Choices []struct {
		Delta  struct{ Content string }
		Finish *string `json:"finish_reason"`
	}
	Usage *struct {
		Total int64 `json:"total_tokens"`
	}
	XGroq *struct {
		Usage struct {
			Total int64 `json:"total_tokens"`
		}
	} `json:"x_groq"`
}

func TestChatStreams(t *testing.T) {
	for _, provider := range []string{
		providertest.OpenAI, providertest.Azure, providertest.Groq, providertest.DeepSeek, providertest.Generic, providertest.Bucket,
	} {
		t.Run(provider, func(t *testing.T) {
			c := open(t, providertest.Config{Provider: provider, Usage: uses(providertest.Usage{Input: 5, Output: 50})})
			a := c.call(providertest.Prompt{Stream: true})
			assert.Equal(t, "text/event-stream", a.header.Get("Content-Type"))
			list := events(t, a.text)
			assert.Equal(t, event{"", "[DONE]"}, list[len(list)-1])
			var text string
			var parts []delta
			for _, e := range list[:len(list)-1] {
				part := decode[delta](t, e.data)
				if parts = append(parts, part); len(part.Choices) > 0 {
					text += part.Choices[0].Delta.Content
				}
			}
			require.Len(t, parts, 1+3+2, "the role, 20 + 20 + 10 tokens, the end, the usage")
			assert.Equal(t, strings.Repeat("tok ", 50), text)
			assert.Equal(t, "stop", *parts[4].Choices[0].Finish)
			assert.Empty(t, parts[5].Choices)
			assert.Equal(t, int64(55), parts[5].Usage.Total)
			assert.Equal(t, provider == providertest.Groq, parts[4].XGroq != nil && parts[4].XGroq.Usage.Total == 55)
			assert.Equal(t, provider == providertest.DeepSeek, strings.HasPrefix(a.text, ": keep-alive\n\n"))
		})
	}
}

func TestChatStreamHasUsageOnRequestOnly(t *testing.T) {
	c := open(t, providertest.Config{Provider: providertest.OpenAI})
	a := c.post("/v1/chat/completions", `{"messages":[{"role":"user","content":"hello"}],"stream":true}`)
	assert.Contains(t, a.text, "[DONE]")
	assert.NotContains(t, a.text, "usage")
}

func TestResponsesStream(t *testing.T) {
	c := open(t, providertest.Config{Provider: providertest.OpenAI, Usage: uses(providertest.Usage{Input: 5, Output: 30})})
	list := events(t, c.post("/v1/responses", `{"input":[{"role":"user","content":"hello"}],"stream":true}`).text)
	var names []string
	for _, e := range list {
		names = append(names, e.name)
		assert.Equal(t, e.name, decode[struct{ Type string }](t, e.data).Type)
	}
	assert.Equal(t, []string{"response.created", "response.output_text.delta", "response.output_text.delta", "response.completed"}, names)
	assert.Equal(t, strings.Repeat("tok ", 20), decode[struct{ Delta string }](t, list[1].data).Delta)
	last := decode[struct {
		Response struct {
			Usage struct {
				Total int64 `json:"total_tokens"`
			}
		}
	}](t, list[3].data)
	assert.Equal(t, int64(35), last.Response.Usage.Total)
}

func TestMessagesStream(t *testing.T) {
	c := open(t, providertest.Config{Provider: providertest.Anthropic, Usage: uses(providertest.Usage{Input: 5, CacheRead: 7, Output: 30})})
	list := events(t, c.call(providertest.Prompt{Stream: true}).text)
	var names []string
	for _, e := range list {
		names = append(names, e.name)
		assert.Equal(t, e.name, decode[struct{ Type string }](t, e.data).Type)
	}
	assert.Equal(t, "message_start content_block_start ping content_block_delta content_block_delta "+
		"content_block_stop message_delta message_stop", strings.Join(names, " "))
	type usage struct {
		Input  int64 `json:"input_tokens"`
		Cache  int64 `json:"cache_read_input_tokens"`
		Output int64 `json:"output_tokens"`
	}
	assert.Equal(t, usage{5, 7, 0}, decode[struct{ Message struct{ Usage usage } }](t, list[0].data).Message.Usage)
	assert.Equal(t, usage{0, 0, 30}, decode[struct{ Usage usage }](t, list[6].data).Usage)
}

func TestGeminiStreams(t *testing.T) {
	type part struct {
		Candidates []struct {
			Content      struct{ Parts []struct{ Text string } }
			FinishReason string
		}
		UsageMetadata struct{ CandidatesTokenCount, TotalTokenCount int64 }
	}
	check := func(parts []part) {
		t.Helper()
		require.Len(t, parts, 3)
		for i, produced := range []int64{20, 30, 30} {
			assert.Equal(t, produced, parts[i].UsageMetadata.CandidatesTokenCount, "cumulative")
			assert.Equal(t, produced+5, parts[i].UsageMetadata.TotalTokenCount)
		}
		assert.Equal(t, strings.Repeat("tok ", 20), parts[0].Candidates[0].Content.Parts[0].Text)
		assert.Equal(t, "STOP", parts[2].Candidates[0].FinishReason)
	}
	c := open(t, providertest.Config{Provider: providertest.Gemini, Usage: uses(providertest.Usage{Input: 5, Output: 30})})
	var parts []part
	for _, e := range events(t, c.call(providertest.Prompt{Stream: true}).text) {
		parts = append(parts, decode[part](t, e.data))
	}
	check(parts)
	a := c.post("/v1beta/models/gemini-pro:streamGenerateContent", `{"contents":[{"parts":[{"text":"hello"}]}]}`)
	assert.Equal(t, "application/json", a.header.Get("Content-Type"), "without alt=sse")
	check(decode[[]part](t, a.text))
}

func TestLimitsCountTheCallThatTheProviderReads(t *testing.T) {
	var got []providertest.Call
	read := func(c providertest.Call) providertest.Usage {
		got = append(got, c)
		return providertest.Usage{}
	}
	for _, tt := range []struct {
		provider, path, body string
		want                 providertest.Call
	}{
		{providertest.OpenAI, "/v1/chat/completions", `{"model":"gpt","messages":[{"role":"system","content":"äöü"},{"role":"user","content":[{"type":"text","text":"12345"}]}],"max_completion_tokens":7}`,
			providertest.Call{Model: "gpt", Characters: 8, MaxTokens: 7, Choices: 1}},
		{providertest.OpenAI, "/v1/responses", `{"model":"gpt","instructions":"123","input":"12345","max_output_tokens":7,"stream":true}`,
			providertest.Call{Model: "gpt", Characters: 8, MaxTokens: 7, Choices: 1, Stream: true}},
		{providertest.OpenAI, "/v1/embeddings", `{"model":"gpt","input":["123","45"]}`,
			providertest.Call{Model: "gpt", Characters: 5, Choices: 1, Embedding: true}},
		{providertest.Azure, "/openai/deployments/mine/chat/completions", `{"messages":[{"role":"user","content":"12345"}],"n":2}`,
			providertest.Call{Model: "mine", Characters: 5, Choices: 2}},
		{providertest.Anthropic, "/v1/messages", `{"model":"claude","system":[{"type":"text","text":"123","cache_control":{"type":"ephemeral"}}],"messages":[{"role":"user","content":"12345"}],"max_tokens":7}`,
			providertest.Call{Model: "claude", Characters: 8, MaxTokens: 7, Choices: 1}},
		{providertest.Gemini, "/v1beta/models/gemini-pro:generateContent", `{"systemInstruction":{"parts":[{"text":"123"}]},"contents":[{"role":"user","parts":[{"text":"12345"}]}],"generationConfig":{"maxOutputTokens":7}}`,
			providertest.Call{Model: "gemini-pro", Characters: 8, MaxTokens: 7, Choices: 1}},
		{providertest.Gemini, "/v1beta/models/gemini-pro:streamGenerateContent", `{"contents":[{"parts":[{"text":"12345"}]}]}`,
			providertest.Call{Model: "gemini-pro", Characters: 5, Choices: 1, Stream: true}},
		{providertest.Generic, "/", `{"prompt":"12345"}`,
			providertest.Call{Model: "unknown", Characters: 5, Choices: 1}},
	} {
		got = nil
		c := open(t, providertest.Config{Provider: tt.provider, Usage: read})
		require.Equal(t, http.StatusOK, c.post(tt.path, tt.body).status, tt.path)
		require.Len(t, got, 1)
		assert.Equal(t, "application/json", got[0].Header.Get("Content-Type"))
		tt.want.Number, tt.want.Path, tt.want.Header = 1, tt.path, got[0].Header
		assert.Equal(t, tt.want, got[0])
	}
}

func TestInvalidRequestsAreNotCounted(t *testing.T) {
	for _, tt := range []struct {
		provider, path, body string
		status               int
		want                 string
	}{
		{providertest.OpenAI, "/v1/messages", `{}`, 404, "Unknown request POST /v1/messages: want POST …/chat/completions, POST …/responses, POST …/embeddings"},
		{providertest.Anthropic, "/v1/chat/completions", `{}`, 404, "not_found_error"},
		{providertest.Gemini, "/v1/chat/completions", `{}`, 404, "NOT_FOUND"},
		{providertest.Voyage, "/v1/rerank", `{}`, 404, `"detail"`},
		{providertest.OpenAI, "/v1/chat/completions", `{`, 400, "invalid_request_error"},
		{providertest.OpenAI, "/v1/chat/completions", `{"messages":[]}`, 400, "no prompt"},
		{providertest.OpenAI, "/v1/chat/completions", `{"prompt":"x","max_tokens":-1}`, 400, "largest number of tokens: want 1 to 10000000"},
		{providertest.OpenAI, "/v1/chat/completions", `{"prompt":"x","max_tokens":10000001}`, 400, "largest number of tokens"},
		{providertest.OpenAI, "/v1/chat/completions", `{"prompt":"x","n":129}`, 400, "129 choices: want 1 to 128"},
		{providertest.Gemini, "/v1beta/models/x:generateContent", `[]`, 400, "INVALID_ARGUMENT"},
		{providertest.Generic, "/", `"` + strings.Repeat("x", 16<<20) + `"`, 400, "body of more than 16777216 bytes"},
	} {
		c := open(t, providertest.Config{Provider: tt.provider})
		a := c.post(tt.path, tt.body)
		assert.Equal(t, tt.status, a.status, tt.path)
		assert.Contains(t, a.text, tt.want)
		assert.True(t, json.Valid([]byte(a.text)))
		assert.Equal(t, providertest.Stats{Invalid: 1, Limits: nil}, c.Stats())
	}
	c := open(t, providertest.Config{Provider: providertest.Generic})
	resp, err := c.http.Get(c.url + "/v1/models")
	require.NoError(t, err)
	assert.Equal(t, http.StatusNotFound, read(resp).status)
}

func TestFailuresOfEachProvider(t *testing.T) {
	const busy, quota = http.StatusTooManyRequests, http.StatusTooManyRequests
	for _, tt := range []struct {
		provider                                  string
		overloaded, serverError, outOfQuota, busy int
		words                                     [4]string
	}{
		{providertest.OpenAI, 503, 500, quota, busy, [4]string{"service_unavailable", "server_error", "insufficient_quota", "slow down"}},
		{providertest.Azure, 503, 500, quota, busy, [4]string{"service_unavailable", "server_error", "exceeded your current quota", `"code":"429"`}},
		{providertest.Anthropic, 529, 500, quota, busy, [4]string{"overloaded_error", "api_error", "API usage limits", "rate_limit_error"}},
		{providertest.Gemini, 503, 500, quota, busy, [4]string{"UNAVAILABLE", "INTERNAL", "check your plan and billing", "Resource has been exhausted"}},
		{providertest.Voyage, 503, 500, quota, busy, [4]string{`"detail"`, `"detail"`, "exceeded your current quota", `"detail"`}},
		{providertest.Groq, 503, 500, quota, busy, [4]string{"service_unavailable", "server_error", "insufficient_quota", "rate_limit_exceeded"}},
		{providertest.DeepSeek, 503, 500, 402, busy, [4]string{"service_unavailable", "server_error", "Insufficient Balance", "rate_limit_exceeded"}},
		{providertest.Generic, 503, 500, quota, busy, [4]string{"service_unavailable", "server_error", "insufficient_quota", "rate_limit_exceeded"}},
	} {
		t.Run(tt.provider, func(t *testing.T) {
			c := open(t, providertest.Config{Provider: tt.provider})
			for i, f := range []providertest.Failure{providertest.Overloaded, providertest.ServerError, providertest.OutOfQuota, providertest.Busy} {
				c.FailNext(1, f)
				a := c.call(providertest.Prompt{Stream: i%2 == 0})
				assert.Equal(t, []int{tt.overloaded, tt.serverError, tt.outOfQuota, tt.busy}[i], a.status, "failure %d", f)
				assert.Contains(t, a.text, tt.words[i], "failure %d", f)
				assert.Empty(t, a.header.Get("Retry-After"), "no failure is about quota")
				assert.NotContains(t, a.text, "RetryInfo")
				assert.True(t, json.Valid([]byte(a.text)))
			}
			st := c.Stats()
			assert.Equal(t, []int64{4, 0, 0, 4}, []int64{st.Calls, st.Admitted, st.Refused, st.Failed})
			assert.Equal(t, http.StatusOK, c.status(), "only those that were ordered")
		})
	}
}

func TestErrorFramesInStreams(t *testing.T) {
	type body struct {
		Type    string
		Code    any
		Message string
		Error   struct {
			Type, Status string
			Code         any
		}
	}
	for _, tt := range []struct {
		provider string
		failure  providertest.Failure
		name     string
		check    func(b body) any
		want     any
	}{
		{providertest.OpenAI, providertest.OverloadedInReply, "", func(b body) any { return b.Error.Code }, "service_unavailable"},
		{providertest.OpenAI, providertest.RateLimitedInReply, "", func(b body) any { return b.Error.Code }, "rate_limit_exceeded"},
		{providertest.Anthropic, providertest.OverloadedInReply, "error", func(b body) any { return b.Type + " " + b.Error.Type }, "error overloaded_error"},
		{providertest.Anthropic, providertest.RateLimitedInReply, "error", func(b body) any { return b.Error.Type }, "rate_limit_error"},
		{providertest.Gemini, providertest.OverloadedInReply, "", func(b body) any { return b.Error.Status }, "UNAVAILABLE"},
		{providertest.Gemini, providertest.RateLimitedInReply, "", func(b body) any { return b.Error.Code }, 429.0},
		{providertest.Generic, providertest.OverloadedInReply, "", func(b body) any { return b.Error.Type }, "service_unavailable_error"},
	} {
		c := open(t, providertest.Config{Provider: tt.provider, Usage: uses(providertest.Usage{Output: 80})})
		c.FailNext(1, tt.failure)
		a := c.call(providertest.Prompt{Stream: true})
		assert.Equal(t, http.StatusOK, a.status)
		list := events(t, a.text)
		last := list[len(list)-1]
		assert.Equal(t, tt.name, last.name)
		assert.Equal(t, tt.want, tt.check(decode[body](t, last.data)), "%s: %s", tt.provider, last.data)
		assert.Equal(t, 40, strings.Count(a.text, "tok "), "half of the reply")
		st := c.Stats()
		assert.Equal(t, []int64{1, 1, 0, 1}, []int64{st.Calls, st.Admitted, st.Refused, st.Failed})

		c.FailNext(1, tt.failure)
		assert.GreaterOrEqual(t, c.status(), 429, "a call without a stream gets a status")
	}
	c := open(t, providertest.Config{Provider: providertest.OpenAI})
	c.FailNext(1, providertest.OverloadedInReply)
	list := events(t, c.post("/v1/responses", `{"input":"hello","stream":true}`).text)
	last := list[len(list)-1]
	assert.Equal(t, "error", last.name)
	assert.Equal(t, "service_unavailable", decode[body](t, last.data).Code)

	g := open(t, providertest.Config{Provider: providertest.Gemini})
	g.FailNext(1, providertest.OverloadedInReply)
	array := decode[[]body](t, g.post("/v1beta/models/x:streamGenerateContent", `{"contents":"hello"}`).text)
	assert.Equal(t, "UNAVAILABLE", array[len(array)-1].Error.Status)
}

func TestFailChoosesCalls(t *testing.T) {
	c := open(t, providertest.Config{Provider: providertest.Generic, Fail: func(c providertest.Call) providertest.Failure {
		if c.Number%2 == 0 {
			return providertest.Overloaded
		}
		return providertest.NoFailure
	}})
	c.FailNext(1, providertest.ServerError)
	c.FailNext(1, providertest.NoFailure)
	var got []int
	for range 4 {
		got = append(got, c.status())
	}
	assert.Equal(t, []int{500, 200, 200, 503}, got, "FailNext comes first")
}

func TestConnectionBreaksInReply(t *testing.T) {
	for _, stream := range []bool{false, true} {
		c := open(t, providertest.Config{Provider: providertest.OpenAI})
		c.FailNext(1, providertest.CutInReply)
		a := c.call(providertest.Prompt{Stream: stream})
		assert.Equal(t, http.StatusOK, a.status)
		assert.ErrorIs(t, a.err, io.ErrUnexpectedEOF)
		assert.NotEmpty(t, a.text)
		assert.NotContains(t, a.text, "[DONE]")
		assert.False(t, !stream && json.Valid([]byte(a.text)))
	}
}

func TestCallThatHangsHoldsItsPlaceUntilTheClientGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.DeepSeek, InFlight: "1"})
		c.FailNext(1, providertest.Hang)
		ctx, cancel := context.WithTimeout(t.Context(), h)
		defer cancel()
		r, err := providertest.NewRequest(ctx, providertest.DeepSeek, c.url, providertest.Prompt{Text: "hello"})
		require.NoError(t, err)
		start := time.Now()
		go func() {
			time.Sleep(h - 1)
			assert.Equal(t, http.StatusTooManyRequests, c.status())
		}()
		_, err = c.http.Do(r)
		assert.ErrorIs(t, err, context.DeadlineExceeded)
		assert.Equal(t, h, time.Since(start))
		synctest.Wait()
		assert.Equal(t, http.StatusOK, c.status())
	})
}

// closeAfter opens a stream of 100 tokens a second and closes it.
func (c *client) closeAfter(d time.Duration) {
	c.t.Helper()
	resp := c.send(providertest.Prompt{MaxTokens: 1000, Stream: true})
	time.Sleep(d)
	require.NoError(c.t, resp.Body.Close())
	synctest.Wait()
}

// Of a stream that is closed after 250 of its 600 tokens the provider counts what it has
// produced, and what it does not give back.
func TestStreamClosedEarly(t *testing.T) {
	for _, tt := range []struct {
		count          providertest.Count
		goOn           bool
		counted, later int64
	}{
		{providertest.AtStart, false, 1010, 1010},
		{providertest.AsProduced, false, 10 + 240, 10 + 240},
		{providertest.AtEnd, false, 10 + 240, 10 + 240},
		{providertest.Reserved, false, 10 + 240, 10 + 240},
		{providertest.AsProduced, true, 10 + 240, 10 + 600},
		{providertest.AtEnd, true, 0, 10 + 600},
		{providertest.Reserved, true, 1010, 10 + 600},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := open(t, providertest.Config{
				Provider: providertest.Generic, Tokens: "10000/m", Speed: 100, Count: tt.count, ProduceAfterClose: tt.goOn,
				Usage: uses(providertest.Usage{Input: 10, Output: 600}),
			})
			c.closeAfter(2500 * ms) // frames have 20 tokens
			assert.Equal(t, tt.counted, c.limit("tokens 10000/m").Counted, "%+v", tt)
			time.Sleep(10 * s)
			assert.Equal(t, tt.later, c.limit("tokens 10000/m").Counted, "%+v", tt)
		})
	}
}

func TestClosedStreamIsNoticedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for seed := range uint64(20) {
			c := open(t, providertest.Config{Provider: providertest.DeepSeek, InFlight: "1", Speed: 100, Jitter: 250 * ms, Seed: seed})
			c.closeAfter(500 * ms)
			refused := 0
			for range 26 { // the next call is decided up to 250 ms later
				if c.status() == http.StatusTooManyRequests {
					refused++
				}
			}
			assert.LessOrEqual(t, refused, 25)
			if refused > 0 {
				return
			}
		}
		t.Error("the call had ended at once with each seed")
	})
}

func TestClosedStreamIsNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.OpenAI})
		resp := c.send(providertest.Prompt{Stream: true})
		synctest.Wait() // all of it has arrived
		require.NoError(t, resp.Body.Close())
		_, err := resp.Body.Read(make([]byte, 1))
		assert.Error(t, err)
		assert.NotErrorIs(t, err, io.EOF)
	})
}

func TestCallIsCountedThoughItsClientHasGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Generic, Requests: "5/m", Jitter: s, Latency: h})
		ctx, cancel := context.WithCancelCause(t.Context())
		r, err := providertest.NewRequest(ctx, providertest.Generic, c.url, providertest.Prompt{Text: "hello"})
		require.NoError(t, err)
		enough := errors.New("enough")
		go cancel(enough)
		start := time.Now()
		_, err = c.http.Do(r)
		assert.ErrorIs(t, err, enough)
		assert.Zero(t, time.Since(start))
		time.Sleep(s)
		assert.Equal(t, int64(1), c.limit("requests 5/m").Counted, "it was on its way")
	})
}

func TestClientTimeoutEndsACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.OpenAI, Speed: 10})
		c.http.Timeout = 5 * s
		for range 200 { // the provider and the client notice it in either order
			a := c.call(providertest.Prompt{Stream: true})
			if !assert.ErrorIs(t, a.err, context.DeadlineExceeded) {
				return
			}
			assert.Equal(t, 40, strings.Count(a.text, "tok "), "tokens of four seconds: frames of 20 take two")
		}
	})
}

func TestLatencyIsThatOfTheFirstToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.OpenAI, Latency: 3 * s, Speed: 50})
		start := time.Now()
		resp := c.send(providertest.Prompt{Stream: true})
		assert.Equal(t, 3*s, time.Since(start), "the header of a stream")
		read(resp)
		assert.Equal(t, 5*s, time.Since(start), "100 tokens, 50 a second")
		c.status()
		assert.Equal(t, 10*s, time.Since(start), "a reply without a stream takes as long")
	})
}

func TestLongRepliesHaveShortTexts(t *testing.T) {
	c := open(t, providertest.Config{Provider: providertest.Generic, Usage: uses(providertest.Usage{Input: 1, Output: 1 << 62})})
	a := c.call(providertest.Prompt{})
	assert.Less(t, len(a.text), 5000)
	assert.Contains(t, a.text, `"completion_tokens":`+strconv.Itoa(10_000_000), "the most of a call")
}
