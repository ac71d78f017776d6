package providertest

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// A Provider is a fake LLM provider with one account. It is an [http.Handler] and, for
// calls without a socket, an [http.RoundTripper]:
//
//	client := &http.Client{Transport: provider}
//
// All methods may be called concurrently. A provider has no goroutine of its own and
// needs no Close.
type Provider struct {
	config Config
	spec   *spec
	start  time.Time // on the machine's clock
	wall   time.Time // on the provider's clock, at start

	mu       sync.Mutex
	arrived  int64     // calls
	last     time.Time // on the provider's clock
	meters   []*meter
	failures []Failure // of the next calls
	stats    Stats
	first    time.Time // the first call was decided, on the provider's clock
}

// New returns a provider without any calls. In a bubble of testing/synctest it is made
// inside the bubble. An error names the field, its value, and the accepted forms.
func New(c Config) (*Provider, error) {
	s, err := c.validate()
	if err != nil {
		return nil, fmt.Errorf("providertest: %w", err)
	}
	meters, err := c.meters(s)
	if err != nil {
		return nil, fmt.Errorf("providertest: %w", err)
	}
	start := time.Now()
	if c.Count == ProviderCount {
		c.Count = s.count
	}
	if c.Failed == ProviderFailed {
		c.Failed = s.failed
	}
	return &Provider{
		config: c, spec: s, meters: meters,
		start: start, wall: start.Round(0).Add(c.ClockOffset),
	}, nil
}

// FailNext makes the next n calls fail, after those for which it was called before.
func (p *Provider) FailNext(n int, f Failure) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for range n {
		p.failures = append(p.failures, f)
	}
}

// Stats are the counters of a provider.
type Stats struct {
	Calls    int64 // that were decided
	Admitted int64
	Refused  int64 // for quota; Limits has the causes
	Failed   int64 // because Config.Fail or FailNext said so, before or after they were admitted
	Invalid  int64 // answered with 400 or 404; not among Calls

	Limits []LimitStats // in the order of the units and of their limits in Config
}

// LimitStats are the counters of one limit.
type LimitStats struct {
	Unit  Unit
	Limit string        // "500/m"; what Config.Quantum adds is a limit, too: "8/s"
	N     int64         // units of the limit, for a token bucket its burst
	Per   time.Duration // of the limit, 0 for calls in flight

	Refused int64 // calls for which this limit had no room, of all limits for the longest time
	Counted int64 // units of admitted calls, corrections included
	Peak    int64 // most units that counted at one time: in any window, missing from the bucket, or in flight

	// Use is Counted divided by the units that the limit has allowed since the first
	// call, or in one Per if that is longer. It is 0 for calls in flight.
	Use float64
}

// Stats returns the counters.
func (p *Provider) Stats() Stats {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.stats
	t := p.nowLocked()
	for _, m := range p.meters {
		l := m.stats
		if l.Per > 0 {
			elapsed := max(l.Per, t.Sub(p.first))
			if p.first.IsZero() {
				elapsed = l.Per
			}
			l.Use = float64(l.Counted) / (float64(m.limit.n) * elapsed.Seconds() / l.Per.Seconds())
		}
		s.Limits = append(s.Limits, l)
	}
	return s
}

// A meter is a limit and its counter.
type meter struct {
	counter
	unit   Unit
	limit  limit
	hidden bool // headers do not name it
	stats  LimitStats
}

func newMeter(s *spec, a Algorithm, u Unit, l limit) *meter {
	m := &meter{unit: u, limit: l, stats: LimitStats{Unit: u, Limit: l.String(), N: l.burst, Per: l.per}}
	switch {
	case u == InFlight:
		m.counter = &inFlight{n: l.n}
	case l.per == 24*time.Hour && s.day != nil:
		m.counter = &fixed{n: l.n, next: everyDay(s.day)}
	case a == FixedWindow:
		m.counter = &fixed{n: l.n, next: everyPer(l.per)}
	case a == TokenBucket:
		m.counter = &bucket{n: l.n, burst: l.burst, per: l.per}
	default:
		m.counter = &rolling{n: l.n, per: l.per}
	}
	return m
}

// nowLocked returns the time of the provider's clock.
func (p *Provider) nowLocked() time.Time {
	const million = 1_000_000
	elapsed, ppm := time.Since(p.start), time.Duration(p.config.ClockPPM)
	elapsed += elapsed/million*ppm + elapsed%million*ppm/million
	if t := p.wall.Add(elapsed); t.After(p.last) {
		p.last = t
	}
	return p.last
}

// amounts are units of a call, by Unit.
type amounts [numUnits]int64

// countLocked counts units as of an instant.
func (p *Provider) countLocked(now, asOf time.Time, a amounts, admitted bool) {
	for _, m := range p.meters {
		n := a[m.unit]
		if n == 0 {
			continue
		}
		m.add(asOf, n)
		m.stats.Peak = max(m.stats.Peak, m.counted(now))
		if admitted && (m.unit != InFlight || n > 0) {
			m.stats.Counted += n
		}
	}
}

// count counts units of an admitted call, as of now if asOf is zero.
func (p *Provider) count(asOf time.Time, a amounts) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.nowLocked()
	if asOf.IsZero() {
		asOf = now
	}
	p.countLocked(now, asOf, a, true)
}

// atStart returns the units that a call is charged at the start, and the room that it
// needs in each limit.
func (p *Provider) atStart(c Call, u Usage) (charge, room amounts) {
	input := p.input(u)
	if p.spec.estimates && u.Estimate > 0 {
		input = u.Estimate
	}
	charge[Requests], charge[InFlight] = 1, 1
	switch p.config.Count {
	case AsProduced:
		charge[Tokens], charge[Input] = input, input
	case AtStart, Reserved:
		output := c.MaxTokens * c.Choices
		if output == 0 {
			output = u.Output
		}
		charge[Tokens], charge[Input], charge[Output] = p.spec.reserve(c, input, output), input, output
	}
	for unit, n := range charge {
		room[unit] = max(1, n)
	}
	return charge, room
}

// used returns the tokens that a call has used, given those of its reply.
func (p *Provider) used(u Usage, output int64) (a amounts) {
	a[Input], a[Output] = p.input(u), output
	a[Tokens] = a[Input] + a[Output]
	return a
}

// input returns the tokens of the prompt that count.
func (p *Provider) input(u Usage) int64 {
	if p.spec.freeCacheReads {
		return u.prompt() - u.CacheRead
	}
	return u.prompt()
}

// prompt returns all tokens of the prompt.
func (u Usage) prompt() int64 { return u.Input + u.CacheWrite + u.CacheRead }

// usage returns the tokens that a call uses.
func (p *Provider) usage(c Call) Usage {
	u := Usage{Input: (c.Characters + 3) / 4, Output: 100}
	if p.config.Usage != nil {
		u = p.config.Usage(c)
	}
	for _, n := range []*int64{&u.Estimate, &u.Input, &u.CacheWrite, &u.CacheRead, &u.Output} {
		*n = min(max(0, *n), maxTokens)
	}
	if c.MaxTokens > 0 {
		u.Output = min(u.Output, c.MaxTokens*c.Choices)
	}
	if c.Embedding {
		u.Output = 0
	}
	return u
}

// random returns the source of the random delays of a call.
func (p *Provider) random(call int64) *rand.Rand {
	return rand.New(rand.NewPCG(p.config.Seed, uint64(call)))
}

// upTo returns a random duration from 0 to d.
func upTo(r *rand.Rand, d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d) + 1)) }
