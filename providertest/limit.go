package providertest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Unit is a unit in which providers state limits.
type Unit int

const (
	Requests Unit = iota // calls
	Tokens               // input and output together
	Input                // tokens of the prompt
	Output               // tokens of the reply
	InFlight             // calls under way
	numUnits
)

var unitNames = [numUnits]string{"requests", "tokens", "input", "output", "in-flight"}

func (u Unit) String() string {
	if u < 0 || u >= numUnits {
		return "Unit(" + strconv.Itoa(int(u)) + ")"
	}
	return unitNames[u]
}

const (
	maxN      = 1_000_000_000_000
	maxTokens = 10_000_000 // of one call
	maxPer    = 366 * 24 * time.Hour
)

// A limit is at most n units per time, as the provider states it.
type limit struct {
	n     int64
	per   time.Duration // 0: n at a time, for calls in flight
	burst int64         // of a token bucket; n unless stated
}

var perUnits = []struct {
	name string
	per  time.Duration
}{{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}}

func (l limit) String() string {
	text := itoa(l.n)
	if l.per == 0 {
		return text
	}
	text += "/" + formatPer(l.per)
	if l.burst != l.n {
		text += " burst " + itoa(l.burst)
	}
	return text
}

func formatPer(per time.Duration) string {
	for _, u := range perUnits {
		switch {
		case per == u.per:
			return u.name
		case per%u.per == 0:
			return itoa(int64(per/u.per)) + u.name
		}
	}
	return per.String()
}

// parseLimits reads the limits on a unit: "500/m", or several, "500/m, 10000/d".
func parseLimits(u Unit, text string, bursts bool) (limits []limit, err error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	parts := strings.Split(text, ",")
	if len(parts) > 1 && slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(p, "/") }) {
		return nil, fmt.Errorf("%s %q: want digits without separators, such as 100000/m, and a comma only between limits", u, text)
	}
	for _, part := range parts {
		l, err := parseLimit(u, strings.TrimSpace(part), bursts)
		if err != nil {
			return nil, fmt.Errorf("%s %q: %w", u, text, err)
		}
		limits = append(limits, l)
	}
	return limits, nil
}

func parseLimit(u Unit, text string, bursts bool) (l limit, err error) {
	if u == InFlight {
		if l.n, err = parseN(text); err != nil {
			return limit{}, err
		}
		l.burst = l.n
		return l, nil
	}
	count, rest, found := strings.Cut(text, "/")
	if !found {
		return limit{}, fmt.Errorf("no window: want units per time, such as %s/m; the time is s, m, h, d, or a number of them, such as 10s", text)
	}
	if l.n, err = parseN(strings.TrimSpace(count)); err != nil {
		return limit{}, err
	}
	per, burst, stated := strings.Cut(rest, " burst ")
	if l.per, err = parsePer(strings.TrimSpace(per)); err != nil {
		return limit{}, err
	}
	l.burst = l.n
	if stated {
		if !bursts {
			return limit{}, fmt.Errorf("burst %q: want no burst, only token buckets have one", strings.TrimSpace(burst))
		}
		if l.burst, err = parseN(strings.TrimSpace(burst)); err != nil {
			return limit{}, fmt.Errorf("burst %w", err)
		}
	}
	return l, nil
}

func parseN(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > maxN {
		return 0, fmt.Errorf("%q units: want a whole number from 1 to %d", text, int64(maxN))
	}
	return n, nil
}

func parsePer(text string) (time.Duration, error) {
	for _, u := range perUnits {
		digits, found := strings.CutSuffix(text, u.name)
		if !found {
			continue
		}
		k, err := int64(1), error(nil)
		if digits != "" {
			k, err = strconv.ParseInt(digits, 10, 64)
		}
		if err == nil && k >= 1 && k <= int64(maxPer/u.per) {
			return time.Duration(k) * u.per, nil
		}
	}
	return 0, fmt.Errorf("time %q: want s, m, h or d, or a number of them up to 366d, such as 10s", text)
}
