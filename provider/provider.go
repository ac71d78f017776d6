// Package provider has the limits to use for providers of LLMs. A provider states that
// it admits 500 requests a minute. Whether it then refuses a call depends on how it
// counts: in any minute, in minutes that begin at second zero, or by a bucket that
// refills. A [Profile] knows that, and turns the provider's limits into those of a key:
//
//	limits, err := provider.OpenAI.Limits("500/m", "200000/m")
//
// With these limits the provider refuses no call for quota, provided that
//
//   - a call reaches the provider within [Profile.Delay] of its admission;
//   - the clocks of the store and of the provider differ in speed by at most 500 ppm;
//   - each call is charged, before it is made, at least the units that the provider counts;
//   - the account has no other users.
//
// The profiles follow the providers' documents as of November 2026. A provider that
// counts otherwise for an account needs a copy of the profile with other fields.
package provider

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/choked/choked/bucket"
)

// Profile is how a provider counts. Its fields may be changed in a copy.
type Profile struct {
	Name  string
	Units []bucket.Unit // that it limits, in the order of the arguments of Limits

	// Kind is how it counts: in windows, whether they roll or begin at fixed times, or
	// by a token bucket.
	Kind bucket.Kind

	// Zone is where the day of its limits per day begins at midnight: a name of the IANA
	// database. Empty: these are counted as the others are.
	Zone string

	// Quantum, if positive, is a shorter time in which the provider admits no more than
	// that part of its requests.
	Quantum time.Duration

	// Delay (δ) is the longest time from the admission of a call to its arrival. Zero:
	// 250 ms.
	Delay time.Duration

	// Burst is the part of a window that one burst may take: 10 is a tenth. A smaller
	// burst shares the window more evenly and delays large calls. Zero: 10. Negative: the
	// whole window.
	Burst int64
}

// The providers' profiles. Each states what it limits, and which calls count.
var (
	// OpenAI limits requests, and tokens together: the larger of max_tokens and an
	// estimate of the prompt. Failed calls count.
	OpenAI = Profile{Name: "openai", Units: together, Kind: bucket.Window}

	// Azure limits as OpenAI does, in fixed minutes, with the prompt and max_tokens
	// summed, and judges requests over 10 seconds. Failed calls count.
	Azure = Profile{Name: "azure", Units: together, Kind: bucket.Window, Quantum: 10 * time.Second}

	// Anthropic limits requests, input without the tokens read from the cache, and
	// output as it is produced, by token buckets.
	Anthropic = Profile{Name: "anthropic", Units: apart, Kind: bucket.TokenBucket}

	// Gemini limits requests and the tokens of prompts. Its day begins at midnight in
	// Los Angeles. Failed calls count.
	Gemini = Profile{Name: "gemini", Units: []bucket.Unit{bucket.Requests, bucket.Input}, Kind: bucket.Window, Zone: "America/Los_Angeles"}

	// Voyage limits requests and tokens, those of prompts as it has no others.
	Voyage = Profile{Name: "voyage", Units: together, Kind: bucket.Window}

	// Groq limits requests, tokens together and, for some models, input and output apart,
	// all without tokens read from the cache.
	Groq = Profile{Name: "groq", Units: []bucket.Unit{bucket.Requests, bucket.Tokens, bucket.Input, bucket.Output}, Kind: bucket.Window}

	// Generic is the cautious choice for a provider that does not say how it counts: no
	// window, rolling or fixed, has more than its limit.
	Generic = Profile{Name: "generic", Units: []bucket.Unit{bucket.Requests, bucket.Tokens, bucket.Input, bucket.Output}, Kind: bucket.Window}
)

var (
	together = []bucket.Unit{bucket.Requests, bucket.Tokens}
	apart    = []bucket.Unit{bucket.Requests, bucket.Input, bucket.Output}
)

// Profiles returns all profiles of the package.
func Profiles() []Profile { return []Profile{OpenAI, Azure, Anthropic, Gemini, Voyage, Groq, Generic} }

// ByName returns the profile of a name such as "openai". The error lists the names.
func ByName(name string) (Profile, error) {
	var names []string
	for _, p := range Profiles() {
		if p.Name == name {
			return p, nil
		}
		names = append(names, p.Name)
	}
	return Profile{}, fmt.Errorf("provider %.32q: want %s", name, strings.Join(names, ", "))
}

const (
	defaultDelay = 250 * time.Millisecond
	defaultBurst = 10

	// slower is by how much a limit is stretched, in millionths: the clock of the store
	// may be that much faster than the provider's.
	slower = 500

	day = 24 * time.Hour

	// pacedUpTo is the longest window that gets a pace. A limit per day is a reserve to
	// spend when it is needed.
	pacedUpTo = time.Hour
)

// Limits returns the limits to use for the rates that the provider states, in the order
// of p.Units and as [bucket.ParseRates] reads them: "500/m" or "500/m,10000/d". A unit
// with an empty text is not limited. The error names the rate that cannot be used.
func (p Profile) Limits(stated ...string) (bucket.Limits, error) {
	if len(stated) > len(p.Units) {
		return bucket.Limits{}, fmt.Errorf("provider %s: %d rates: want at most %d, on %v", p.Name, len(stated), len(p.Units), p.Units)
	}
	var l bucket.Limits
	for i, text := range stated {
		u := p.Units[i]
		rates, err := bucket.ParseRates(text)
		if err != nil {
			return bucket.Limits{}, fmt.Errorf("provider %s: limit on %v: %w", p.Name, u, err)
		}
		var used bucket.Rates
		for _, r := range rates {
			if r.Kind != bucket.TokenBucket || r.Burst != r.N && p.Kind != bucket.TokenBucket {
				return bucket.Limits{}, fmt.Errorf("provider %s: limit on %v: rate %q: want the count and the time as the provider states them, as in 500/m", p.Name, u, r)
			}
			used = append(used, p.rates(u, r)...)
		}
		l.Set(u, used)
	}
	if err := l.Check(); err != nil {
		return bucket.Limits{}, fmt.Errorf("provider %s: %w", p.Name, err)
	}
	return l, nil
}

// rates returns the rates to use for a stated rate on unit u.
func (p Profile) rates(u bucket.Unit, r bucket.Rate) bucket.Rates {
	switch {
	case p.Zone != "" && r.Per == day:
		return bucket.Rates{{Kind: bucket.Calendar, N: r.N, Every: bucket.Daily, Zone: p.Zone}}
	case p.Kind == bucket.TokenBucket:
		return bucket.Rates{p.bucket(r)}
	}
	rates := bucket.Rates{p.window(r.N, r.Per)}
	if q := p.Quantum; q > 0 && u == bucket.Requests && r.Per > q {
		if n := r.N / int64(r.Per/q); n > 0 {
			rates = append(rates, p.window(n, q))
		}
	}
	return rates
}

// window returns the window that keeps n per time, however the calls are delayed on
// their way: calls that arrive within per were admitted within per + δ.
func (p Profile) window(n int64, per time.Duration) bucket.Rate {
	r := bucket.Rate{Kind: bucket.Window, N: n, Per: stretch(per + cmp.Or(p.Delay, defaultDelay))}
	if parts := cmp.Or(p.Burst, defaultBurst); parts > 0 && per <= pacedUpTo {
		r.Pace = max(n/parts, 1)
	}
	return r
}

// bucket returns the token bucket that keeps r at the provider. Calls that are
// delayed by up to δ arrive as if the bucket held the refill of δ more. Where that is
// more than the burst, calls are spaced by δ more than the refill needs.
func (p Profile) bucket(r bucket.Rate) bucket.Rate {
	late := r.In(cmp.Or(p.Delay, defaultDelay)) + 1 // rounded up
	if r.Burst > late {
		return bucket.Rate{N: r.N, Per: stretch(r.Per), Burst: r.Burst - late}
	}
	return bucket.Rate{N: 1, Per: stretch(r.Span(1) + cmp.Or(p.Delay, defaultDelay)), Burst: 1}
}

// stretch returns d, longer by the error of the clocks, rounded up to a microsecond:
// Redis keeps no shorter times.
func stretch(d time.Duration) time.Duration {
	d += d / 1_000_000 * slower
	return (d + time.Microsecond - 1).Truncate(time.Microsecond)
}
