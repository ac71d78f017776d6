package providertest

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

var messages = endpoint{
	suffix: "/messages", needsMax: true,
	reply: messagesReply, begin: messagesBegin, delta: messagesDelta, event: "content_block_delta", end: messagesEnd,
}

func messagesUsage(x *exchange) obj {
	return obj{
		"input_tokens": x.usage.Input, "cache_creation_input_tokens": x.usage.CacheWrite,
		"cache_read_input_tokens": x.usage.CacheRead, "output_tokens": x.produced,
	}
}

func stopReason(x *exchange) string {
	if finishReason(x) == "length" {
		return "max_tokens"
	}
	return "end_turn"
}

func message(x *exchange, content []obj, stop any) obj {
	return obj{
		"id": "msg_" + itoa(x.Number), "type": "message", "role": "assistant", "model": x.Model,
		"content": content, "stop_reason": stop, "stop_sequence": nil, "usage": messagesUsage(x),
	}
}

func messagesReply(x *exchange) obj {
	return message(x, []obj{{"type": "text", "text": text(x.produced)}}, stopReason(x))
}

// messagesBegin sends the tokens of the prompt, which are known then.
func messagesBegin(x *exchange) []frame {
	return []frame{
		{"message_start", obj{"type": "message_start", "message": message(x, []obj{}, nil)}},
		{"content_block_start", obj{"type": "content_block_start", "index": 0, "content_block": obj{"type": "text", "text": ""}}},
		{"ping", obj{"type": "ping"}},
	}
}

func messagesDelta(_ *exchange, text string) obj {
	return obj{"type": "content_block_delta", "index": 0, "delta": obj{"type": "text_delta", "text": text}}
}

// messagesEnd sends the tokens of the reply.
func messagesEnd(x *exchange) []frame {
	return []frame{
		{"content_block_stop", obj{"type": "content_block_stop", "index": 0}},
		{"message_delta", obj{
			"type": "message_delta", "delta": obj{"stop_reason": stopReason(x), "stop_sequence": nil},
			"usage": obj{"output_tokens": x.produced},
		}},
		{"message_stop", obj{"type": "message_stop"}},
	}
}

// anthropicQuota sets the headers of each unit. Those named "tokens" repeat input or
// output, whichever has less left. Remaining tokens are rounded to thousands.
func anthropicQuota(h http.Header, limits []view, now time.Time) {
	set := func(name string, v view) {
		left := v.left
		if v.unit != Requests {
			left = roundTo(left, 1000)
		}
		h.Set("Anthropic-Ratelimit-"+name+"-Limit", itoa(v.size))
		h.Set("Anthropic-Ratelimit-"+name+"-Remaining", itoa(left))
		reset := now.Add(time.Duration(ceil(v.reset, time.Second)) * time.Second)
		h.Set("Anthropic-Ratelimit-"+name+"-Reset", reset.UTC().Format(time.RFC3339))
	}
	least := make(map[string]view)
	for _, v := range limits {
		names := []string{"requests"}
		if v.unit != Requests {
			names = []string{v.unit.String() + "-tokens", "tokens"}
		}
		for _, name := range names {
			if l, found := least[name]; !found || v.left < l.left {
				least[name] = v
			}
		}
	}
	for name, v := range least {
		set(name, v)
	}
}

// anthropicFail sends Retry-After in seconds, but not with the spend cap.
func anthropicFail(h http.Header, e *apiError) (int, obj) {
	status, kind, message := http.StatusBadRequest, "invalid_request_error", e.message
	switch e.kind {
	case rateLimited:
		setRetryAfter(h, e)
		unit := e.limit.unit.String()
		if e.limit.unit != Requests {
			unit += " tokens"
		}
		status, kind, message = http.StatusTooManyRequests, "rate_limit_error", fmt.Sprintf(
			"This request would exceed your organization's rate limit of %s %s per %s. Please reduce the prompt length or the maximum tokens requested, or try again later.",
			thousands(e.limit.limit.n), unit, perName(e.limit.limit.per))
	case busy:
		status, kind, message = http.StatusTooManyRequests, "rate_limit_error", "This request would exceed your account's rate limit. Please try again later."
	case outOfQuota:
		status, kind, message = http.StatusTooManyRequests, "rate_limit_error", "You have reached your specified API usage limits."
	case overloaded:
		status, kind, message = 529, "overloaded_error", "Overloaded"
	case serverError:
		status, kind, message = http.StatusInternalServerError, "api_error", "Internal server error"
	case notFound:
		status, kind = http.StatusNotFound, "not_found_error"
	}
	return status, obj{"type": "error", "error": obj{"type": kind, "message": message}, "request_id": "req_" + itoa(e.Number)}
}

// thousands returns n with commas: 40,000.
func thousands(n int64) string {
	digits := itoa(n)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}
