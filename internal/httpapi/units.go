package httpapi

import (
	"encoding/json"
	"fmt"

	"github.com/choked/choked/bucket"
)

// Limits are [bucket.Limits] as the text that [bucket.ParseLimits] reads.
type Limits bucket.Limits

// MarshalJSON implements [json.Marshaler].
func (l Limits) MarshalJSON() ([]byte, error) { return json.Marshal(bucket.Limits(l).String()) }

// UnmarshalJSON implements [json.Unmarshaler].
func (l *Limits) UnmarshalJSON(b []byte) error {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return fmt.Errorf(`limits %.80q: want a string such as "requests 50/s; tokens 100000/m"`, b)
	}
	parsed, err := bucket.ParseLimits(text)
	*l = Limits(parsed)
	return err
}

// Level is the level of a bucket in each unit that it limits. A unit without a limit
// is left out: its level is a number that many languages cannot represent.
type Level bucket.Cost

// MarshalJSON implements [json.Marshaler].
func (l Level) MarshalJSON() ([]byte, error) {
	units := make(map[string]int64)
	for u := range bucket.NumUnits {
		if n := bucket.Cost(l).Of(u); n <= bucket.MaxUnits {
			units[u.String()] = n
		}
	}
	return json.Marshal(units)
}

// UnmarshalJSON implements [json.Unmarshaler].
func (l *Level) UnmarshalJSON(b []byte) error {
	units := make(map[string]int64)
	if err := json.Unmarshal(b, &units); err != nil {
		return fmt.Errorf("level %.80q: want an object with a number for each unit", b)
	}
	c := bucket.Limits{}.Burst() // the level of units without a limit
	for name, n := range units {
		u, err := bucket.ParseUnit(name)
		if err != nil {
			return fmt.Errorf("level: %w", err)
		}
		c = c.With(u, n)
	}
	*l = Level(c)
	return nil
}

// CostCharged returns what a call of cost c is charged under l, or an error that says
// why it cannot be admitted. A cost above the burst is [bucket.ErrCostExceedsBurst],
// however large it is. [bucket.Cost.Check] in contrast refuses any cost above
// [bucket.MaxUnits] as invalid.
func CostCharged(l bucket.Limits, c bucket.Cost) (bucket.Cost, error) {
	if c.IsNegative() {
		return c, fmt.Errorf("cost of %v: want 0 or more of each", c)
	}
	charged, err := l.Charge(c)
	if err != nil {
		return c, err
	}
	return charged, l.Fits(charged)
}
