package bucket

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Limits are all the limits of a key. They hold together: a call is admitted only if
// every rate allows it. A unit without rates is not limited. A Limits is shared by
// buckets and must not be changed once it is in use.
type Limits struct {
	Requests Rates // API calls per window
	Tokens   Rates // LLM tokens per window, input and output together
	Input    Rates // LLM tokens of prompts per window
	Output   Rates // LLM tokens of replies per window
	Spend    Rates // money per window, in millionths of a dollar
}

// ParseLimits reads the rates of one or more units, as in
//
//	requests 500/m,10000/d; input 40000/m burst 5000; spend $50/d
//
// [ParseRates] describes the rates of a unit. Those of spend have dollars for counts. The
// error quotes the value and says how to write it.
func ParseLimits(s string) (Limits, error) {
	var l Limits
	for clause := range strings.SplitSeq(s, ";") {
		name, rates, _ := strings.Cut(strings.TrimSpace(clause), " ")
		u, err := ParseUnit(name)
		switch {
		case strings.TrimSpace(s) == "":
			return Limits{}, l.Check()
		case err != nil:
			return Limits{}, fmt.Errorf(`limits %.200q: %w, as in "requests 50/s; tokens 100000/m"`, s, err)
		case *l.at(u) != nil:
			return Limits{}, fmt.Errorf("limits %.200q: %v twice: want all rates of a unit in one place, with commas", s, u)
		}
		if *l.at(u), err = parseRates(u, rates); err != nil {
			return Limits{}, fmt.Errorf("limit on %v: %w", u, err)
		}
		if *l.at(u) == nil {
			return Limits{}, fmt.Errorf(`limits %.200q: want a rate on %v, as in "%v %s"`, s, u, u, u.number(50)+"/s")
		}
	}
	return l, l.Check()
}

// ParseShortLimits reads the rates on requests and on tokens, the short form of
// limits; either may be empty, not both.
func ParseShortLimits(requests, tokens string) (l Limits, err error) {
	if l.Requests, err = ParseRates(requests); err != nil {
		return Limits{}, fmt.Errorf("limit on requests: %w", err)
	}
	if l.Tokens, err = ParseRates(tokens); err != nil {
		return Limits{}, fmt.Errorf("limit on tokens: %w", err)
	}
	return l, l.Check()
}

// Check returns an error that says why l cannot limit a key, or nil.
func (l Limits) Check() error {
	if l.Len() == 0 {
		return errors.New(`no limits: want a rate on a unit, as in "requests 50/s; tokens 100000/m"`)
	}
	for u := range NumUnits {
		if err := l.Of(u).check(u); err != nil {
			return fmt.Errorf("limit on %v: %w", u, err)
		}
	}
	return nil
}

// CheckTokenBuckets returns an error that names the first rate of l that is no token
// bucket, or nil. It is for stores that keep token buckets only; the caller adds which.
func (l *Limits) CheckTokenBuckets() (err error) {
	l.each(0, func(_ int, u Unit, r *Rate) {
		if r.Kind != TokenBucket && err == nil {
			err = fmt.Errorf("limit on %v: %s is a %v: want a token bucket, as in %s/m", u, r.text(u), r.Kind, u.number(r.N))
		}
	})
	return err
}

// Of returns the rates on unit u.
func (l Limits) Of(u Unit) Rates { return *l.at(u) }

// Set changes the rates on unit u to rs.
func (l *Limits) Set(u Unit, rs Rates) { *l.at(u) = rs }

// at returns where l keeps the rates on unit u.
func (l *Limits) at(u Unit) *Rates {
	switch u {
	case Requests:
		return &l.Requests
	case Tokens:
		return &l.Tokens
	case Input:
		return &l.Input
	case Output:
		return &l.Output
	default:
		return &l.Spend
	}
}

// Len returns the number of rates on all units.
func (l *Limits) Len() int {
	return len(l.Requests) + len(l.Tokens) + len(l.Input) + len(l.Output) + len(l.Spend)
}

// Equal reports whether l and m are the same rates in the same order.
func (l Limits) Equal(m Limits) bool {
	for u := range NumUnits {
		if !slices.Equal(l.Of(u), m.Of(u)) {
			return false
		}
	}
	return true
}

// Burst returns the largest cost that can ever be admitted at once, in units. A unit
// that l does not limit is far above [MaxUnits].
func (l Limits) Burst() Cost {
	c := allUnlimited
	l.each(0, func(_ int, u Unit, r *Rate) { c = c.With(u, min(c.Of(u), r.Most())) })
	return c
}

// In returns how many whole units of each kind are restored in d: at most a burst,
// and zero of a kind that l does not limit.
func (l Limits) In(d time.Duration) Cost {
	c := l.Burst()
	l.each(0, func(_ int, u Unit, r *Rate) { c = c.With(u, min(c.Of(u), r.In(d))) })
	return l.Limited(c)
}

// Limited returns c without the units that l does not limit.
func (l *Limits) Limited(c Cost) Cost {
	if len(l.Requests) == 0 {
		c.Requests = 0
	}
	if len(l.Tokens) == 0 {
		c.Tokens = 0
	}
	if len(l.Input) == 0 {
		c.Input = 0
	}
	if len(l.Output) == 0 {
		c.Output = 0
	}
	if len(l.Spend) == 0 {
		c.Spend = 0
	}
	return c
}

// Charge returns the charge for a call of cost c: its units that l limits. Where tokens
// are limited and c has none, they are its input and its output. Where input or output
// is limited and c has tokens alone, the division is unknown, which is an error.
func (l *Limits) Charge(c Cost) (Cost, error) {
	if c.Input|c.Output == 0 {
		if c.Tokens != 0 && len(l.Input)+len(l.Output) > 0 {
			return Cost{}, l.undivided(c)
		}
	} else if c.Tokens == 0 {
		c.Tokens = saturated(c.Input, c.Output)
	}
	return l.Limited(c), nil
}

// saturated returns a + b, at most the largest int64: a cost that large must not pass for a
// negative one.
func saturated(a, b int64) int64 {
	if a > 0 && b > math.MaxInt64-a {
		return math.MaxInt64
	}
	return a + b
}

func (l *Limits) undivided(c Cost) error {
	missing := Input
	if len(l.Input) == 0 {
		missing = Output
	}
	return fmt.Errorf("cost of %v without %v, which is limited: want input and output tokens apart", c, missing)
}

// Fits returns an error that wraps [ErrCostExceedsBurst] and names both numbers if c
// is above the burst of l in a unit that l limits: no wait is long enough for such a
// cost. Call Fits before [Cost.Check], which refuses a cost above [MaxUnits] for its
// size alone. A negative cost is an error of Check, not of Fits.
func (l Limits) Fits(c Cost) error {
	if c.IsNegative() {
		return nil
	}
	burst := l.Burst()
	for u := range NumUnits {
		if n, most := c.Of(u), burst.Of(u); n > most && len(l.Of(u)) > 0 {
			return fmt.Errorf("%w: %s asked, at most %s fit in %q", ErrCostExceedsBurst, u.Amount(n), u.number(most), l.Of(u).text(u))
		}
	}
	return nil
}

// each calls f for each rate with its unit and its index, counting from i, and
// returns the index after the last.
func (l *Limits) each(i int, f func(i int, u Unit, r *Rate)) int {
	for u := range NumUnits {
		rs := *l.at(u)
		for k := range rs {
			f(i, u, &rs[k])
			i++
		}
	}
	return i
}

// tokenBuckets is each for the token buckets, which keep their indexes.
func (l *Limits) tokenBuckets(i int, f func(i int, u Unit, r *Rate)) int {
	for u := range NumUnits {
		rs := *l.at(u)
		for k := range rs {
			if rs[k].Kind == TokenBucket {
				f(i, u, &rs[k])
			}
			i++
		}
	}
	return i
}

// tokenBucketsOnly reports whether l has no other kind of rate.
func (l *Limits) tokenBucketsOnly() bool {
	for u := range NumUnits {
		rs := *l.at(u)
		for k := range rs {
			if rs[k].Kind != TokenBucket {
				return false
			}
		}
	}
	return true
}

// String returns the form that [ParseLimits] reads.
func (l Limits) String() string {
	var clauses []string
	for u := range NumUnits {
		if rs := l.Of(u); len(rs) > 0 {
			clauses = append(clauses, u.String()+" "+rs.text(u))
		}
	}
	return strings.Join(clauses, "; ")
}

// MarshalText implements [encoding.TextMarshaler].
func (l Limits) MarshalText() ([]byte, error) { return []byte(l.String()), l.Check() }

// UnmarshalText implements [encoding.TextUnmarshaler] by [ParseLimits].
func (l *Limits) UnmarshalText(b []byte) error {
	m, err := ParseLimits(string(b))
	if err == nil {
		*l = m
	}
	return err
}
