package providertest

import (
	"time"
	_ "time/tzdata" // Gemini's day, on machines without a zone database
)

// A spec is how a provider counts and answers.
type spec struct {
	name      string
	units     []Unit // that it limits
	algorithm Algorithm
	count     Count
	failed    Failed
	day       *time.Location // limits per day are reset at midnight there; nil: they are counted as other rates
	quantum   time.Duration  // requests are judged over this time; 0: over that of the limit
	even      bool           // requests are judged over the quantum alone, otherwise over the time of the limit, too
	estimates bool           // the prompt's tokens are estimated when the call is admitted

	freeCacheReads bool

	// reserve returns the tokens that count at the start, given those of the prompt and
	// the most of the reply.
	reserve func(c Call, input, output int64) int64

	*dialect
}

var specs = []spec{
	{
		name: OpenAI, units: []Unit{Requests, Tokens},
		algorithm: RollingWindow, count: AtStart, failed: CountFailed,
		estimates: true, reserve: larger,
		dialect: &dialect{
			endpoints: []endpoint{chat, responses, embeddings},
			quota:     openAIQuota(shortest, shortest),
			fail:      openAIFail,
		},
	},
	{
		name: Azure, units: []Unit{Requests, Tokens},
		algorithm: FixedWindow, count: AtStart, failed: CountFailed,
		quantum: 10 * time.Second, even: true,
		estimates: true, reserve: sum,
		dialect: &dialect{
			endpoints: []endpoint{chat, responses, embeddings},
			quota:     openAIQuota(shortest, shortest),
			fail:      azureFail,
		},
	},
	{
		name: Anthropic, units: []Unit{Requests, Input, Output},
		algorithm: TokenBucket, count: AsProduced, failed: IgnoreFailed,
		estimates: true, freeCacheReads: true, reserve: sum,
		dialect: &dialect{
			endpoints:  []endpoint{messages},
			quota:      anthropicQuota,
			fail:       anthropicFail,
			errorEvent: "error",
		},
	},
	{
		name: Gemini, units: []Unit{Requests, Input},
		algorithm: RollingWindow, count: AtStart, failed: CountFailed,
		day: pacific(), reserve: sum,
		dialect: &dialect{
			endpoints: []endpoint{generateContent, streamGenerateContent},
			quota:     noQuota,
			fail:      geminiFail,
		},
	},
	{
		name: Voyage, units: []Unit{Requests, Tokens},
		algorithm: RollingWindow, count: AtStart, failed: IgnoreFailed,
		reserve: promptOnly,
		dialect: &dialect{
			endpoints: []endpoint{embeddings},
			quota:     noQuota,
			fail:      voyageFail,
		},
	},
	{
		name: Groq, units: []Unit{Requests, Tokens, Input, Output},
		algorithm: RollingWindow, count: AtStart, failed: IgnoreFailed,
		freeCacheReads: true, reserve: sum,
		dialect: &dialect{
			endpoints: []endpoint{groqChat},
			quota:     openAIQuota(longest, shortest),
			fail:      groqFail,
		},
	},
	{
		name: DeepSeek, units: []Unit{InFlight},
		count: AtStart, failed: IgnoreFailed, reserve: sum,
		dialect: &dialect{
			endpoints: []endpoint{deepSeekChat},
			quota:     noQuota,
			fail:      deepSeekFail,
		},
	},
	{
		name: Generic, units: []Unit{Requests, Tokens, Input, Output, InFlight},
		algorithm: RollingWindow, count: AtStart, failed: CountFailed, reserve: sum,
		dialect: genericDialect,
	},
	{
		name: Bucket, units: []Unit{Requests, Tokens, Input, Output, InFlight},
		algorithm: TokenBucket, count: AtStart, failed: IgnoreFailed, reserve: sum,
		dialect: genericDialect,
	},
}

var genericDialect = &dialect{
	endpoints: []endpoint{anyChat},
	quota:     openAIQuota(shortest, shortest),
	fail:      genericFail,
}

func larger(c Call, input, _ int64) int64     { return max(input, c.MaxTokens) }
func sum(_ Call, input, output int64) int64   { return input + output }
func promptOnly(_ Call, input, _ int64) int64 { return input }

func pacific() *time.Location {
	zone, err := time.LoadLocation("America/Los_Angeles")
	if err != nil {
		panic(err) // the zone is embedded
	}
	return zone
}
