package bucket

import (
	"fmt"
	"math"
)

// MaxUnits bounds every count of units: in a rate, a burst, a cost, a debt.
const MaxUnits = 1_000_000_000_000

// Cost is what one call takes from a bucket, or a lease grants, in units.
type Cost struct {
	Requests int64 `json:"requests"`
	Tokens   int64 `json:"tokens"`
}

// Check reports why c cannot be asked for, or nil.
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

// IsZero reports whether c is nothing at all.
func (c Cost) IsZero() bool { return c == Cost{} }

func (c Cost) String() string { return fmt.Sprintf("%d requests, %d tokens", c.Requests, c.Tokens) }

// unlimited is more of each unit than anyone can ask for.
var unlimited = Cost{math.MaxInt64 / 4, math.MaxInt64 / 4}

// Unit names one of the two things that a key limits.
type Unit uint8

// The units, in the order in which a bucket keeps their rates.
const (
	Requests Unit = iota
	Tokens
)

func (u Unit) String() string {
	if u == Requests {
		return "requests"
	}
	return "tokens"
}

// Of returns how many of unit u the cost c holds.
func (c Cost) Of(u Unit) int64 {
	if u == Requests {
		return c.Requests
	}
	return c.Tokens
}

// with returns c with n of unit u.
func (c Cost) with(u Unit, n int64) Cost {
	if u == Requests {
		c.Requests = n
	} else {
		c.Tokens = n
	}
	return c
}
