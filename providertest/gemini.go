package providertest

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

var (
	generateContent       = endpoint{suffix: ":generateContent", reply: geminiReply}
	streamGenerateContent = endpoint{
		suffix: ":streamGenerateContent", streams: true, array: true,
		begin: func(*exchange) []frame { return nil },
		delta: func(x *exchange, text string) obj { return candidate(x, text, "") },
		end:   func(x *exchange) []frame { return []frame{{data: candidate(x, "", geminiFinish(x))}} },
	}
)

func geminiReply(x *exchange) obj { return candidate(x, text(x.produced), geminiFinish(x)) }

func geminiFinish(x *exchange) string {
	if finishReason(x) == "length" {
		return "MAX_TOKENS"
	}
	return "STOP"
}

// candidate returns a part of a reply, with the usage so far.
func candidate(x *exchange, text, finish string) obj {
	c := obj{"index": 0, "content": obj{"role": "model", "parts": []obj{{"text": text}}}}
	if finish != "" {
		c["finishReason"] = finish
	}
	prompt := x.usage.prompt()
	return obj{
		"candidates": []obj{c}, "modelVersion": x.Model, "responseId": itoa(x.Number),
		"usageMetadata": obj{
			"promptTokenCount": prompt, "cachedContentTokenCount": x.usage.CacheRead,
			"candidatesTokenCount": x.produced, "totalTokenCount": prompt + x.produced,
		},
	}
}

const googleRPC = "type.googleapis.com/google.rpc."

// geminiFail names in the body the quotas without room and the time to wait. There
// are no headers.
func geminiFail(_ http.Header, e *apiError) (int, obj) {
	status, name, message := http.StatusBadRequest, "INVALID_ARGUMENT", e.message
	var details []obj
	switch e.kind {
	case rateLimited:
		status, name = http.StatusTooManyRequests, "RESOURCE_EXHAUSTED"
		message = "You exceeded your current quota, please check your plan and billing details."
		details = append(details, obj{"@type": googleRPC + "QuotaFailure", "violations": violations(e)}, help)
		if wait, known := e.retryIn(); known {
			delay := strconv.FormatFloat(wait.Seconds(), 'f', -1, 64) + "s"
			message += " Please retry in " + delay + "."
			details = append(details, obj{"@type": googleRPC + "RetryInfo", "retryDelay": delay})
		}
	case outOfQuota:
		status, name = http.StatusTooManyRequests, "RESOURCE_EXHAUSTED"
		message = "You exceeded your current quota, please check your plan and billing details."
		details = append(details, help)
	case busy:
		status, name, message = http.StatusTooManyRequests, "RESOURCE_EXHAUSTED", "Resource has been exhausted (e.g. check quota)."
	case overloaded:
		status, name, message = http.StatusServiceUnavailable, "UNAVAILABLE", "The model is overloaded. Please try again later."
	case serverError:
		status, name, message = http.StatusInternalServerError, "INTERNAL", "An internal error has occurred."
	case notFound:
		status, name = http.StatusNotFound, "NOT_FOUND"
	}
	body := obj{"code": status, "message": message, "status": name}
	if details != nil {
		body["details"] = details
	}
	return status, obj{"error": body}
}

var help = obj{
	"@type": googleRPC + "Help",
	"links": []obj{{"description": "Learn more about Gemini API quotas", "url": "https://ai.google.dev/gemini-api/docs/rate-limits"}},
}

func violations(e *apiError) (list []obj) {
	for _, v := range e.full {
		per := "Minute"
		switch v.limit.per {
		case time.Minute:
		case 24 * time.Hour:
			per = "Day"
		default:
			per = strings.ToUpper(formatPer(v.limit.per))
		}
		metric, id := "generate_content_free_tier_requests", "GenerateRequestsPer"+per+"PerProjectPerModel-FreeTier"
		if v.unit == Input {
			metric, id = "generate_content_free_tier_input_token_count", "GenerateContentInputTokensPerModelPer"+per+"-FreeTier"
		}
		list = append(list, obj{
			"quotaMetric": "generativelanguage.googleapis.com/" + metric, "quotaId": id,
			"quotaDimensions": obj{"location": "global", "model": e.Model}, "quotaValue": itoa(v.size),
		})
	}
	return list
}
