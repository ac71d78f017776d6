package bucket

import (
	"fmt"
	"slices"
)

// Unit is one of the kinds of units that the limits of a key count. Providers count
// tokens in one of two ways: input and output together, or apart. A key limits those
// units that its provider limits.
type Unit uint8

// The units, in the order in which a bucket keeps their rates.
const (
	Requests Unit = iota // API calls
	Tokens               // LLM tokens, input and output together
	Input                // LLM tokens of prompts
	Output               // LLM tokens of replies
	Spend                // money, in millionths of a dollar

	NumUnits // how many units there are
)

var unitNames = [NumUnits]string{"requests", "tokens", "input", "output", "spend"}

// String returns the name of u in texts, such as "requests".
func (u Unit) String() string {
	if u >= NumUnits {
		return fmt.Sprintf("unit %d", uint8(u))
	}
	return unitNames[u]
}

// ParseUnit returns the unit of a name, such as "requests". The error names the
// given and the accepted names.
func ParseUnit(name string) (Unit, error) {
	if i := slices.Index(unitNames[:], name); i >= 0 {
		return Unit(i), nil
	}
	return 0, fmt.Errorf("unit %.32q: want requests, tokens, input, output or spend", name)
}
