package bucket

import (
	"cmp"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// Forms of a rate that people write and [ParseRate] does not read. Its error says what
// to write instead.
var (
	decimal   = regexp.MustCompile(`^\+?([0-9_]{0,15})(?:\.([0-9]{1,9}))?([kKM]|[eE]\+?[0-9]{1,2})?$`)
	perUnit   = regexp.MustCompile(`^([0-9_.]+[kKM]?) ?[rtRT][pP]([smhdSMHD])$`) // rpm, tpm, rps, rpd, …
	anyWindow = regexp.MustCompile(`^([0-9_]{0,15}) ?([A-Za-z]+)$`)
	sum       = regexp.MustCompile(`^(?:[0-9]{1,9}(?:\.[0-9]{1,3})? ?[A-Za-z]+ ?)+$`) // 1m30s, 1.5s
	summand   = regexp.MustCompile(`([0-9.]+) ?([A-Za-z]+)`)
	thousand  = regexp.MustCompile(`^[0-9]{3}([^0-9]|$)`)
	grouped   = regexp.MustCompile(`\b[0-9]{1,3}(?:(?:['’ \x{a0}\x{202f}][0-9]{3})+|(?:\.[0-9]{3}){2,})\b`) // 1'000, 1.000.000
	separator = regexp.MustCompile(`[;|&\n]| and `)

	// onePoint is a number whose point separates thousands or begins a fraction.
	onePoint = regexp.MustCompile(`(^|[^0-9._])([1-9][0-9]{0,2})\.([0-9]{3})($|[^0-9._kKMeE])`)
)

// maxSuggest is the length in bytes of the longest text for which something is suggested.
const maxSuggest = 200

// otherWindows are words for a window that ParseRate does not read, each with the
// equal number of windows that it reads.
var otherWindows = map[string]struct {
	times int64
	name  string
}{
	"hr": {1, "h"}, "hrs": {1, "h"},
	"week": {7, "d"}, "weeks": {7, "d"}, "w": {7, "d"},
}

// suggest returns the rates in s in the spelling that ParseRates reads, or "" if
// their meaning is not clear.
func suggest(s string) string {
	if len(s) > maxSuggest {
		return ""
	}
	parts := strings.Split(s, ",")
	for i, part := range parts {
		part = strings.TrimSpace(part)
		if onePoint.MatchString(part) {
			return ""
		}
		if parts[i] = suggestRate(part); parts[i] == "" {
			return ""
		}
	}
	return strings.Join(parts, ",")
}

// suggestRate is suggest for one rate. A point in it begins a fraction, unless several
// points separate thousands.
func suggestRate(s string) string {
	if _, err := parseRate(Requests, s); err == nil {
		return s
	}
	s = grouped.ReplaceAllStringFunc(s, func(number string) string {
		return strings.Map(func(r rune) rune {
			if r < '0' || r > '9' {
				return -1
			}
			return r
		}, number)
	})
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
	if _, err := parseRate(Requests, text); err != nil {
		return ""
	}
	return text
}

// parseDecimal reads a count such as 1.5, 100k, 1.5M or 1e3 as n/of in lowest terms.
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
	factor, ok := powerOfTen(m[3])
	if !ok {
		return 0, 0, false
	}
	for _, p := range []int64{2, 5} { // the prime factors of ten
		for of%p == 0 && factor%p == 0 {
			of, factor = of/p, factor/p
		}
		for of%p == 0 && n%p == 0 {
			of, n = of/p, n/p
		}
	}
	if n > MaxUnits/factor {
		return 0, 0, false
	}
	return n * factor, of, true
}

// powerOfTen returns the factor of a suffix such as k, M or e3.
func powerOfTen(suffix string) (factor int64, ok bool) {
	switch suffix {
	case "":
		return 1, true
	case "k", "K":
		return 1e3, true
	case "M":
		return 1e6, true
	}
	exponent, err := strconv.Atoi(suffix[1:])
	if err != nil || exponent > 12 { // MaxUnits has twelve zeros
		return 0, false
	}
	for factor = 1; exponent > 0; exponent-- {
		factor *= 10
	}
	return factor, true
}

// splitWindow reads a window as a number of windows that ParseRate reads.
func splitWindow(s string) (times int64, name string, ok bool) {
	m := anyWindow.FindStringSubmatch(s)
	if m == nil {
		return splitSum(s)
	}
	times = 1
	if m[1] != "" {
		n, err := readCount(m[1])
		if err != nil || n < 1 {
			return 0, "", false
		}
		times = n
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

// splitSum is splitWindow for a sum or a fraction, such as 1m30s or 1.5s. Three
// decimals are exact in every window from a microsecond on.
func splitSum(s string) (times int64, name string, ok bool) {
	if !sum.MatchString(s) {
		return 0, "", false
	}
	var total time.Duration
	for _, m := range summand.FindAllStringSubmatch(s, -1) {
		of, name, ok := splitWindow(m[2])
		if !ok {
			return 0, "", false
		}
		unit, err := parseWindow(name)
		if err != nil {
			return 0, "", false
		}
		n, err := strconv.ParseFloat(m[1], 64)
		if err != nil || unit < time.Microsecond || n > float64(maxPer/unit) {
			return 0, "", false
		}
		if total += time.Duration(math.Round(n*1000)) * (unit / 1000) * time.Duration(of); total > maxPer {
			return 0, "", false
		}
	}
	if total < minPer {
		return 0, "", false
	}
	text := windowText(total)
	i := strings.IndexFunc(text, unicode.IsLetter)
	if times, name = 1, text[i:]; i > 0 {
		times, _ = readCount(text[:i])
	}
	return times, name, true
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

// emptyRate returns an error if a comma in s has no rate on one of its sides, or nil.
func emptyRate(s string) error {
	parts := strings.Split(s, ",")
	rates := slices.DeleteFunc(slices.Clone(parts), func(part string) bool { return strings.TrimSpace(part) == "" })
	if len(rates) == len(parts) {
		return nil
	}
	why := "a comma without a rate before it"
	if strings.TrimSpace(parts[len(parts)-1]) == "" {
		why = "a trailing comma"
	}
	if text := suggest(joinThousands(strings.Join(rates, ","))); text != "" {
		return fmt.Errorf("rate %.64q: %s: write %s", s, why, text)
	}
	return fmt.Errorf("rate %.64q: %s: want a rate on each side of a comma", s, why)
}

// twoWays returns an error if a point in s may separate thousands as well as begin a
// fraction, or nil.
func twoWays(s string) error {
	if len(s) > maxSuggest || !onePoint.MatchString(s) {
		return nil
	}
	joined, fraction := suggestRate(onePoint.ReplaceAllString(s, "$1$2$3$4")), suggestRate(s)
	switch {
	case joined == "":
		return nil
	case fraction == "":
		return fmt.Errorf("rate %.64q: write %s", s, joined)
	}
	return fmt.Errorf("rate %.64q: the point can be read two ways: write %s or %s", s, joined, fraction)
}

// notARate returns the error for s, which does not have the form of a rate. It says
// what to write for s, or lists the forms of a rate.
func notARate(s string) error {
	return cmp.Or(suggestion(s), fmt.Errorf(`rate %.64q: want "50/s", "100000/m", "5/10s", "10/h", "50/s burst 10", "500/m window", or "10000/d reset UTC"`, s))
}

// suggestion returns an error that says what to write for s, or nil if that is not clear.
func suggestion(s string) error {
	if err := cmp.Or(thousands(s), twoWays(s)); err != nil {
		return err
	}
	if text := suggest(s); text != "" {
		return fmt.Errorf("rate %.64q: write %s", s, text)
	}
	if list := separator.ReplaceAllString(s, ","); list != s {
		if text := suggest(list); text != "" {
			return fmt.Errorf("rate %.64q: a comma separates rates: write %s", s, text)
		}
	}
	return nil
}
