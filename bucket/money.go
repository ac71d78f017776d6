package bucket

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// dollar is the unit of [Spend] in which people write and read it.
const dollar = 1_000_000

// dollarText is an amount of money of up to six decimals, with optional underscores.
var dollarText = regexp.MustCompile(`^(-?)\$([0-9_]*[0-9][0-9_]*)(?:\.([0-9]{1,6}))?$`)

// readDollars reads an amount such as $50 or $0.000001, in millionths of a dollar.
// Its errors are those of readCount.
func readDollars(s string) (int64, error) {
	m := dollarText.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return 0, errNotARate
	}
	fraction := (m[3] + "000000")[:6]
	n, err := strconv.ParseInt(strings.ReplaceAll(m[2], "_", "")+fraction, 10, 64)
	if m[1] != "" || err != nil {
		return 0, errRange
	}
	return n, nil
}

// notDollars returns the error for s, which does not have the form of a rate on spend.
func notDollars(s string) error {
	return fmt.Errorf(`rate %.64q: want dollars with at most 6 decimals and a window, as in "$50/d" or "$0.5/m burst $2"`, s)
}

// number returns n in the form in which a rate or a cost on u is written: a count, or
// dollars.
func (u Unit) number(n int64) string {
	if u != Spend {
		return strconv.FormatInt(n, 10)
	}
	sign := ""
	if n < 0 {
		sign, n = "-", -n
	}
	s := fmt.Sprintf("%s$%d.%06d", sign, n/dollar, n%dollar)
	return strings.TrimSuffix(strings.TrimRight(s, "0"), ".")
}

// Amount returns n units of kind u with their name, as in "200 input tokens" or
// "$0.05".
func (u Unit) Amount(n int64) string {
	switch s := u.number(n); u {
	case Input, Output:
		return s + " " + u.String() + " tokens"
	case Spend:
		return s
	default:
		return s + " " + u.String()
	}
}

// ParseAmount reads a count of units, or an amount of dollars such as $0.05 where u
// is [Spend], of 0 or more. The error names s and the accepted form. An amount above
// [MaxUnits] is read, so that [Limits.Fits] can say that it exceeds a burst.
func (u Unit) ParseAmount(s string) (int64, error) {
	n, err := u.read(s)
	if err == nil {
		return n, nil
	}
	want := "a whole number from 0 to " + u.number(MaxUnits)
	if u == Spend {
		want = "dollars with at most 6 decimals, from $0 to " + u.number(MaxUnits)
	}
	return 0, fmt.Errorf("%v of %.32q: want %s", u, s, want)
}

// read reads a number in the form of [Unit.number].
func (u Unit) read(s string) (int64, error) {
	if u == Spend {
		return readDollars(s)
	}
	return readCount(s)
}

// units returns n with the word that errors of rates on u use.
func (u Unit) units(n int64) string {
	if u == Spend {
		return u.number(n)
	}
	return u.number(n) + " units"
}

// ParseCost reads the cost of a call, as in "requests 1; input 900; output 300" or
// "spend $0.05". An empty string is no cost. The error names the part that cannot be read.
func ParseCost(s string) (c Cost, err error) {
	if strings.TrimSpace(s) == "" {
		return c, nil
	}
	given := [NumUnits]bool{}
	for clause := range strings.SplitSeq(s, ";") {
		name, amount, _ := strings.Cut(strings.TrimSpace(clause), " ")
		u, err := ParseUnit(name)
		if err == nil && given[u] {
			err = errors.New(name + " twice")
		}
		if err != nil {
			return Cost{}, fmt.Errorf(`cost %.200q: %w, as in "requests 1; tokens 200"`, s, err)
		}
		given[u] = true
		n, err := u.ParseAmount(amount)
		if err != nil {
			return Cost{}, fmt.Errorf("cost %.200q: %w", s, err)
		}
		c = c.With(u, n)
	}
	return c, nil
}

// Text returns c in the form that [ParseCost] reads.
func (c Cost) Text() string {
	var clauses []string
	for u := range NumUnits {
		if n := c.Of(u); n != 0 {
			clauses = append(clauses, u.String()+" "+u.number(n))
		}
	}
	return strings.Join(clauses, "; ")
}
