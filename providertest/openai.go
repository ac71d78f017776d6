package providertest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// The form of OpenAI's API, which Azure, Groq, DeepSeek and Voyage follow in part.

var (
	chat = endpoint{
		suffix: "/chat/completions",
		reply:  chatReply, begin: chatBegin, delta: chatDelta, end: chatEnd,
	}
	anyChat = endpoint{ // at any path
		reply: chatReply, begin: chatBegin, delta: chatDelta, end: chatEnd,
	}
	groqChat = endpoint{
		suffix: "/chat/completions",
		reply:  chatReply, begin: chatBegin, delta: chatDelta, end: groqEnd,
	}
	deepSeekChat = endpoint{
		suffix: "/chat/completions",
		reply:  chatReply, begin: deepSeekBegin, delta: chatDelta, end: chatEnd,
	}
	responses = endpoint{
		suffix: "/responses",
		reply:  responsesReply, begin: responsesBegin, delta: responsesDelta,
		event: "response.output_text.delta", end: responsesEnd, fail: responsesFail,
	}
	embeddings = endpoint{suffix: "/embeddings", embedding: true, reply: embeddingsReply}
)

// chatUsage returns the usage of a call, of a prompt with all its tokens.
func chatUsage(x *exchange) obj {
	prompt := x.usage.prompt()
	return obj{
		"prompt_tokens": prompt, "completion_tokens": x.produced, "total_tokens": prompt + x.produced,
		"prompt_tokens_details": obj{"cached_tokens": x.usage.CacheRead},
	}
}

func finishReason(x *exchange) string {
	if x.MaxTokens > 0 && x.produced >= x.MaxTokens*x.Choices {
		return "length"
	}
	return "stop"
}

func chatReply(x *exchange) obj {
	return obj{
		"id": chatID(x), "object": "chat.completion", "created": x.admitted.Unix(), "model": x.Model,
		"choices": []obj{{
			"index": 0, "finish_reason": finishReason(x), "logprobs": nil,
			"message": obj{"role": "assistant", "content": text(x.produced)},
		}},
		"usage": chatUsage(x),
	}
}

func chatID(x *exchange) string { return "chatcmpl-" + itoa(x.Number) }

// chunk returns a part of a stream, without a choice if delta is nil.
func chunk(x *exchange, delta obj, finish any) obj {
	choices := []obj{}
	if delta != nil {
		choices = append(choices, obj{"index": 0, "delta": delta, "logprobs": nil, "finish_reason": finish})
	}
	return obj{
		"id": chatID(x), "object": "chat.completion.chunk", "created": x.admitted.Unix(), "model": x.Model,
		"choices": choices,
	}
}

func chatBegin(x *exchange) []frame {
	return []frame{{data: chunk(x, obj{"role": "assistant", "content": ""}, nil)}}
}

func chatDelta(x *exchange, text string) obj { return chunk(x, obj{"content": text}, nil) }

// chatEnd sends the usage on request only, as stream_options says.
func chatEnd(x *exchange) []frame {
	frames := []frame{{data: chunk(x, obj{}, finishReason(x))}}
	if x.wantsUse {
		usage := chunk(x, nil, nil)
		usage["usage"] = chatUsage(x)
		frames = append(frames, frame{data: usage})
	}
	return append(frames, frame{data: "[DONE]"})
}

// groqEnd sends the usage beside the last choice.
func groqEnd(x *exchange) []frame {
	frames := chatEnd(x)
	frames[0].data.(obj)["x_groq"] = obj{"id": "req_" + itoa(x.Number), "usage": chatUsage(x)}
	return frames
}

// deepSeekBegin sends a comment, as DeepSeek does while a call waits.
func deepSeekBegin(x *exchange) []frame {
	return append([]frame{{event: comment, data: "keep-alive"}}, chatBegin(x)...)
}

func response(x *exchange, status string) obj {
	r := obj{
		"id": "resp_" + itoa(x.Number), "object": "response", "created_at": x.admitted.Unix(),
		"model": x.Model, "status": status, "error": nil, "output": []obj{}, "usage": nil,
	}
	if status == "completed" {
		prompt := x.usage.prompt()
		r["output"] = []obj{{
			"type": "message", "id": "msg_" + itoa(x.Number), "role": "assistant", "status": "completed",
			"content": []obj{{"type": "output_text", "text": text(x.produced), "annotations": []obj{}}},
		}}
		r["usage"] = obj{
			"input_tokens": prompt, "output_tokens": x.produced, "total_tokens": prompt + x.produced,
			"input_tokens_details":  obj{"cached_tokens": x.usage.CacheRead},
			"output_tokens_details": obj{"reasoning_tokens": 0},
		}
	}
	return r
}

func responsesReply(x *exchange) obj { return response(x, "completed") }

func responsesBegin(x *exchange) []frame {
	return []frame{{"response.created", obj{"type": "response.created", "response": response(x, "in_progress")}}}
}

func responsesDelta(x *exchange, text string) obj {
	return obj{
		"type": "response.output_text.delta", "item_id": "msg_" + itoa(x.Number),
		"output_index": 0, "content_index": 0, "delta": text,
	}
}

func responsesEnd(x *exchange) []frame {
	return []frame{{"response.completed", obj{"type": "response.completed", "response": response(x, "completed")}}}
}

func responsesFail(_ *apiError, body obj) (string, obj) {
	e := body["error"].(obj)
	return "error", obj{"type": "error", "code": e["code"], "message": e["message"], "param": nil}
}

func embeddingsReply(x *exchange) obj {
	tokens := x.usage.prompt()
	return obj{
		"object": "list", "model": x.Model,
		"data":  []obj{{"object": "embedding", "index": 0, "embedding": []float64{0.6, 0.8}}},
		"usage": obj{"prompt_tokens": tokens, "total_tokens": tokens},
	}
}

// shortest and longest order the limits on a unit: headers name the first.
func shortest(a, b view) bool { return a.limit.per < b.limit.per }
func longest(a, b view) bool  { return a.limit.per > b.limit.per }

// openAIQuota returns the headers x-ratelimit-*, of the limits that come first in the
// given orders.
func openAIQuota(requests, tokens func(a, b view) bool) func(http.Header, []view, time.Time) {
	return func(h http.Header, limits []view, _ time.Time) {
		for unit, before := range map[Unit]func(a, b view) bool{Requests: requests, Tokens: tokens} {
			var named *view
			for i, v := range limits {
				if v.unit == unit && !v.hidden && (named == nil || before(v, *named)) {
					named = &limits[i]
				}
			}
			if named == nil {
				continue
			}
			h.Set("X-Ratelimit-Limit-"+unit.String(), itoa(named.size))
			h.Set("X-Ratelimit-Remaining-"+unit.String(), itoa(named.left))
			h.Set("X-Ratelimit-Reset-"+unit.String(), duration(named.reset))
		}
	}
}

// duration returns a time as "1s", "6m0s" or "120ms", rounded up to milliseconds.
func duration(d time.Duration) string {
	return (time.Duration(ceil(d, time.Millisecond)) * time.Millisecond).String()
}

func openAIError(message string, kind, code any) obj {
	return obj{"error": obj{"message": message, "type": kind, "param": nil, "code": code}}
}

// openAIFail sends no Retry-After: the time to wait is in the message, and that until
// the limits are as new in the headers.
func openAIFail(_ http.Header, e *apiError) (int, obj) {
	switch e.kind {
	case rateLimited:
		return http.StatusTooManyRequests, openAIError(
			limitMessage(e, e.Model+" in organization org-test", "min", "Visit https://platform.openai.com/account/rate-limits to learn more."),
			e.limit.unit.String(), "rate_limit_exceeded")
	case busy:
		return http.StatusTooManyRequests, openAIError("Too many requests, please slow down.", "requests", "rate_limit_exceeded")
	case outOfQuota:
		return http.StatusTooManyRequests, openAIError(
			"You exceeded your current quota, please check your plan and billing details.", "insufficient_quota", "insufficient_quota")
	case overloaded:
		return http.StatusServiceUnavailable, openAIError(
			"The server is overloaded or not ready yet.", "service_unavailable_error", "service_unavailable")
	case serverError:
		return http.StatusInternalServerError, openAIError(
			"The server had an error while processing your request.", "server_error", "server_error")
	case notFound:
		return http.StatusNotFound, openAIError(e.message, "invalid_request_error", "unknown_url")
	}
	return http.StatusBadRequest, openAIError(e.message, "invalid_request_error", nil)
}

// limitMessage returns the message of OpenAI and Groq: which limit has no room for the
// call, how much counts already, and how long to wait.
func limitMessage(e *apiError, subject, minute, more string) string {
	l := e.limit
	limit := l.unit.String() + " per " + perName(l.limit.per)
	if perName(l.limit.per) == "minute" {
		limit = l.unit.String() + " per " + minute
	}
	if letter := strings.ToUpper(formatPer(l.limit.per)); len(letter) == 1 {
		limit += " (" + strings.ToUpper(l.unit.String()[:1]) + "P" + letter + ")"
	}
	if e.tooLarge() {
		return fmt.Sprintf("Request too large for %s on %s: Limit %d, Requested %d. "+
			"The input or output tokens must be reduced in order to run successfully. %s", subject, limit, l.size, e.requested, more)
	}
	return fmt.Sprintf("Rate limit reached for %s on %s: Limit %d, Used %d, Requested %d. Please try again in %s. %s",
		subject, limit, l.size, l.size-l.left, e.requested, duration(e.wait), more)
}

// azureFail sends Retry-After in seconds and Retry-After-Ms in milliseconds.
func azureFail(h http.Header, e *apiError) (int, obj) {
	if e.kind != rateLimited {
		status, body := openAIFail(h, e)
		if e.kind == busy || e.kind == outOfQuota {
			return status, obj{"error": obj{"code": "429", "message": body["error"].(obj)["message"]}}
		}
		return status, body
	}
	what, retry := "call", "Please reduce the request."
	if e.limit.unit == Tokens {
		what = "token"
	}
	setRetryAfterMs(h, e)
	if wait, known := e.retryIn(); known {
		retry = fmt.Sprintf("Please retry after %d seconds.", ceil(wait, time.Second))
	}
	return http.StatusTooManyRequests, obj{"error": obj{"code": "429", "message": fmt.Sprintf(
		"Requests to the ChatCompletions_Create Operation under Azure OpenAI API version 2024-10-21 have exceeded %s rate limit of your current OpenAI S0 pricing tier. %s", what, retry)}}
}

// groqFail sends Retry-After with a 429 only.
func groqFail(h http.Header, e *apiError) (int, obj) {
	if e.kind != rateLimited {
		return openAIFail(h, e)
	}
	setRetryAfter(h, e)
	status := http.StatusTooManyRequests
	if e.tooLarge() {
		status = http.StatusRequestEntityTooLarge
	}
	return status, obj{"error": obj{
		"message": limitMessage(e, "model `"+e.Model+"` in organization `org_test` service tier `on_demand`", "minute",
			"Visit https://console.groq.com/docs/rate-limits for more information."),
		"type": e.limit.unit.String(), "code": "rate_limit_exceeded",
	}}
}

// deepSeekFail names the number of calls in flight. There is no time to wait: a call
// ends when it ends.
func deepSeekFail(h http.Header, e *apiError) (int, obj) {
	switch e.kind {
	case rateLimited:
		return http.StatusTooManyRequests, openAIError(
			fmt.Sprintf("Your current concurrency is %d, which exceeds your concurrency limit of %d.", e.limit.size+1, e.limit.size),
			"rate_limit_error", "rate_limit_exceeded")
	case outOfQuota:
		return http.StatusPaymentRequired, openAIError("Insufficient Balance", "unknown_error", "invalid_request_error")
	}
	return openAIFail(h, e)
}

// voyageFail sends the message alone.
func voyageFail(h http.Header, e *apiError) (int, obj) {
	status, body := openAIFail(h, e)
	message := body["error"].(obj)["message"]
	if e.kind == rateLimited {
		message = fmt.Sprintf("You have exceeded your rate limit of %d %s per %s for model %s. Please reduce the rate of your requests.",
			e.limit.size, e.limit.unit, perName(e.limit.limit.per), e.Model)
	}
	return status, obj{"detail": message}
}

// genericFail sends Retry-After in seconds and Retry-After-Ms in milliseconds.
func genericFail(h http.Header, e *apiError) (int, obj) {
	if e.kind != rateLimited {
		return openAIFail(h, e)
	}
	setRetryAfterMs(h, e)
	return http.StatusTooManyRequests, openAIError(
		fmt.Sprintf("Rate limit exceeded: %s %s, requested %d", e.limit.unit, e.limit.limit, e.requested),
		e.limit.unit.String(), "rate_limit_exceeded")
}
