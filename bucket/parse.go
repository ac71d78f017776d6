package bucket

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
)

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

// periods are the spellings of the period of a calendar; the first of each is the
// canonical one.
var periods = []struct {
	name  string
	every Period
}{{"d", Daily}, {"day", Daily}, {"week", Weekly}, {"month", Monthly}}

// ParseRate reads a rate of any kind:
//
//	100/s                             a token bucket: 100 units are restored every second
//	100/s burst 20                    the same, which holds at most 20 units
//	500/m window                      at most 500 in every minute
//	500/m window pace 50              the same, with at most 50 at once; without a number a tenth
//	10000/d reset America/Los_Angeles at most 10000 a day, which begins at midnight there
//	1000/week reset Europe/Berlin     which begins on Monday
//	20000/month reset UTC
//
// Burst defaults to N. A time is one or more ns, us, ms, s, m, h or d, as in 10s; the
// words sec, second, min, minute, hour and day are read as well, with or without an s
// at their end. Digits may be grouped by underscores. The error quotes s and says what
// to write instead, or what range is accepted.
func ParseRate(s string) (Rate, error) { return readRate(Requests, s) }

// readRate is ParseRate for a rate on u.
func readRate(u Unit, s string) (Rate, error) {
	r, err := parseRate(u, s)
	switch {
	case err == errNotARate && u == Spend:
		return Rate{}, notDollars(s)
	case err == errNotARate:
		return Rate{}, notARate(s)
	case errors.Is(err, errUnknownKind) && suggestion(s) != nil:
		return Rate{}, suggestion(s)
	case err != nil:
		return Rate{}, fmt.Errorf("rate %.64q: %w", s, err)
	}
	return r, nil
}

// errUnknownKind means that a word follows a rate that names no kind of rate.
var errUnknownKind = errors.New("unknown kind")

// parseRate is readRate with errors that do not quote s.
func parseRate(u Unit, s string) (r Rate, err error) {
	count, rest, ok := strings.Cut(s, "/")
	if !ok {
		return Rate{}, errNotARate
	}
	per, words := splitKind(rest)
	if r.N, err = u.read(count); err != nil {
		return Rate{}, countError("rate", u, count, err)
	}
	switch kind := append(words, "burst")[0]; {
	case kind == "burst" && !hasKind(words):
		err = r.readBucket(u, per, words)
	case kind == "window":
		err = r.readWindow(u, per, words[1:])
	case kind == "reset":
		err = r.readReset(u, per, strings.Join(words[1:], " "))
	case kind == "burst":
		err = fmt.Errorf("only a token bucket has a burst: write %s/%.16s %.32s", u.number(r.N), per, strings.Join(words[min(len(words)-1, 2):], " "))
	case kind == "pace":
		err = fmt.Errorf("only a window has a pace: write %s/%.16s window %.32s", u.number(r.N), per, strings.Join(words, " "))
	default:
		if _, err = parseWindow(per); err == nil {
			err = fmt.Errorf(`%w %.32q: want "burst 20", "window" or "reset America/Los_Angeles"`, errUnknownKind, kind)
		}
	}
	if err != nil {
		return Rate{}, err
	}
	return r, r.check(u)
}

// splitKind splits the text after the slash into the time and the words after it.
func splitKind(s string) (per string, words []string) {
	words = strings.Fields(s)
	times := len(words) > 1 && strings.Trim(words[0], "0123456789_") == ""
	switch {
	case times: // 10 minutes
		return words[0] + words[1], words[2:]
	case len(words) > 0:
		return words[0], words[1:]
	}
	return "", nil
}

func hasKind(words []string) bool {
	for _, w := range words {
		if w == "window" || w == "reset" || w == "pace" {
			return true
		}
	}
	return false
}

// readBucket reads the time of a token bucket and the words after it.
func (r *Rate) readBucket(u Unit, per string, words []string) (err error) {
	if r.Per, err = parseWindow(per); err != nil {
		return err
	}
	r.Burst = r.N
	if len(words) > 0 {
		burst := strings.Join(words[1:], " ")
		if r.Burst, err = u.read(burst); err != nil {
			return countError("burst", u, burst, err)
		}
	}
	return nil
}

// readWindow reads the time of a window and the words after "window".
func (r *Rate) readWindow(u Unit, per string, words []string) (err error) {
	r.Kind = Window
	for _, p := range periods {
		if n := u.number(r.N); per == p.name && p.every != Daily {
			return fmt.Errorf("a window cannot be a %s: write the number of days, as in %s/7d window, or a reset, as in %s/%s reset UTC", per, n, n, per)
		}
	}
	if r.Per, err = parseWindow(per); err != nil {
		return err
	}
	switch {
	case len(words) == 0:
		return nil
	case words[0] != "pace" || len(words) > 2:
		return fmt.Errorf(`%.32q after window: want nothing or "pace %s"`, strings.Join(words, " "), u.number(50))
	case len(words) == 1:
		r.Pace = defaultPace(r.N)
		return nil
	}
	r.Pace, err = u.read(words[1])
	switch {
	case err == errNotARate:
		return fmt.Errorf(`pace %.32q: want a number of units, as in "pace %s"`, words[1], u.number(50))
	case err == errRange || r.Pace < 1:
		return paceRange(u, unitsText(u, words[1]), r.N)
	}
	return nil
}

// readReset reads the period of a calendar and its time zone.
func (r *Rate) readReset(u Unit, per, zone string) error {
	r.Kind = Calendar
	for _, p := range periods {
		if per != p.name {
			continue
		}
		r.Every, r.Zone = p.every, zone
		if zone == "" {
			return fmt.Errorf("reset without a time zone: write %s/%s reset UTC, or the provider's zone", u.number(r.N), per)
		}
		return nil
	}
	return fmt.Errorf("reset each %.32s: want d, week or month; for other times write window", per)
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
	return rangeError(of, u, unitsText(u, s))
}

// unitsText returns a number on u as it was written, with the word that errors use.
func unitsText(u Unit, s string) string {
	s = strings.TrimSpace(s)
	if u == Spend {
		return s
	}
	return s[:min(len(s), 32)] + " units"
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

// text returns the form of r that is read for a rate on u.
func (r *Rate) text(u Unit) string {
	s := u.number(r.N) + "/" + r.quotedOver()
	switch {
	case r.Kind == TokenBucket && r.Burst != r.N:
		s += " burst " + u.number(r.Burst)
	case r.Kind == Window:
		s += " window"
		if r.Pace != 0 {
			s += " pace " + u.number(r.Pace)
		}
	case r.Kind == Calendar:
		s += " reset " + r.Zone
	}
	return s
}

// quotedOver returns the text of the time that N is quoted over.
func (r *Rate) quotedOver() string {
	if r.Kind == Calendar {
		return r.Every.String()
	}
	return windowText(r.Per)
}

// quoted returns what Rates.Check says of two rates that are quoted over the same time.
func (r *Rate) quoted() string {
	switch r.Kind {
	case Window:
		return fmt.Sprintf("windows per %v", r.Per)
	case Calendar:
		return fmt.Sprintf("per %v with a reset in %s", r.Every, r.Zone)
	}
	return fmt.Sprintf("per %v", r.Per)
}
