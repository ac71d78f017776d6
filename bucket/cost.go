package bucket

import (
	"fmt"
	"math"
)

// MaxUnits bounds every count of units: in a rate, a burst, a cost, a debt.
const MaxUnits = 1_000_000_000_000

// Cost counts the units of one call, of a lease, or of a bucket's level. A call to a
// model is usually one request and the tokens of its prompt and its reply.
type Cost struct {
	Requests int64 `json:"requests"` // API calls
	Tokens   int64 `json:"tokens"`   // LLM tokens, as the provider counts them
}

// Check returns an error that says why c cannot be the cost of a call, or nil: each
// unit must be from 0 to [MaxUnits].
func (c Cost) Check() error {
	if c.Requests < 0 || c.Tokens < 0 || c.Requests > MaxUnits || c.Tokens > MaxUnits {
		return fmt.Errorf("cost of %v: want 0 to %d of each", c, int64(MaxUnits))
	}
	return nil
}

// Add returns c + d.
func (c Cost) Add(d Cost) Cost { return Cost{c.Requests + d.Requests, c.Tokens + d.Tokens} }

// Sub returns c − d, which may be negative in either unit.
func (c Cost) Sub(d Cost) Cost { return Cost{c.Requests - d.Requests, c.Tokens - d.Tokens} }

// Min returns the smaller of c and d in each unit.
func (c Cost) Min(d Cost) Cost { return Cost{min(c.Requests, d.Requests), min(c.Tokens, d.Tokens)} }

// Max returns the larger of c and d in each unit.
func (c Cost) Max(d Cost) Cost { return Cost{max(c.Requests, d.Requests), max(c.Tokens, d.Tokens)} }

// Covers reports whether c is at least d in each unit.
func (c Cost) Covers(d Cost) bool { return c.Requests >= d.Requests && c.Tokens >= d.Tokens }

// IsZero reports whether c has no units.
func (c Cost) IsZero() bool { return c == Cost{} }

// String returns c in the form "1 requests, 200 tokens".
func (c Cost) String() string { return fmt.Sprintf("%d requests, %d tokens", c.Requests, c.Tokens) }

// unlimited is the burst and the level of a unit that is not limited.
var unlimited = Cost{math.MaxInt64 / 4, math.MaxInt64 / 4}

// Unit is one of the two kinds of units that the limits of a key count.
type Unit uint8

// The units, in the order in which a bucket keeps their rates.
const (
	Requests Unit = iota // API calls
	Tokens               // LLM tokens
)

// String returns "requests" or "tokens".
func (u Unit) String() string {
	if u == Requests {
		return "requests"
	}
	return "tokens"
}

// Of returns the units of kind u in c.
func (c Cost) Of(u Unit) int64 {
	if u == Requests {
		return c.Requests
	}
	return c.Tokens
}

// with returns c with n units of kind u.
func (c Cost) with(u Unit, n int64) Cost {
	if u == Requests {
		c.Requests = n
	} else {
		c.Tokens = n
	}
	return c
}
