// Package providertest has fake LLM providers, to test code that calls real ones: code
// that keeps to a provider's limits, and code that meets its refusals, streams and
// failures.
//
// A [Provider] counts calls and tokens as the provider of its name does and answers in
// the form of its API, so that the provider's own client libraries can call it. It is
// an [http.Handler], for httptest.NewServer, and an [http.RoundTripper], for clients in
// a bubble of testing/synctest, where waits take no time and sockets do not work:
//
//	p, err := providertest.New(providertest.Config{
//		Provider: providertest.OpenAI, Requests: "500/m", Tokens: "200000/m",
//	})
//	client := &http.Client{Transport: p}
//
// [Provider.Stats] returns the numbers of admitted and refused calls, which limits had
// no room, and the most units that counted at one time.
//
// The package shares no code with the limiter that it tests: it imports the standard
// library alone.
//
// # Providers
//
// The table follows the providers' documents as of November 2026, and observations
// where these are silent. A rolling window is any stretch of the limit's length; a
// fixed one begins at a multiple of it on the provider's clock, minutes at second zero.
//
//	provider   limits                  counted in            tokens count           failed calls
//	openai     requests tokens         rolling window        at the start: larger   count
//	azure      requests tokens         fixed window          at the start: sum      count
//	anthropic  requests input output   token bucket          as produced            do not count
//	gemini     requests input          rolling window        at the start: input    count
//	voyage     requests tokens         rolling window        at the start: input    do not count
//	groq       requests tokens         rolling window        at the start: sum      do not count
//	           input output
//	deepseek   in-flight               from start to end     -                      -
//	generic    all                     rolling window        at the start: sum      count
//	bucket     all                     token bucket          at the start: sum      do not count
//
// "Sum" is the prompt's tokens and the most that the reply may have, max_tokens, for
// each of the replies that are asked for. "Larger" is the larger of max_tokens and the
// prompt's estimated tokens. Such a charge stays as it is, however short the reply.
// "Failed calls" have been refused, or have failed before a reply. A
// call without max_tokens counts the tokens of its reply, except where the larger
// counts.
//
// Azure judges requests over 10 seconds alone, a sixth of the limit in each. OpenAI may
// judge them over a second, too: see Config.Quantum. Limits a day are reset at Gemini
// at midnight in Los Angeles. Anthropic and Groq do not count tokens read from the
// cache. Config.Algorithm, Config.Count and Config.Failed make any provider count
// otherwise, since documents change and some providers do not say how they count.
//
// # Replies
//
// The requests are those of each provider's API for text: chat completions, responses
// and embeddings at OpenAI and Azure, messages at Anthropic, generateContent and
// streamGenerateContent at Gemini, embeddings at Voyage, chat completions at all
// others; Generic and Bucket take them at any path. [NewRequest] makes such a request.
// The text of a reply is meaningless. It has as many tokens as Config.Usage says, and
// no tools, images or reasoning. Keys are not checked.
//
//	provider   limits in headers                              time to wait after a 429
//	openai     x-ratelimit-*, reset "6m0s"                    in the message
//	azure      x-ratelimit-*                                  Retry-After, Retry-After-Ms
//	anthropic  anthropic-ratelimit-*, reset RFC 3339,         Retry-After
//	           remaining tokens in thousands
//	gemini     none                                           RetryInfo in the body, "36.4s"
//	voyage     none                                           none
//	groq       x-ratelimit-*, requests are those of the day   Retry-After
//	deepseek   none                                           none
//	generic    x-ratelimit-*                                  Retry-After, Retry-After-Ms
//	bucket     x-ratelimit-*                                  Retry-After, Retry-After-Ms
//
// The time to wait is by the provider's clock, and in whole seconds where the header
// is. A call larger than the limit is refused without one.
package providertest
