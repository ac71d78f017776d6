package providertest_test

import (
	"fmt"
	"net/http"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/providertest"
)

// The bubble's clock begins at midnight UTC, at second zero of a minute.

func TestOpenAICountsARollingMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.OpenAI, Requests: "3/m", Tokens: "1000/m"})
		c.play([]step{
			{0, atMost(400), true, "max_tokens is larger than the prompt"},
			{50 * s, atMost(600), true, "the whole limit"},
			{60*s - 1, atMost(1), false, "the first charge has not returned"},
			{60 * s, atMost(398), true, "it has; a refused call counts: its two tokens and its request"},
			{110*s - 1, atMost(1), false, ""},
		})
		assert.Equal(t, int64(1002), c.limit("tokens 1000/m").Peak)
	})
}

func TestOpenAIChargesTheLargerOfMaximumAndEstimate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{
			Provider: providertest.OpenAI, Tokens: "100000/m",
			Usage: uses(providertest.Usage{Estimate: 500, Input: 450, Output: 20}),
		})
		c.call(atMost(300))
		assert.Equal(t, int64(500), c.limit("tokens 100000/m").Counted, "the estimate")
		c.call(atMost(700))
		assert.Equal(t, int64(1200), c.limit("tokens 100000/m").Counted, "the maximum, and not their sum; nothing returns")
		c.call(providertest.Prompt{})
		assert.Equal(t, int64(1700), c.limit("tokens 100000/m").Counted, "without a maximum: the estimate")
	})
}

func TestQuantumSpreadsRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.OpenAI, Requests: "150/m", Quantum: time.Second, Failed: providertest.IgnoreFailed})
		c.play([]step{
			{0, atMost(1), true, ""},
			{500 * ms, atMost(1), true, "two a second, rounded down"},
			{s - 1, atMost(1), false, ""},
			{s, atMost(1), true, ""},
			{1499 * ms, atMost(1), false, "any second, not each full one"},
		})
		assert.Equal(t, int64(2), c.limit("requests 2/s").Refused)
		assert.Equal(t, "150", c.call(atMost(1)).header.Get("X-Ratelimit-Limit-Requests"), "headers do not name it")
	})
}

func TestAzureCountsFixedMinutesAndTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Azure, Requests: "24/m", Tokens: "1000/m", Failed: providertest.IgnoreFailed})
		c.play([]step{
			{59 * s, atMost(498), true, "prompt and maximum are added"},
			{59 * s, atMost(498), true, "the whole limit, at the end of the minute"},
			{60*s - 1, atMost(1), false, ""},
			{60 * s, atMost(498), true, "at second zero the count is reset: 1500 tokens in a second"},
			{60 * s, atMost(1), true, ""},
			{61 * s, atMost(1), true, ""},
			{61 * s, atMost(1), true, "a sixth of the requests in ten seconds"},
			{70*s - 1, atMost(1), false, "a fifth one"},
			{70 * s, atMost(1), true, ""},
		})
		assert.Equal(t, int64(1), c.limit("requests 4/10s").Refused)
		assert.Equal(t, int64(1), c.limit("tokens 1000/m").Refused)
		assert.Equal(t, int64(1000), c.limit("tokens 1000/m").Peak)
	})
}

func TestQuantumDoesNotTouchShorterLimits(t *testing.T) {
	c := open(t, providertest.Config{Provider: providertest.Azure, Requests: "3/s, 7/10s, 1/m"})
	var names []string
	for _, l := range c.Stats().Limits {
		names = append(names, l.Limit)
	}
	assert.Equal(t, []string{"3/s", "7/10s", "1/10s"}, names, "at least one request")
}

func TestAzureChargesTheMaximumForEachChoice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Azure, Tokens: "100000/m"})
		c.post("/openai/deployments/gpt/chat/completions",
			`{"messages":[{"role":"user","content":"12345678"}],"max_tokens":50,"n":2,"best_of":3}`)
		assert.Equal(t, int64(152), c.limit("tokens 100000/m").Counted)
	})
}

func TestAnthropicRestoresContinuously(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Anthropic, Requests: "60/m burst 2", Output: "600/m"})
		c.play([]step{
			{0, atMost(1), true, ""},
			{0, atMost(1), true, "the burst"},
			{s - 1, atMost(1), false, "60 a minute is one a second"},
			{s, atMost(1), true, "a refused call does not count"},
		})
	})
}

// A call is admitted while anything is left of Output, and its tokens count when they
// are produced, whatever its maximum.
func TestAnthropicCountsOutputAsProduced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{
			Provider: providertest.Anthropic, Output: "600/m", Speed: 100,
			Usage: uses(providertest.Usage{Input: 10, Output: 700}),
		})
		start := time.Now()
		resp := c.send(providertest.Prompt{MaxTokens: 1_000_000, Stream: true})
		time.Sleep(2*s + 1)
		assert.Equal(t, int64(200), c.limit("output 600/m").Counted, "two seconds of 100 tokens")
		read(resp)
		assert.Equal(t, 7*s, time.Since(start))
		assert.Equal(t, int64(700), c.limit("output 600/m").Counted)
		assert.Equal(t, int64(632), c.limit("output 600/m").Peak, "700, less 10 tokens a second since the first 20")
		c.play([]step{
			{0, atMost(1), false, "32 over"},
			{3300*ms - 1, atMost(1), false, "33 tokens are restored in 3.3 s"},
			{3300 * ms, atMost(1), true, "one is left"},
		})
	})
}

func TestReplyWithoutStreamCountsAsProduced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Anthropic, Output: "600/m", Speed: 100})
		var wg sync.WaitGroup
		wg.Go(func() { c.call(atMost(100)) })
		time.Sleep(s / 2)
		assert.Equal(t, int64(40), c.limit("output 600/m").Counted)
		wg.Wait()
	})
}

func TestAnthropicCorrectsTheEstimateOfInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{
			Provider: providertest.Anthropic, Input: "1000/m", Latency: s,
			Usage: uses(providertest.Usage{Estimate: 600, Input: 100, CacheWrite: 50, CacheRead: 5000, Output: 1}),
		})
		resp := c.send(providertest.Prompt{MaxTokens: 5, Stream: true}) // a second later
		assert.Equal(t, int64(600), c.limit("input 1000/m").Peak, "the estimate")
		assert.Equal(t, int64(150), c.limit("input 1000/m").Counted, "without the tokens read from the cache")
		read(resp)
	})
}

func TestGeminiResetsTheDayAtPacificMidnight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Gemini, Requests: "2/m, 3/d", Input: "100/m", Failed: providertest.IgnoreFailed})
		c.play([]step{ // from midnight UTC: 16:00 in Los Angeles
			{0, atMost(1_000_000), true, "output does not count"},
			{30 * s, providertest.Prompt{Text: strings.Repeat("1234", 98)}, true, "100 tokens in the minute"},
			{m - 1, atMost(1), false, "two a minute"},
			{m, atMost(1), true, "a rolling minute"},
			{8*h - 1, atMost(1), false, "three a day"},
			{8 * h, atMost(1), true, "midnight in Los Angeles"},
		})
		assert.Equal(t, int64(1), c.limit("requests 2/m").Refused)
		assert.Equal(t, int64(1), c.limit("requests 3/d").Refused)
		assert.Equal(t, int64(100), c.limit("input 100/m").Peak)
	})
}

func TestVoyageCountsTheTokensOfTexts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Voyage, Tokens: "10/m"})
		c.play([]step{
			{0, providertest.Prompt{Text: strings.Repeat("1234", 4)}, true, ""},
			{s, providertest.Prompt{Text: strings.Repeat("1234", 6)}, true, ""},
			{m - 1, providertest.Prompt{Text: "1"}, false, ""},
			{m, providertest.Prompt{Text: strings.Repeat("1234", 4)}, true, "a rolling minute; a refused call does not count"},
		})
	})
}

func TestEmbeddingsHaveNoReplyInTokens(t *testing.T) {
	for _, provider := range []string{providertest.OpenAI, providertest.Azure, providertest.Voyage} {
		for count, want := range map[providertest.Count]int64{providertest.AtStart: 20, providertest.AtEnd: 20} {
			c := open(t, providertest.Config{
				Provider: provider, Tokens: "1000/m", Count: count, Usage: uses(providertest.Usage{Input: 20, Output: 30}),
			})
			c.post("/v1/embeddings", `{"input":"hello"}`)
			assert.Equal(t, want, c.limit("tokens 1000/m").Counted, provider)
		}
	}
	c := open(t, providertest.Config{Provider: providertest.Voyage, Tokens: "1000/m"})
	c.post("/v1/embeddings", `{"input":"12345678","max_tokens":50}`)
	assert.Equal(t, int64(2), c.limit("tokens 1000/m").Counted, "a maximum means nothing")
}

func TestCallWithoutMaximumCountsItsReply(t *testing.T) {
	c := open(t, providertest.Config{
		Provider: providertest.Generic, Tokens: "1000/m", Output: "1000/m", Usage: uses(providertest.Usage{Input: 20, Output: 30}),
	})
	c.call(providertest.Prompt{})
	assert.Equal(t, int64(50), c.limit("tokens 1000/m").Counted)
	assert.Equal(t, int64(30), c.limit("output 1000/m").Counted)
}

func TestGroqCountsPromptAndMaximumWithoutTheCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{
			Provider: providertest.Groq, Tokens: "1000/m", Input: "500/m", Output: "600/m",
			Usage: uses(providertest.Usage{Input: 100, CacheRead: 300, Output: 10}),
		})
		c.play([]step{
			{0, atMost(400), true, ""},
			{0, atMost(300), false, "more than 600 of output"},
			{0, atMost(200), true, ""},
		})
		assert.Equal(t, int64(800), c.limit("tokens 1000/m").Counted)
		assert.Equal(t, int64(200), c.limit("input 500/m").Counted)
		assert.Equal(t, int64(1), c.limit("output 600/m").Refused)
	})
}

func TestDeepSeekCountsCallsInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.DeepSeek, InFlight: "2", Latency: 10 * s})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { assert.Equal(t, http.StatusOK, c.status()) })
		}
		time.Sleep(10*s - 1)
		assert.Equal(t, http.StatusTooManyRequests, c.status(), "both calls wait for their first token")
		wg.Wait()
		assert.Equal(t, http.StatusOK, c.status(), "both have ended")
		assert.Equal(t, int64(2), c.limit("in-flight 2").Peak)
		assert.Equal(t, int64(3), c.limit("in-flight 2").Counted)
		assert.Zero(t, c.limit("in-flight 2").Use)
	})
}

func TestRefusedCallIsNotInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Generic, Requests: "1/m", InFlight: "1"})
		c.play([]step{
			{0, atMost(1), true, ""},
			{s, atMost(1), false, "it counts as a request"},
			{62 * s, atMost(1), true, "and not as a call in flight"},
		})
		assert.Zero(t, c.limit("in-flight 1").Refused)
	})
}

func TestGenericCountsRefusedCallsAndBucketDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := open(t, providertest.Config{Provider: providertest.Generic, Requests: "2/m"})
		g.play([]step{
			{0, atMost(1), true, ""},
			{0, atMost(1), true, ""},
			{30 * s, atMost(1), false, ""},
			{40 * s, atMost(1), false, ""},
			{60 * s, atMost(1), false, "the two refused calls count"},
			{90 * s, atMost(1), false, "that of 40 s and that of 60 s"},
			{120 * s, atMost(1), true, "that of 90 s only"},
		})
		assert.Equal(t, int64(3), g.limit("requests 2/m").Counted, "of admitted calls")
		b := open(t, providertest.Config{Provider: providertest.Bucket, Requests: "2/m"})
		b.play([]step{
			{0, atMost(1), true, ""},
			{0, atMost(1), true, ""},
			{30*s - 1, atMost(1), false, ""},
			{30 * s, atMost(1), true, ""},
			{30 * s, atMost(1), false, ""},
		})
	})
}

// The same call counts differently by Count: 10 tokens of input, estimated as 20, and 30
// of at most 50 of output, in a second after a latency of a second.
func TestCountSaysWhenTokensCount(t *testing.T) {
	const minute = " 1000/m"
	for _, tt := range []struct {
		count                               providertest.Count
		provider                            string
		unit                                string
		atStart, whileProduced, atEnd, kept int64
	}{
		{providertest.ProviderCount, providertest.OpenAI, "tokens", 50, 50, 50, 50},
		{providertest.AsProduced, providertest.OpenAI, "tokens", 20, 10 + 20, 40, 40},
		{providertest.AtEnd, providertest.OpenAI, "tokens", 0, 0, 40, 40},
		{providertest.Reserved, providertest.OpenAI, "tokens", 50, 50, 40, 50},
		{providertest.Reserved, providertest.Azure, "tokens", 70, 70, 40, 70},
		{providertest.ProviderCount, providertest.Anthropic, "output", 0, 20, 30, 30},
		{providertest.AtStart, providertest.Anthropic, "output", 50, 50, 50, 50},
		{providertest.AtEnd, providertest.Anthropic, "output", 0, 0, 30, 30},
		{providertest.Reserved, providertest.Anthropic, "output", 50, 50, 30, 50},
		{providertest.ProviderCount, providertest.Anthropic, "input", 20, 10, 10, 20},
		{providertest.AtStart, providertest.Anthropic, "input", 20, 20, 20, 20},
		{providertest.AtEnd, providertest.Gemini, "input", 0, 0, 10, 10},
		{providertest.ProviderCount, providertest.Gemini, "input", 10, 10, 10, 10},
	} {
		t.Run(fmt.Sprint(tt.provider, tt.unit, int(tt.count)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				config := providertest.Config{
					Provider: tt.provider, Count: tt.count, Latency: s, Speed: 30, Algorithm: providertest.RollingWindow,
					Usage: uses(providertest.Usage{Estimate: 20, Input: 10, Output: 30}),
				}
				field := map[string]*string{"tokens": &config.Tokens, "input": &config.Input, "output": &config.Output}[tt.unit]
				*field = strings.TrimSpace(minute)
				c := open(t, config)
				var wg sync.WaitGroup
				wg.Go(func() { c.call(providertest.Prompt{MaxTokens: 50, Stream: true}) })
				time.Sleep(s - 1)
				assert.Equal(t, tt.atStart, c.limit(tt.unit+minute).Counted, "before the first token")
				time.Sleep(900 * ms)
				assert.Equal(t, tt.whileProduced, c.limit(tt.unit+minute).Counted, "after 20 tokens")
				wg.Wait()
				assert.Equal(t, tt.atEnd, c.limit(tt.unit+minute).Counted, "after the call")
				assert.Equal(t, tt.kept, c.limit(tt.unit+minute).Peak, "most at one time")
			})
		})
	}
}

// What Reserved gives back is free at once, and returns with the charge it corrects.
func TestReservedReturnsTheRestToItsCharge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{
			Provider: providertest.Generic, Tokens: "100/m", Count: providertest.Reserved, Latency: s,
			Failed: providertest.IgnoreFailed, Usage: uses(providertest.Usage{Input: 10, Output: 20}),
		})
		c.play([]step{
			{0, atMost(90), true, "all of it; 70 are returned a second later"},
			{s, atMost(60), true, "30 and 70"},
			{2 * s, atMost(30), true, "60 and 40"},
		})
		assert.Equal(t, int64(90), c.limit("tokens 100/m").Counted)
		c.play([]step{
			{57*s - 1, atMost(10), false, "90 of 100 count, and 20 more do not fit"},
			{57 * s, atMost(20), true, "the first 30 have returned: a minute after the charge, not after its correction"},
		})
	})
}

func TestAlgorithmSaysHowRatesCount(t *testing.T) {
	for algorithm, want := range map[providertest.Algorithm][]bool{ // at 59, 60, 90 and 119 s, after a whole limit at 59 s
		providertest.ProviderAlgorithm: {true, false, false, true},
		providertest.RollingWindow:     {true, false, false, true},
		providertest.FixedWindow:       {true, true, false, true},
		providertest.TokenBucket:       {true, false, true, true},
	} {
		synctest.Test(t, func(t *testing.T) {
			c := open(t, providertest.Config{Provider: providertest.OpenAI, Tokens: "100/m", Algorithm: algorithm, Failed: providertest.IgnoreFailed})
			c.play([]step{
				{59 * s, atMost(100), want[0], fmt.Sprint(algorithm)},
				{60 * s, atMost(50), want[1], fmt.Sprint(algorithm)},
				{90 * s, atMost(51), want[2], fmt.Sprint(algorithm)},
				{119 * s, atMost(20), want[3], fmt.Sprint(algorithm)},
			})
		})
	}
}

func TestFailedSaysWhetherRefusedAndFailedCallsCount(t *testing.T) {
	for provider, counts := range map[string]bool{
		providertest.OpenAI: true, providertest.Azure: true, providertest.Gemini: true, providertest.Generic: true,
		providertest.Anthropic: false, providertest.Voyage: false, providertest.Groq: false, providertest.Bucket: false,
	} {
		for failed, counts := range map[providertest.Failed]bool{
			providertest.ProviderFailed: counts, providertest.CountFailed: true, providertest.IgnoreFailed: false,
		} {
			synctest.Test(t, func(t *testing.T) {
				c := open(t, providertest.Config{Provider: provider, Requests: "1/h", Failed: failed})
				assert.Equal(t, http.StatusOK, c.status())
				assert.Equal(t, http.StatusTooManyRequests, c.status())
				c.FailNext(1, providertest.Overloaded)
				c.status()
				want := int64(1)
				if counts {
					want = 3
				}
				assert.Equal(t, want, c.Stats().Limits[0].Peak, "%s, Failed %d", provider, failed)
				assert.Equal(t, int64(1), c.Stats().Limits[0].Counted, "%s, Failed %d: of admitted calls", provider, failed)
			})
		}
	}
}

func TestJitterDelaysTheCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Generic, Requests: "100/m", Jitter: 250 * ms})
		var longest, shortest time.Duration = 0, h
		for range 50 {
			start := time.Now()
			c.status()
			took := time.Since(start)
			longest, shortest = max(longest, took), min(shortest, took)
		}
		assert.LessOrEqual(t, longest, 250*ms)
		assert.Greater(t, longest, 230*ms, "uniform, in 50 calls")
		assert.Less(t, shortest, 20*ms)
	})
}

// Two calls that were sent at a distance of a minute may be counted at a smaller one.
func TestJitterRefusesCallsThatAreOnlyJustInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Generic, Requests: "1/m", Jitter: 250 * ms, Failed: providertest.IgnoreFailed})
		refused := 0
		for range 40 {
			start := time.Now()
			if c.status() != http.StatusOK {
				refused++
			}
			time.Sleep(time.Until(start.Add(m)))
		}
		assert.Greater(t, refused, 5, "without jitter: none")
		assert.Less(t, refused, 35)
		time.Sleep(m)
		for range 40 {
			start := time.Now()
			assert.Equal(t, http.StatusOK, c.status(), "a minute and the jitter apart")
			time.Sleep(time.Until(start.Add(m + 250*ms)))
		}
	})
}

// durations returns how long some calls take, sent one after the other or at once.
func durations(t *testing.T, seed uint64, together bool) []time.Duration {
	took := make([]time.Duration, 20)
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Generic, Jitter: 250 * ms, Latency: s, LatencyJitter: s, Seed: seed})
		var wg sync.WaitGroup
		for i := range took {
			call := func() {
				start := time.Now()
				c.status()
				took[i] = time.Since(start)
			}
			if wg.Go(call); !together {
				wg.Wait()
			} else {
				synctest.Wait() // the call has arrived
			}
		}
		wg.Wait()
	})
	return took
}

func TestDelaysAreThoseOfTheSeedAndTheCall(t *testing.T) {
	first := durations(t, 1, false)
	assert.Equal(t, first, durations(t, 1, false))
	assert.Equal(t, first, durations(t, 1, true), "whatever other calls do")
	assert.NotEqual(t, first, durations(t, 2, false))
	for _, d := range first {
		assert.GreaterOrEqual(t, d, s)
		assert.LessOrEqual(t, d, 2*s+250*ms)
	}
	assert.Greater(t, slices.Max(first), 1700*ms, "the latency varies")
}

func TestClockIsOff(t *testing.T) {
	for ppm, want := range map[int]time.Duration{ // of the machine's clock, for a minute of the provider's
		0:    m,
		500:  59_970_014_993,
		-500: 60_030_015_007,
	} {
		synctest.Test(t, func(t *testing.T) {
			c := open(t, providertest.Config{Provider: providertest.Generic, Requests: "1/m", ClockPPM: ppm, Failed: providertest.IgnoreFailed})
			assert.Equal(t, http.StatusOK, c.status())
			time.Sleep(want - 1)
			assert.Equal(t, http.StatusTooManyRequests, c.status(), "%d ppm: just before %v", ppm, want)
			time.Sleep(time.Nanosecond)
			assert.Equal(t, http.StatusOK, c.status(), "%d ppm: after %v", ppm, want)
		})
	}
}

func TestClockDoesNotOverflowInYears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Anthropic, Requests: "1/m", ClockPPM: -10_000})
		time.Sleep(10 * 365 * 24 * h)
		reset, err := time.Parse(time.RFC3339, c.call(atMost(1)).header.Get("Anthropic-Ratelimit-Requests-Reset"))
		require.NoError(t, err)
		assert.InDelta(t, 10*365*0.99, time.Until(reset).Hours()/24+10*365, 0.01)
	})
}

func TestClockOffsetMovesTheMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Azure, Tokens: "10/m", ClockOffset: 45 * s, Failed: providertest.IgnoreFailed})
		c.play([]step{
			{0, atMost(8), true, ""},
			{15*s - 1, atMost(8), false, ""},
			{15 * s, atMost(8), true, "the provider's clock shows second zero"},
		})
	})
}

func TestStatsNameTheCauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, providertest.Config{Provider: providertest.Generic, Requests: "4/s, 10/m", Tokens: "100/m", Failed: providertest.IgnoreFailed})
		assert.Zero(t, c.limit("requests 10/m").Use, "before the first call")
		c.call(atMost(18)) // 20 tokens
		c.call(atMost(58)) // 60
		c.call(atMost(98)) // refused for its tokens
		c.call(atMost(18)) // 100 now
		c.call(atMost(99)) // refused as larger than the limit, by all means
		c.FailNext(1, providertest.ServerError)
		c.call(atMost(1))
		c.post("/v1/chat", "no JSON")
		st := c.Stats()
		assert.Equal(t, providertest.Stats{
			Calls: 6, Admitted: 3, Refused: 2, Failed: 1, Invalid: 1,
			Limits: []providertest.LimitStats{
				{Unit: providertest.Requests, Limit: "4/s", N: 4, Per: s, Counted: 3, Peak: 3, Use: 0.75},
				{Unit: providertest.Requests, Limit: "10/m", N: 10, Per: m, Counted: 3, Peak: 3, Use: 0.3},
				{Unit: providertest.Tokens, Limit: "100/m", N: 100, Per: m, Refused: 2, Counted: 100, Peak: 100, Use: 1},
			},
		}, st)
		time.Sleep(4 * m)
		assert.Equal(t, 0.25, c.limit("tokens 100/m").Use, "of four minutes")
	})
}

// Of concurrent calls exactly the limit is admitted.
func TestConcurrentCallsShareTheLimit(t *testing.T) {
	c := open(t, providertest.Config{Provider: providertest.Generic, Requests: "20/h"})
	var wg sync.WaitGroup
	var admitted atomic.Int64
	for range 100 {
		wg.Go(func() {
			if c.status() == http.StatusOK {
				admitted.Add(1)
			}
			c.Stats()
		})
	}
	wg.Wait()
	assert.Equal(t, int64(20), admitted.Load())
	assert.Equal(t, int64(80), c.Stats().Refused)
	assert.Equal(t, int64(100), c.limit("requests 20/h").Peak, "refused calls count")
}

func TestBadConfigIsNamed(t *testing.T) {
	for _, tt := range []struct {
		config providertest.Config
		want   string
	}{
		{providertest.Config{}, `providertest: provider "": want openai, azure, anthropic, gemini, voyage, groq, deepseek, generic, bucket`},
		{providertest.Config{Provider: "OpenAI"}, `provider "OpenAI": want openai`},
		{providertest.Config{Provider: "openai", Requests: "500"}, `providertest: requests "500": no window: want units per time, such as 500/m`},
		{providertest.Config{Provider: "openai", Input: "5/m"}, `input "5/m": openai does not limit input: want limits on requests, tokens`},
		{providertest.Config{Provider: "deepseek", Requests: "5/m"}, `deepseek does not limit requests: want limits on in-flight`},
		{providertest.Config{Provider: "anthropic", InFlight: "5"}, `in-flight "5": anthropic does not limit in-flight`},
		{providertest.Config{Provider: "openai", Requests: "5/m burst 2"}, `burst "2": want no burst`},
		{providertest.Config{Provider: "openai", Algorithm: 9}, `Algorithm 9: want 0 to 3`},
		{providertest.Config{Provider: "openai", Count: -1}, `Count -1: want 0 to 4`},
		{providertest.Config{Provider: "openai", Failed: 3}, `Failed 3: want 0 to 2`},
		{providertest.Config{Provider: "openai", Jitter: -s}, `Jitter -1s: want 0 to 24h`},
		{providertest.Config{Provider: "openai", Latency: 25 * h}, `Latency 25h0m0s: want 0 to 24h`},
		{providertest.Config{Provider: "openai", ClockPPM: 10_001}, `ClockPPM 10001: want -10000 to 10000`},
		{providertest.Config{Provider: "openai", Speed: -1}, `Speed -1: want 0 to`},
		{providertest.Config{Provider: "bucket", Quantum: s}, `Quantum 1s: want 0`},
	} {
		_, err := providertest.New(tt.config)
		assert.ErrorContains(t, err, tt.want)
	}
	_, err := providertest.NewRequest(t.Context(), "mistral", "http://localhost", providertest.Prompt{})
	assert.ErrorContains(t, err, `provider "mistral": want openai`)
	_, err = providertest.NewRequest(t.Context(), "openai", ":", providertest.Prompt{})
	assert.ErrorContains(t, err, "address")
}

func TestUnitsHaveNames(t *testing.T) {
	assert.Equal(t, "requests tokens input output in-flight Unit(5) Unit(-1)", fmt.Sprint(providertest.Requests, " ",
		providertest.Tokens, " ", providertest.Input, " ", providertest.Output, " ", providertest.InFlight, " ",
		providertest.InFlight+1, " ", providertest.Requests-1))
}

// A provider that counted with the limiter's code would prove nothing about it.
func TestNothingOfTheLimiterIsImported(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{.ImportPath}}{{end}}", ".").Output()
	require.NoError(t, err)
	assert.Equal(t, []string{"github.com/choked/choked/providertest"}, strings.Fields(string(out)))
}
