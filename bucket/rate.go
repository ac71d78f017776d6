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
func (r Rate) Check() error {
	switch {
	case r.N < 1 || r.N > MaxUnits:
		return fmt.Errorf("rate of %d units: want 1 to %d", r.N, int64(MaxUnits))
	case r.Per < minPer || r.Per > maxPer:
		return perRange(windowText(r.Per))
	case r.N > int64(r.Per):
		return fmt.Errorf("rate of %d per %s: want at most one a nanosecond", r.N, windowText(r.Per))
	case r.Burst < 1 || r.Burst > MaxUnits:
		return fmt.Errorf("burst of %d units: want 1 to %d", r.Burst, int64(MaxUnits))
	case r.span(r.Burst) > int64(maxFill):
		return fmt.Errorf("burst of %d at %d per %s takes more than %d days to fill", r.Burst, r.N, windowText(r.Per), maxFill/day)
	}
	return nil
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
func ParseRate(s string) (Rate, error) {
	r, err := parseRate(s)
	switch {
	case err == errNotARate:
		return Rate{}, notARate(s)
	case err != nil:
		return Rate{}, fmt.Errorf("rate %.64q: %w", s, err)
	}
	return r, nil
}

// parseRate is ParseRate with errors that do not quote s.
func parseRate(s string) (r Rate, err error) {
	rest, burst, hasBurst := strings.Cut(s, " burst ")
	count, window, ok := strings.Cut(strings.TrimSpace(rest), "/")
	if !ok {
		return Rate{}, errNotARate
	}
	if r.N, err = readCount(count); err != nil {
		return Rate{}, countError("rate", count, err)
	}
	if r.Per, err = parseWindow(strings.TrimSpace(window)); err != nil {
		return Rate{}, err
	}
	r.Burst = r.N
	if hasBurst {
		if r.Burst, err = readCount(burst); err != nil {
			return Rate{}, countError("burst", burst, err)
		}
	}
	return r, r.Check()
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

// countError returns err, an error of readCount, as the error of the rate or the burst
// that s was read for.
func countError(of, s string, err error) error {
	if err == errRange {
		return fmt.Errorf("%s of %.32s units: want 1 to %d", of, strings.TrimSpace(s), int64(MaxUnits))
	}
	return err
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
func (r Rate) String() string {
	s := fmt.Sprintf("%d/%s", r.N, windowText(r.Per))
	if r.Burst != r.N {
		s += fmt.Sprintf(" burst %d", r.Burst)
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
func ParseRates(s string) (Rates, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	if err := emptyRate(s); err != nil {
		return nil, err
	}
	var rs Rates
	for part := range strings.SplitSeq(s, ",") {
		part = strings.TrimSpace(part)
		r, err := ParseRate(part)
		if err != nil {
			return nil, cmp.Or(thousands(s), err)
		}
		rs = append(rs, r)
	}
	return rs, rs.Check()
}

// Check returns an error that says why rs cannot limit a unit, or nil.
func (rs Rates) Check() error {
	if len(rs) > MaxRates {
		return fmt.Errorf("%d rates on one unit: want at most %d", len(rs), MaxRates)
	}
	for i, r := range rs {
		if err := r.Check(); err != nil {
			return err
		}
		if slices.ContainsFunc(rs[:i], func(q Rate) bool { return q.Per == r.Per }) {
			return fmt.Errorf("rates %q: two of them are per %v", rs, r.Per)
		}
	}
	return nil
}

// String returns the form that [ParseRates] reads.
func (rs Rates) String() string {
	parts := make([]string, len(rs))
	for i, r := range rs {
		parts[i] = r.String()
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

// Limits are all the limits of a key. They hold together: a call is admitted only if
// every rate allows it. A Limits is shared by buckets and must not be changed once it
// is in use.
type Limits struct {
	Requests Rates `json:"requests,omitempty"` // API calls per window; none: requests are not limited
	Tokens   Rates `json:"tokens,omitempty"`   // LLM tokens per window; none: tokens are not limited
}

// ParseLimits reads the rates on requests and on tokens; either may be empty,
// not both.
func ParseLimits(requests, tokens string) (Limits, error) {
	var l Limits
	var err error
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
	if l.len() == 0 {
		return errors.New("no limits: want a rate on requests, on tokens, or on both")
	}
	if err := l.Requests.Check(); err != nil {
		return fmt.Errorf("limit on requests: %w", err)
	}
	if err := l.Tokens.Check(); err != nil {
		return fmt.Errorf("limit on tokens: %w", err)
	}
	return nil
}

// Of returns the rates on unit u.
func (l Limits) Of(u Unit) Rates {
	if u == Requests {
		return l.Requests
	}
	return l.Tokens
}

func (l *Limits) len() int { return len(l.Requests) + len(l.Tokens) }

// Equal reports whether l and m are the same rates in the same order.
func (l Limits) Equal(m Limits) bool {
	return slices.Equal(l.Requests, m.Requests) && slices.Equal(l.Tokens, m.Tokens)
}

// Burst returns the largest cost that can ever be admitted at once, in units. A unit
// that l does not limit is far above [MaxUnits].
func (l Limits) Burst() Cost {
	c := unlimited
	for u := range Tokens + 1 {
		for _, r := range l.Of(u) {
			c = c.with(u, min(c.Of(u), r.Burst))
		}
	}
	return c
}

// In returns how many whole units of each kind are restored in d: at most a burst,
// and zero of a kind that l does not limit.
func (l Limits) In(d time.Duration) Cost {
	c := l.Burst()
	for u := range Tokens + 1 {
		for _, r := range l.Of(u) {
			c = c.with(u, min(c.Of(u), r.In(d)))
		}
	}
	return l.Limited(c)
}

// Limited returns c without the units that l does not limit.
func (l Limits) Limited(c Cost) Cost {
	if len(l.Requests) == 0 {
		c.Requests = 0
	}
	if len(l.Tokens) == 0 {
		c.Tokens = 0
	}
	return c
}

// Fits returns an error that wraps [ErrCostExceedsBurst] and names both numbers if c
// is above the burst of l in a unit that l limits: no wait is long enough for such a
// cost. Call Fits before [Cost.Check], which refuses a cost above [MaxUnits] for its
// size alone. A negative cost is an error of Check, not of Fits.
func (l Limits) Fits(c Cost) error {
	if !c.Covers(Cost{}) {
		return nil
	}
	burst := l.Burst()
	for u := range Tokens + 1 {
		if n := c.Of(u); n > burst.Of(u) && len(l.Of(u)) > 0 {
			return fmt.Errorf("%w: %d %s asked, at most %d fit in %q", ErrCostExceedsBurst, n, u, burst.Of(u), l.Of(u))
		}
	}
	return nil
}

// String returns l in the form "requests 50/s; tokens 100000/m".
func (l Limits) String() string {
	var parts []string
	for u := range Tokens + 1 {
		if rs := l.Of(u); len(rs) > 0 {
			parts = append(parts, u.String()+" "+rs.String())
		}
	}
	return strings.Join(parts, "; ")
}

// MarshalText implements [encoding.TextMarshaler].
func (l Limits) MarshalText() ([]byte, error) { return []byte(l.String()), l.Check() }

// UnmarshalText implements [encoding.TextUnmarshaler]; it reads what
// [Limits.String] returns.
func (l *Limits) UnmarshalText(b []byte) error {
	var requests, tokens string
	for part := range strings.SplitSeq(string(b), ";") {
		part = strings.TrimSpace(part)
		if rs, ok := strings.CutPrefix(part, "requests "); ok && requests == "" {
			requests = rs
		} else if rs, ok := strings.CutPrefix(part, "tokens "); ok && tokens == "" {
			tokens = rs
		} else {
			return fmt.Errorf(`limits %.64q: want "requests 50/s; tokens 100000/m"`, b)
		}
	}
	m, err := ParseLimits(requests, tokens)
	if err == nil {
		*l = m
	}
	return err
}
