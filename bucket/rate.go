package bucket

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Bounds of a rate. They keep every product of the arithmetic within 128 bits
// and every instant within an int64 of nanoseconds.
const (
	minPer  = time.Millisecond
	maxPer  = 366 * 24 * time.Hour
	maxFill = 10 * maxPer // the longest that an empty bucket may take to fill
)

const day = 24 * time.Hour

// Kind is the kind of limit that a [Rate] sets.
type Kind uint8

const (
	// TokenBucket admits at most Burst + N/Per·W units in every stretch of time W.
	TokenBucket Kind = iota

	// Window admits at most N units in every stretch of Per, wherever it begins.
	Window

	// Calendar admits at most N units between one reset of a calendar and the next.
	Calendar
)

// String returns the name of k in errors, such as "token bucket".
func (k Kind) String() string {
	switch k {
	case TokenBucket:
		return "token bucket"
	case Window:
		return "window"
	case Calendar:
		return "calendar"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// Rate is one limit. The zero Kind is a token bucket: N units are restored every Per,
// and at most Burst gather. The fields that the other kinds do not have are zero.
type Rate struct {
	N     int64         // units: restored every Per, admitted in every Per, or admitted between two resets
	Per   time.Duration // of a token bucket and a window: the time that N is quoted over; time.Minute for RPM and TPM
	Burst int64         // of a token bucket: most units that it can hold

	// Pace, if positive, is the burst of a pace beside a window: a token bucket that is
	// refilled at N/Per and spreads the grants over Per. It is no limit. A call above
	// the burst is granted when the pace is full.
	Pace int64

	Zone  string // of a calendar: a name of the IANA time zone database
	Every Period // of a calendar: the time from one reset to the next
	Kind  Kind
}

// Check returns an error that says why r is not a usable rate, or nil.
func (r Rate) Check() error { return r.check(Requests) }

// check is Check with numbers in the form of unit u.
func (r *Rate) check(u Unit) error {
	if r.N < 1 || r.N > MaxUnits {
		return rangeError("rate", u, u.units(r.N))
	}
	if field := r.stray(); field != "" {
		return fmt.Errorf("a %v with a %s: want none", r.Kind, field)
	}
	switch r.Kind {
	case TokenBucket:
		return r.checkBucket(u, r.Burst)
	case Window:
		return r.checkWindow(u)
	case Calendar:
		if r.Every > Monthly {
			return fmt.Errorf("calendar of %v: want Daily, Weekly or Monthly", r.Every)
		}
		_, err := loadZone(r.Zone)
		return err
	}
	return fmt.Errorf("rate of %v: want a token bucket, a window or a calendar", r.Kind)
}

// stray returns the name of a field that is set and that the kind of r does not have,
// or "".
func (r *Rate) stray() string {
	switch {
	case r.Burst != 0 && r.Kind != TokenBucket:
		return "burst"
	case r.Pace != 0 && r.Kind != Window:
		return "pace"
	case r.Zone != "" && r.Kind != Calendar:
		return "time zone"
	case r.Every != 0 && r.Kind != Calendar:
		return "period"
	case r.Per != 0 && r.Kind == Calendar:
		return "time beside its period"
	}
	return ""
}

// checkBucket checks the token bucket of a rate or of its pace, with such a burst.
func (r *Rate) checkBucket(u Unit, burst int64) error {
	switch {
	case r.Per < minPer || r.Per > maxPer:
		return perRange(windowText(r.Per))
	case r.N > int64(r.Per):
		return fmt.Errorf("rate of %s per %s: want at most %s", u.number(r.N), windowText(r.Per), mostPer(u))
	case burst < 1 || burst > MaxUnits:
		return rangeError("burst", u, u.units(burst))
	case r.span(burst) > int64(maxFill):
		return fmt.Errorf("burst of %s at %s per %s takes more than %d days to fill", u.number(burst), u.number(r.N), windowText(r.Per), maxFill/day)
	}
	return nil
}

func (r *Rate) checkWindow(u Unit) error {
	switch {
	case r.Per < minPer || r.Per > maxPer:
		return perRange(windowText(r.Per))
	case r.Pace == 0:
		return nil
	case r.Pace < 0 || r.Pace > r.N:
		return paceRange(u, u.units(r.Pace), r.N)
	}
	return r.checkBucket(u, r.Pace)
}

// paceRange returns the error for the burst of a pace that is too small or too large.
func paceRange(u Unit, pace string, n int64) error {
	return fmt.Errorf("pace of %.40s: want %s to %s", pace, u.number(1), u.number(n))
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

// refillsAs reports whether r and q are the same but for the burst or the pace.
func (r *Rate) refillsAs(q *Rate) bool {
	return r.N == q.N && r.Per == q.Per && r.Kind == q.Kind && r.Every == q.Every && r.Zone == q.Zone
}

// samePeriod reports whether r and q are of one kind and quoted over the same time.
func (r *Rate) samePeriod(q *Rate) bool {
	return r.Per == q.Per && r.Kind == q.Kind && r.Every == q.Every && r.Zone == q.Zone
}

// Most returns the most units that r can ever admit at once: the burst of a token
// bucket, N of a window and of a calendar.
func (r *Rate) Most() int64 {
	if r.Kind == TokenBucket {
		return r.Burst
	}
	return r.N
}

// length returns the time that N is quoted over, of a calendar the shortest or nearly so.
func (r *Rate) length() time.Duration {
	if r.Kind == Calendar {
		return r.Every.nominal()
	}
	return r.Per
}

// span returns the time in which n ≥ 0 units are restored, rounded up: the time
// charged for units is never too short.
func (r *Rate) span(n int64) int64 { return mulDivCeil(n, int64(r.Per), r.N) }

// spanDown is span rounded down: the time credited for units is never too long.
func (r *Rate) spanDown(n int64) int64 { return mulDiv(n, int64(r.Per), r.N) }

// ready returns the instant at which n units are available in a bucket that will be
// full at the instant full: the time of n − Burst units later, rounded up. It is
// rounded once. Rounding the time of n and the time of Burst separately would put
// the last unit of a full bucket 1 ns ahead of now.
func (r *Rate) ready(full, n int64) int64 {
	if n > r.Burst {
		return later(full, r.span(n-r.Burst))
	}
	return full - r.spanDown(r.Burst-n)
}

// Span returns the time in which n units are restored, rounded up to a nanosecond. Under
// a window and a calendar it is the time in which they are admitted on average.
func (r Rate) Span(n int64) time.Duration {
	return time.Duration(mulDivCeil(max(n, 0), int64(r.length()), r.N))
}

// In returns how many whole units are restored in d, or admitted on average.
func (r Rate) In(d time.Duration) int64 { return mulDiv(int64(max(d, 0)), r.N, int64(r.length())) }

// String returns the form that [ParseRate] reads.
func (r Rate) String() string { return r.text(Requests) }

// MarshalText implements [encoding.TextMarshaler].
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), r.Check() }

// UnmarshalText implements [encoding.TextUnmarshaler] by [ParseRate].
func (r *Rate) UnmarshalText(b []byte) (err error) {
	*r, err = ParseRate(string(b))
	return err
}

// MaxRates is the most rates on one unit of a key.
const MaxRates = 8

// Rates are the limits on one unit; all of them hold at once. Two rates of one kind are
// quoted over different times. A unit without rates is not limited.
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
	for i := range rs {
		r := &rs[i]
		if err := r.check(u); err != nil {
			return err
		}
		if slices.ContainsFunc(rs[:i], func(q Rate) bool { return q.samePeriod(r) }) {
			return fmt.Errorf("rates %q: two of them are %s", rs.text(u), r.quoted())
		}
	}
	return nil
}

// String returns the form that [ParseRates] reads.
func (rs Rates) String() string { return rs.text(Requests) }

// text returns the form of rs that is read for rates on u.
func (rs Rates) text(u Unit) string {
	parts := make([]string, len(rs))
	for i := range rs {
		parts[i] = rs[i].text(u)
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
