package bucket

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Forms of a rate that people write and [ParseRate] does not read. Its error says what
// to write instead.
var (
	decimal   = regexp.MustCompile(`^([0-9_]{0,15})(?:\.([0-9]{1,9}))?([kKM]?)$`)
	perUnit   = regexp.MustCompile(`^([0-9_.]+[kKM]?) ?[rtRT][pP]([smhdSMHD])$`) // rpm, tpm, rps, rpd, …
	anyWindow = regexp.MustCompile(`^([0-9_]{0,15}) ?([A-Za-z]+)$`)
	thousand  = regexp.MustCompile(`^[0-9]{3}([^0-9]|$)`)
)

// otherWindows are words for a window that ParseRate does not read, each with the
// equal number of windows that it reads.
var otherWindows = map[string]struct {
	times int64
	name  string
}{
	"seconds": {1, "s"}, "secs": {1, "s"},
	"minutes": {1, "m"}, "mins": {1, "m"},
	"hours": {1, "h"}, "hr": {1, "h"}, "hrs": {1, "h"},
	"days": {1, "d"}, "week": {7, "d"}, "weeks": {7, "d"}, "w": {7, "d"},
}

// suggest returns the rates in s in the spelling that ParseRates reads, or "" if
// their meaning is not clear.
func suggest(s string) string {
	parts := strings.Split(s, ",")
	for i, part := range parts {
		part = strings.TrimSpace(part)
		if _, err := parseRate(part); err != nil {
			if parts[i] = suggestRate(part); parts[i] == "" {
				return ""
			}
		}
	}
	return strings.Join(parts, ",")
}

// suggestRate is suggest for one rate that ParseRate does not read.
func suggestRate(s string) string {
	rest, burst, hasBurst := strings.Cut(s, " burst ")
	if m := perUnit.FindStringSubmatch(rest); m != nil {
		rest = m[1] + "/" + strings.ToLower(m[2])
	}
	count, window, _ := strings.Cut(rest, "/")
	n, of, ok := parseDecimal(count)
	if !ok {
		return ""
	}
	times, name, ok := splitWindow(strings.TrimSpace(window))
	if !ok || times > int64(maxPer)/of {
		return ""
	}
	text := fmt.Sprintf("%d/%s", n, name)
	if times *= of; times > 1 {
		text = fmt.Sprintf("%d/%d%s", n, times, name)
	}
	if hasBurst {
		n, of, ok := parseDecimal(burst)
		if !ok || of != 1 { // no whole number of units
			return ""
		}
		text += fmt.Sprintf(" burst %d", n)
	}
	if _, err := parseRate(text); err != nil {
		return ""
	}
	return text
}

// parseDecimal reads a count such as 1.5, 100k or 1.5M as n/of in lowest terms.
func parseDecimal(s string) (n, of int64, ok bool) {
	m := decimal.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil {
		return 0, 0, false
	}
	n, err := strconv.ParseInt(strings.ReplaceAll(m[1], "_", "")+m[2], 10, 64)
	if err != nil {
		return 0, 0, false
	}
	of = 1
	for range m[2] {
		of *= 10
	}
	factor := map[string]int64{"": 1, "k": 1e3, "K": 1e3, "M": 1e6}[m[3]]
	for _, p := range []int64{2, 5} { // the prime factors of ten
		for of%p == 0 && factor%p == 0 {
			of, factor = of/p, factor/p
		}
		for of%p == 0 && n%p == 0 {
			of, n = of/p, n/p
		}
	}
	if n > MaxUnits {
		return 0, 0, false
	}
	return n * factor, of, true
}

// splitWindow reads a window as a number of windows that ParseRate reads.
func splitWindow(s string) (times int64, name string, ok bool) {
	m := anyWindow.FindStringSubmatch(s)
	if m == nil {
		return 0, "", false
	}
	times = 1
	if m[1] != "" {
		if times, ok = parseCount(m[1]); !ok || times < 1 {
			return 0, "", false
		}
	}
	name = m[2]
	if len(name) > 1 {
		name = strings.ToLower(name) // a single M might be a month
	}
	for _, w := range windows {
		if name == w.name {
			return times, name, true
		}
	}
	other, ok := otherWindows[name]
	return times * other.times, other.name, ok
}

// joinThousands returns s without the commas that separate thousands. Commas
// separate rates, too. A comma is taken for a thousands separator if three digits
// follow and on one of its sides there is no complete rate.
func joinThousands(s string) string {
	var parts []string
	for part := range strings.SplitSeq(s, ",") {
		last := len(parts) - 1
		if last >= 0 && thousand.MatchString(part) && (!strings.Contains(parts[last], "/") || !strings.Contains(part, "/")) &&
			strings.TrimRight(parts[last], "0123456789") != parts[last] {
			parts[last] += part
		} else {
			parts = append(parts, part)
		}
	}
	return strings.Join(parts, ",")
}

// thousands returns an error if commas separate thousands in s, or nil.
func thousands(s string) error {
	joined := joinThousands(s)
	if joined == s {
		return nil
	}
	if text := suggest(joined); text != "" {
		return fmt.Errorf("rate %.64q: commas separate rates, they are no thousands separators: write %s", s, text)
	}
	return nil
}

// notARate returns the error for s, which does not have the form of a rate. It says
// what to write for s, or lists the forms of a rate.
func notARate(s string) error {
	if err := thousands(s); err != nil {
		return err
	}
	if text := suggest(s); text != "" {
		return fmt.Errorf("rate %.64q: write %s", s, text)
	}
	return fmt.Errorf(`rate %.64q: want "50/s", "100000/m", "5/10s", "10/h", or "50/s burst 10"`, s)
}
