package bucket

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Bounds of a rate. They keep every product of the arithmetic within 128 bits
// and every instant within an int64 of nanoseconds.
const (
	minPer  = time.Millisecond
	maxPer  = 366 * 24 * time.Hour
	maxFill = 10 * maxPer // the longest that an empty bucket may take to fill
)

const day = 24 * time.Hour

// Rate is one limit: N units are restored every Per, and at most Burst gather.
type Rate struct {
	N     int64         // units restored every Per
	Per   time.Duration // the window that N is quoted over; time.Minute for RPM and TPM
	Burst int64         // most units that the bucket can hold
}

// Check returns an error that says why r is not a usable rate, or nil.
func (r Rate) Check() error { return r.check(Requests) }

// check is Check with numbers in the form of unit u.
func (r Rate) check(u Unit) error {
	switch {
	case r.N < 1 || r.N > MaxUnits:
		return rangeError("rate", u, u.units(r.N))
	case r.Per < minPer || r.Per > maxPer:
		return perRange(windowText(r.Per))
	case r.N > int64(r.Per):
		return fmt.Errorf("rate of %s per %s: want at most %s", u.number(r.N), windowText(r.Per), mostPer(u))
	case r.Burst < 1 || r.Burst > MaxUnits:
		return rangeError("burst", u, u.units(r.Burst))
	case r.span(r.Burst) > int64(maxFill):
		return fmt.Errorf("burst of %s at %s per %s takes more than %d days to fill", u.number(r.Burst), u.number(r.N), windowText(r.Per), maxFill/day)
	}
	return nil
}

// mostPer returns the highest rate on u, one unit a nanosecond, in words.
func mostPer(u Unit) string {
	if u == Spend {
		return "$1000 a second"
	}
	return "one a nanosecond"
}

// rangeError returns the error for a rate or a burst on u that is too small or too
// large.
func rangeError(of string, u Unit, n string) error {
	return fmt.Errorf("%s of %.40s: want %s to %s", of, n, u.number(1), u.number(MaxUnits))
}

// perRange returns the error for a window that is too short or too long.
func perRange(window string) error {
	return fmt.Errorf("rate per %.32s: want %v to %d days", window, minPer, maxPer/day)
}

// refillsAs reports whether r and q are the same but for the burst.
func (r Rate) refillsAs(q Rate) bool { return r.N == q.N && r.Per == q.Per }

// span returns the time in which n ≥ 0 units are restored, rounded up: the time
// charged for units is never too short.
func (r Rate) span(n int64) int64 { return mulDivCeil(n, int64(r.Per), r.N) }

// spanDown is span rounded down: the time credited for units is never too long.
func (r Rate) spanDown(n int64) int64 { return mulDiv(n, int64(r.Per), r.N) }

// ready returns the instant at which n units are available in a bucket that will be
// full at the instant full: the time of n − Burst units later, rounded up. It is
// rounded once. Rounding the time of n and the time of Burst separately would put
// the last unit of a full bucket 1 ns ahead of now.
func (r Rate) ready(full, n int64) int64 {
	if n > r.Burst {
		return later(full, r.span(n-r.Burst))
	}
	return full - r.spanDown(r.Burst-n)
}

// Span returns the time in which n units are restored, rounded up to a nanosecond.
func (r Rate) Span(n int64) time.Duration { return time.Duration(r.span(max(n, 0))) }

// In returns how many whole units are restored in d.
func (r Rate) In(d time.Duration) int64 { return mulDiv(int64(max(d, 0)), r.N, int64(r.Per)) }

// windows are the spellings of a window; the first of each length is the canonical one.
var windows = []struct {
	name string
	per  time.Duration
}{
	{"d", day}, {"day", day}, {"days", day},
	{"h", time.Hour}, {"hour", time.Hour}, {"hours", time.Hour},
	{"m", time.Minute}, {"min", time.Minute}, {"mins", time.Minute}, {"minute", time.Minute}, {"minutes", time.Minute},
	{"s", time.Second}, {"sec", time.Second}, {"secs", time.Second}, {"second", time.Second}, {"seconds", time.Second},
	{"ms", time.Millisecond},
	{"us", time.Microsecond}, {"ns", time.Nanosecond}, // for windows that are no multiple of the others
}

// errNotARate means that a text does not have the form of a rate.
var errNotARate = errors.New("not a rate")

// ParseRate reads a rate: a count, a slash, a window, and optionally the word burst
// with a count. Burst defaults to N. A window is one or more ns, us, ms, s, m, h or d,
// as in 10s; the words sec, second, min, minute, hour and day are read as well, with
// or without an s at their end. Digits may be grouped by underscores. The error quotes
// s and says what to write instead, or what range is accepted.
func ParseRate(s string) (Rate, error) { return readRate(Requests, s) }

// readRate is ParseRate for a rate on u.
func readRate(u Unit, s string) (Rate, error) {
	r, err := parseRate(u, s)
	switch {
	case err == errNotARate && u == Spend:
		return Rate{}, notDollars(s)
	case err == errNotARate:
		return Rate{}, notARate(s)
	case err != nil:
		return Rate{}, fmt.Errorf("rate %.64q: %w", s, err)
	}
	return r, nil
}

// parseRate is readRate with errors that do not quote s.
func parseRate(u Unit, s string) (r Rate, err error) {
	rest, burst, hasBurst := strings.Cut(s, " burst ")
	count, window, ok := strings.Cut(strings.TrimSpace(rest), "/")
	if !ok {
		return Rate{}, errNotARate
	}
	if r.N, err = u.read(count); err != nil {
		return Rate{}, countError("rate", u, count, err)
	}
	if r.Per, err = parseWindow(strings.TrimSpace(window)); err != nil {
		return Rate{}, err
	}
	r.Burst = r.N
	if hasBurst {
		if r.Burst, err = u.read(burst); err != nil {
			return Rate{}, countError("burst", u, burst, err)
		}
	}
	return r, r.check(u)
}

// errRange means that a text is a whole number outside the range that is accepted.
var errRange = errors.New("out of range")

// readCount reads a count of zero or more. It returns errRange for a negative number
// and for one that does not fit in 64 bits, and errNotARate for other texts.
func readCount(s string) (int64, error) {
	s = strings.TrimSpace(s)
	digits, negative := strings.CutPrefix(s, "-")
	if strings.Trim(digits, "_") == "" || strings.Trim(digits, "0123456789_") != "" {
		return 0, errNotARate
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(digits, "_", ""), 10, 64)
	if negative || err != nil {
		return 0, errRange
	}
	return n, nil
}

// countError returns err, an error of [Unit.read], as the error of the rate or the
// burst on u that s was read for.
func countError(of string, u Unit, s string, err error) error {
	if err != errRange {
		return err
	}
	s = strings.TrimSpace(s)
	if u != Spend {
		s = s[:min(len(s), 32)] + " units"
	}
	return rangeError(of, u, s)
}

func parseWindow(s string) (time.Duration, error) {
	times, name := int64(1), s
	var err error
	if i := strings.IndexFunc(s, unicode.IsLetter); i > 0 {
		times, err = readCount(s[:i])
		name = s[i:]
	}
	for _, w := range windows {
		switch {
		case name != w.name:
			continue
		case err == errRange || err == nil && (times < 1 || times > int64(maxPer/w.per)):
			return 0, perRange(s)
		}
		return time.Duration(times) * w.per, err
	}
	return 0, errNotARate
}

// windowText returns a window in the form that [ParseRate] reads, as in 90s.
func windowText(per time.Duration) string {
	for _, w := range windows {
		if per < w.per || per%w.per != 0 {
			continue
		}
		if times := int64(per / w.per); times > 1 {
			return fmt.Sprintf("%d%s", times, w.name)
		}
		return w.name
	}
	return per.String() // zero or less
}

// String returns the form that [ParseRate] reads.
func (r Rate) String() string { return r.text(Requests) }

// text returns the form of r that is read for a rate on u.
func (r Rate) text(u Unit) string {
	s := u.number(r.N) + "/" + windowText(r.Per)
	if r.Burst != r.N {
		s += " burst " + u.number(r.Burst)
	}
	return s
}

// MarshalText implements [encoding.TextMarshaler].
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), r.Check() }

// UnmarshalText implements [encoding.TextUnmarshaler] by [ParseRate].
func (r *Rate) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRate(string(b))
	return err
}

// MaxRates is the most rates on one unit of a key.
const MaxRates = 8

// Rates are the limits on one unit; all of them hold at once. A unit without rates
// is not limited.
type Rates []Rate

// ParseRates reads rates separated by commas, as in "500/m,10000/d". An empty
// string is no rates.
func ParseRates(s string) (Rates, error) { return parseRates(Requests, s) }

// parseRates is ParseRates for rates on u.
func parseRates(u Unit, s string) (Rates, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	if err := emptyRate(s); err != nil {
		return nil, err
	}
	var rs Rates
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		r, err := readRate(u, part)
		if err != nil {
			return nil, cmp.Or(thousands(s), err)
		}
		rs = append(rs, r)
	}
	return rs, rs.check(u)
}

// Check returns an error that says why rs cannot limit a unit, or nil.
func (rs Rates) Check() error { return rs.check(Requests) }

func (rs Rates) check(u Unit) error {
	if len(rs) > MaxRates {
		return fmt.Errorf("%d rates on one unit: want at most %d", len(rs), MaxRates)
	}
	for i, r := range rs {
		if err := r.check(u); err != nil {
			return err
		}
		if slices.ContainsFunc(rs[:i], func(q Rate) bool { return q.Per == r.Per }) {
			return fmt.Errorf("rates %q: two of them are per %v", rs.text(u), r.Per)
		}
	}
	return nil
}

// String returns the form that [ParseRates] reads.
func (rs Rates) String() string { return rs.text(Requests) }

// text returns the form of rs that is read for rates on u.
func (rs Rates) text(u Unit) string {
	parts := make([]string, len(rs))
	for i, r := range rs {
		parts[i] = r.text(u)
	}
	return strings.Join(parts, ",")
}

// MarshalText implements [encoding.TextMarshaler].
func (rs Rates) MarshalText() ([]byte, error) { return []byte(rs.String()), rs.Check() }

// UnmarshalText implements [encoding.TextUnmarshaler] by [ParseRates].
func (rs *Rates) UnmarshalText(b []byte) (err error) {
	*rs, err = ParseRates(string(b))
	return err
}
