package bucket

import (
	"fmt"
	"math"
	"strings"
)

// MaxUnits bounds every count of units: in a rate, a burst, a cost, a debt.
const MaxUnits = 1_000_000_000_000

// Cost counts the units of one call, of a lease, or of a bucket's level. A call to a
// model is usually one request and the tokens of its prompt and its reply.
type Cost struct {
	Requests int64 `json:"requests,omitempty"`           // API calls
	Tokens   int64 `json:"tokens,omitempty"`             // LLM tokens, input and output together
	Input    int64 `json:"input,omitempty"`              // LLM tokens of the prompt
	Output   int64 `json:"output,omitempty"`             // LLM tokens of the reply
	Spend    int64 `json:"spend_microdollars,omitempty"` // money, in millionths of a dollar
}

// Check returns an error that says why c cannot be the cost of a call, or nil: each
// unit must be from 0 to [MaxUnits].
func (c Cost) Check() error {
	for u := range NumUnits {
		if n := c.Of(u); n < 0 || n > MaxUnits {
			return fmt.Errorf("cost of %s: want 0 to %s", u.Amount(n), u.Amount(MaxUnits))
		}
	}
	return nil
}

// Add returns c + d.
func (c Cost) Add(d Cost) Cost {
	return Cost{c.Requests + d.Requests, c.Tokens + d.Tokens, c.Input + d.Input, c.Output + d.Output, c.Spend + d.Spend}
}

// Sub returns c − d, which may be negative in any unit.
func (c Cost) Sub(d Cost) Cost {
	return Cost{c.Requests - d.Requests, c.Tokens - d.Tokens, c.Input - d.Input, c.Output - d.Output, c.Spend - d.Spend}
}

// Inc is c = c.Add(*d). Inc, Dec and Has are for paths where the copies of costs, which
// the compiler keeps in memory, would take longer than the arithmetic.
func (c *Cost) Inc(d *Cost) {
	c.Requests += d.Requests
	c.Tokens += d.Tokens
	c.Input += d.Input
	c.Output += d.Output
	c.Spend += d.Spend
}

// Dec is c = c.Sub(*d).
func (c *Cost) Dec(d *Cost) {
	c.Requests -= d.Requests
	c.Tokens -= d.Tokens
	c.Input -= d.Input
	c.Output -= d.Output
	c.Spend -= d.Spend
}

// Has is c.Covers(*d).
func (c *Cost) Has(d *Cost) bool {
	return c.Requests >= d.Requests && c.Tokens >= d.Tokens && c.Input >= d.Input && c.Output >= d.Output && c.Spend >= d.Spend
}

// Min returns the smaller of c and d in each unit.
func (c Cost) Min(d Cost) Cost {
	return Cost{min(c.Requests, d.Requests), min(c.Tokens, d.Tokens), min(c.Input, d.Input), min(c.Output, d.Output), min(c.Spend, d.Spend)}
}

// Max returns the larger of c and d in each unit.
func (c Cost) Max(d Cost) Cost {
	return Cost{max(c.Requests, d.Requests), max(c.Tokens, d.Tokens), max(c.Input, d.Input), max(c.Output, d.Output), max(c.Spend, d.Spend)}
}

// Covers reports whether c is at least d in each unit.
func (c Cost) Covers(d Cost) bool {
	return c.Requests >= d.Requests && c.Tokens >= d.Tokens && c.Input >= d.Input && c.Output >= d.Output && c.Spend >= d.Spend
}

// IsZero reports whether c has no units.
func (c Cost) IsZero() bool { return c.Requests|c.Tokens|c.Input|c.Output|c.Spend == 0 }

// IsNegative reports whether c is below zero in any unit.
func (c Cost) IsNegative() bool { return c.Requests|c.Tokens|c.Input|c.Output|c.Spend < 0 }

// String returns the units of c that are not zero, in the form "1 requests,
// 200 tokens, $0.05 spend", or "nothing".
func (c Cost) String() string {
	var parts []string
	for u := range NumUnits {
		if n := c.Of(u); n != 0 {
			parts = append(parts, u.Amount(n))
		}
	}
	if parts == nil {
		return "nothing"
	}
	return strings.Join(parts, ", ")
}

// Unlimited is the burst and the level of a unit that a key does not limit. It is far
// above [MaxUnits].
const Unlimited = math.MaxInt64 / 4

var allUnlimited = Each(Unlimited)

// one has a unit of each kind.
var one = Each(1)

// Each returns n units of each kind.
func Each(n int64) Cost { return Cost{n, n, n, n, n} }

// Of returns the units of kind u in c.
func (c Cost) Of(u Unit) int64 { return *c.at(u) }

// With returns c with n units of kind u.
func (c Cost) With(u Unit, n int64) Cost {
	*c.at(u) = n
	return c
}

// at returns where c keeps the units of kind u.
func (c *Cost) at(u Unit) *int64 {
	switch u {
	case Requests:
		return &c.Requests
	case Tokens:
		return &c.Tokens
	case Input:
		return &c.Input
	case Output:
		return &c.Output
	default:
		return &c.Spend
	}
}
