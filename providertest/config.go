package providertest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"
)

// The providers. Each counts and answers as section "Providers" of the package's
// documentation says.
const (
	OpenAI    = "openai"
	Azure     = "azure"
	Anthropic = "anthropic"
	Gemini    = "gemini"
	Voyage    = "voyage"
	Groq      = "groq"
	DeepSeek  = "deepseek"
	Generic   = "generic" // a rolling window that counts refused calls, too
	Bucket    = "bucket"  // a token bucket
)

// Names returns the names of all providers, in the order of the constants.
func Names() []string {
	names := make([]string, len(specs))
	for i := range specs {
		names[i] = specs[i].name
	}
	return names
}

// Config is the configuration of a provider. Only Provider is required: a provider
// without limits admits all calls.
type Config struct {
	Provider string // one of Names

	// The limits, as the provider states them: "500/m" is 500 a minute. The time is s,
	// m, h or d, or a number of them, "20/10s". Several limits on a unit are separated
	// by commas, "500/m, 10000/d". A provider that counts by a token bucket also takes
	// its size, "50/m burst 10"; without it the size is the number of units. New
	// refuses a limit on a unit that the provider does not limit.
	Requests string // calls
	Tokens   string // input and output together
	Input    string // tokens of prompts
	Output   string // tokens of replies
	InFlight string // calls under way, a number: "20"

	Algorithm Algorithm     // how the rates are counted; zero: as the provider does
	Count     Count         // when tokens are counted; zero: as the provider does
	Failed    Failed        // whether refused and failed calls count; zero: as at the provider
	Quantum   time.Duration // requests are judged over this time, at n·Quantum/per; zero: as the provider does, 10 s at Azure

	// Usage, if set, returns the tokens that a call uses. The default is a quarter of
	// the characters of the prompt, and a reply of 100 tokens or, if that is less, of
	// the call's largest number. Calls run it concurrently.
	Usage func(Call) Usage

	Latency       time.Duration // from the decision to the first token of the reply
	LatencyJitter time.Duration // added to Latency, uniformly distributed from 0 to this
	Speed         int           // tokens of a reply a second; 0: all at once

	// Jitter is the longest delay of the decision, whether the network or the provider is
	// late: a call counts as of an instant from 0 to Jitter after it was sent, uniformly
	// distributed. The provider notices as late that a client has gone.
	Jitter time.Duration

	ClockPPM    int           // the provider's clock runs fast by this many parts per million, from -10000 to 10000
	ClockOffset time.Duration // the provider's clock is ahead by this; it moves the begin of its minutes and days

	// Seed determines the random delays: the call of one number has the same delays
	// with the same seed, whatever other calls do.
	Seed uint64

	// Fail, if set, decides for each call whether it fails. Calls run it concurrently.
	// Failures that FailNext has ordered come before its own.
	Fail func(Call) Failure

	// ProduceAfterClose lets a provider go on with a reply, and count it, when the
	// client has closed the stream. By default it stops.
	ProduceAfterClose bool
}

// A Call is a call as the provider reads it.
type Call struct {
	Number     int64 // in the order of arrival, from 1
	Path       string
	Header     http.Header
	Model      string
	Characters int64 // of the prompt
	MaxTokens  int64 // most tokens of the reply; 0: not stated
	Choices    int64 // replies that are asked for: the larger of n and best_of, at least 1
	Stream     bool
	Embedding  bool // the call has no reply in tokens
}

// Usage are the tokens of a call. Negative numbers count as zero.
type Usage struct {
	// Estimate is the provider's estimate of the prompt's tokens, by which it admits
	// the call. Zero: the estimate is exact. Providers that do not estimate ignore it.
	Estimate int64

	Input      int64 // tokens of the prompt, without the two below
	CacheWrite int64 // tokens of the prompt that are written to the provider's cache
	CacheRead  int64 // tokens of the prompt that are read from it; Anthropic and Groq do not count them
	Output     int64 // tokens of the reply, at most Call.MaxTokens if that is stated
}

// Algorithm is how a provider counts a rate.
type Algorithm int

const (
	ProviderAlgorithm Algorithm = iota // as the provider does
	RollingWindow                      // at most n in the last minute, whenever that began
	FixedWindow                        // at most n between two full minutes of the provider's clock
	TokenBucket                        // n a minute, restored continuously, and a burst
)

// Count is when a provider counts tokens. Requests always count at the start, and
// calls in flight from the start to the end.
type Count int

const (
	ProviderCount Count = iota // as the provider does
	AtStart                    // all that the call may use, once, when the call is admitted
	AsProduced                 // input at the start, corrected when it is known; output when it is produced
	AtEnd                      // all that was used, when the call ends; a call is admitted if any unit is left
	Reserved                   // as AtStart, corrected at the end to the tokens that were used
)

// Failed is whether calls count that the provider refuses or fails.
type Failed int

const (
	ProviderFailed Failed = iota // as at the provider
	CountFailed                  // they count as if they had been admitted
	IgnoreFailed                 // they do not count
)

// Failure is a way in which a call fails. The first four answer at once, without a
// look at the limits; the others are for calls that the limits admit.
type Failure int

const (
	NoFailure          Failure = iota
	Overloaded                 // 529 at Anthropic, 503 elsewhere: the provider's load, not the account's quota
	ServerError                // 500
	OutOfQuota                 // money or a spend cap is used up: a 429, at DeepSeek a 402, that no retry cures
	Busy                       // 429 although there is quota, without a time to wait
	OverloadedInReply          // as Overloaded, halfway through the reply: an error frame in a stream that began with 200
	RateLimitedInReply         // as Busy, halfway through the reply
	CutInReply                 // the connection breaks halfway through the reply
	Hang                       // no answer until the client gives up
)

func (c *Config) validate() (*spec, error) {
	s, err := specOf(c.Provider)
	if err != nil {
		return nil, err
	}
	for _, n := range []struct {
		name             string
		value, low, high int64
	}{
		{"Algorithm", int64(c.Algorithm), 0, int64(TokenBucket)},
		{"Count", int64(c.Count), 0, int64(Reserved)},
		{"Failed", int64(c.Failed), 0, int64(IgnoreFailed)},
		{"Speed", int64(c.Speed), 0, int64(time.Second)},
		{"ClockPPM", int64(c.ClockPPM), -10_000, 10_000},
	} {
		if n.value < n.low || n.value > n.high {
			return nil, fmt.Errorf("%s %d: want %d to %d", n.name, n.value, n.low, n.high)
		}
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"Latency", c.Latency}, {"LatencyJitter", c.LatencyJitter}, {"Jitter", c.Jitter}, {"Quantum", c.Quantum},
	} {
		if d.value < 0 || d.value > 24*time.Hour {
			return nil, fmt.Errorf("%s %v: want 0 to 24h", d.name, d.value)
		}
	}
	return s, nil
}

func specOf(provider string) (*spec, error) {
	i := slices.IndexFunc(specs, func(s spec) bool { return s.name == provider })
	if i < 0 {
		return nil, fmt.Errorf("provider %q: want %s", provider, strings.Join(Names(), ", "))
	}
	return &specs[i], nil
}

// meters returns the counters of all limits.
func (c *Config) meters(s *spec) (meters []*meter, err error) {
	algorithm := s.algorithm
	if c.Algorithm != ProviderAlgorithm {
		algorithm = c.Algorithm
	}
	quantum := s.quantum
	if c.Quantum != 0 {
		quantum = c.Quantum
	}
	if algorithm == TokenBucket && c.Quantum != 0 {
		return nil, fmt.Errorf("provider %q with Quantum %v: want 0, a token bucket has none; give its size, such as 60/m burst 1", s.name, c.Quantum)
	}
	for unit, text := range [numUnits]string{c.Requests, c.Tokens, c.Input, c.Output, c.InFlight} {
		unit := Unit(unit)
		limits, err := parseLimits(unit, text, algorithm == TokenBucket)
		if err != nil {
			return nil, err
		}
		if len(limits) > 0 && !slices.Contains(s.units, unit) {
			return nil, fmt.Errorf("%s %q: %s does not limit %s: want limits on %s", unit, text, s.name, unit, join(s.units))
		}
		for _, l := range limits {
			quantised := unit == Requests && quantum > 0 && quantum < l.per
			if !quantised || !s.even {
				meters = append(meters, newMeter(s, algorithm, unit, l))
			}
			if quantised {
				share := max(1, int64(float64(l.n)*quantum.Seconds()/l.per.Seconds()))
				m := newMeter(s, algorithm, unit, limit{n: share, per: quantum, burst: share})
				m.hidden = !s.even
				meters = append(meters, m)
			}
		}
	}
	return meters, nil
}

func join(units []Unit) string {
	names := make([]string, len(units))
	for i, u := range units {
		names[i] = u.String()
	}
	return strings.Join(names, ", ")
}
