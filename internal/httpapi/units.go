package httpapi

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/choked/choked/bucket"
)

// unitName returns the name of u for amounts that are numbers. Texts have dollars for
// spend: under the same name, a number of dollars would be charged a millionth.
func unitName(u bucket.Unit) string {
	if u == bucket.Spend {
		return "spend_microdollars"
	}
	return u.String()
}

// unitOf returns the unit of a name by unitName.
func unitOf(name string) (bucket.Unit, error) {
	var names []string
	for u := range bucket.NumUnits {
		if unitName(u) == name {
			return u, nil
		}
		names = append(names, unitName(u))
	}
	return 0, fmt.Errorf("unit %.32q: want one of %q", name, names)
}

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
			units[unitName(u)] = n
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
		u, err := unitOf(name)
		if err != nil {
			return fmt.Errorf("level: %w", err)
		}
		c = c.With(u, n)
	}
	*l = Level(c)
	return nil
}

// ParseCost reads the cost of a call as [bucket.ParseCost] does. A call is one request
// unless the text names another number.
func ParseCost(text string) (bucket.Cost, error) {
	c, err := bucket.ParseCost(text)
	if err == nil && !strings.Contains(text, bucket.Requests.String()) {
		c.Requests = 1
	}
	return c, err
}

// CostCharged returns the charge for a call of cost c under l, or an error that says
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
