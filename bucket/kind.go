package bucket

import (
	"fmt"
	"strings"
	"time"
)

// rateKind is the kind of limit that a rate sets.
type rateKind uint8

const (
	bucketKind   rateKind = iota // burst + rate·W in every stretch W
	windowKind                   // N in every Per, wherever it begins
	calendarKind                 // N between one reset of a calendar and the next
)

// anyRateText is a rate of any kind, as its text says.
type anyRateText struct {
	kind  rateKind
	n     int64         // units
	per   time.Duration // of a bucket and a window
	burst int64         // of a bucket: the most units that it can hold
	pace  int64         // of a window: the burst of its pace; 0: none
	every period        // of a calendar
	zone  string        // of a calendar: a name of the IANA time zone database
}

// periods are the spellings of the period of a calendar; the first of each is the
// canonical one.
var periods = []struct {
	name  string
	every period
}{{"d", daily}, {"day", daily}, {"week", weekly}, {"month", monthly}}

// parseKind reads a rate of any kind:
//
//	100/s burst 20                    a bucket, as [ParseRate] reads it
//	500/m window                      at most 500 in every minute
//	500/m window pace 50              the same, with at most 50 at once; without a number a tenth
//	10000/d reset America/Los_Angeles at most 10000 a day, which begins at midnight there
//	1000/week reset Europe/Berlin     which begins on Monday
//	20000/month reset UTC
//
// The error quotes s and says what to write instead, or what range is accepted.
func parseKind(s string) (anyRateText, error) {
	count, rest, _ := strings.Cut(s, "/")
	per, words := splitKind(rest)
	if len(words) == 0 || words[0] == "burst" && !hasKind(words[1:]) {
		r, err := ParseRate(s)
		if err != nil {
			return anyRateText{}, err
		}
		return anyRateText{kind: bucketKind, n: r.N, per: r.Per, burst: r.Burst}, nil
	}
	r, err := readKind(count, per, words)
	switch {
	case err == errNotARate:
		return anyRateText{}, notARate(s)
	case err != nil:
		return anyRateText{}, fmt.Errorf("rate %.64q: %w", s, err)
	}
	return r, nil
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

// readKind is parseKind for a rate that is no plain bucket, with errors that do not
// quote it.
func readKind(count, per string, words []string) (r anyRateText, err error) {
	if r.n, err = readCount(count); err != nil {
		return r, countError("rate", count, err)
	}
	switch words[0] {
	case "window":
		err = r.readWindow(per, words[1:])
	case "reset":
		err = r.readReset(per, strings.Join(words[1:], " "))
	case "burst":
		err = fmt.Errorf("only a bucket has a burst: write %d/%.16s %.32s", r.n, per, strings.Join(words[min(len(words)-1, 2):], " "))
	case "pace":
		err = fmt.Errorf("only a window has a pace: write %d/%.16s window %.32s", r.n, per, strings.Join(words, " "))
	default:
		if _, err = parseWindow(per); err == nil {
			err = fmt.Errorf(`unknown kind %.32q: want "burst 20", "window" or "reset America/Los_Angeles"`, words[0])
		}
	}
	if err != nil {
		return anyRateText{}, err
	}
	return r, r.check()
}

// readWindow reads the time of a window and the words after "window".
func (r *anyRateText) readWindow(per string, words []string) (err error) {
	r.kind = windowKind
	for _, p := range periods {
		if per == p.name && p.every != daily {
			return fmt.Errorf("a window cannot be a %s: write the number of days, as in %d/7d window, or a reset, as in %d/%s reset UTC", per, r.n, r.n, per)
		}
	}
	if r.per, err = parseWindow(per); err != nil {
		return err
	}
	switch {
	case len(words) == 0:
		return nil
	case words[0] != "pace" || len(words) > 2:
		return fmt.Errorf(`%.32q after window: want nothing or "pace 50"`, strings.Join(words, " "))
	case len(words) == 1:
		r.pace = defaultPace(r.n)
		return nil
	}
	n, err := readCount(words[1])
	if err == errNotARate {
		return fmt.Errorf(`pace %.32q: want a number of units, as in "pace 50"`, words[1])
	}
	if err == errRange || n < 1 {
		return r.paceRange(words[1])
	}
	r.pace = n
	return nil
}

// readReset reads the period of a calendar and its time zone.
func (r *anyRateText) readReset(per, zone string) error {
	r.kind = calendarKind
	for _, p := range periods {
		if per != p.name {
			continue
		}
		r.every, r.zone = p.every, zone
		if zone == "" {
			return fmt.Errorf("reset without a time zone: write %d/%s reset UTC, or the provider's zone", r.n, per)
		}
		return nil
	}
	return fmt.Errorf("reset each %.32s: want d, week or month; for other times write window", per)
}

// check returns an error that says why r is not a usable rate, or nil.
func (r anyRateText) check() error {
	if r.kind == bucketKind {
		return Rate{r.n, r.per, r.burst}.Check()
	}
	if r.n < 1 || r.n > MaxUnits {
		return fmt.Errorf("rate of %d units: want 1 to %d", r.n, int64(MaxUnits))
	}
	if r.kind == calendarKind {
		_, err := loadZone(r.zone)
		return err
	}
	switch {
	case r.per < minPer || r.per > maxPer:
		return perRange(windowText(r.per))
	case r.pace == 0:
		return nil
	case r.pace < 0 || r.pace > r.n:
		return r.paceRange(fmt.Sprint(r.pace))
	}
	return Rate{r.n, r.per, r.pace}.Check()
}

// paceRange returns the error for the burst of a pace that is too small or too large.
func (r anyRateText) paceRange(pace string) error {
	return fmt.Errorf("pace of %.32s units: want 1 to %d", pace, r.n)
}

// String returns the form that parseKind reads.
func (r anyRateText) String() string {
	switch {
	case r.kind == bucketKind:
		return Rate{r.n, r.per, r.burst}.String()
	case r.kind == windowKind && r.pace == 0:
		return fmt.Sprintf("%d/%s window", r.n, windowText(r.per))
	case r.kind == windowKind:
		return fmt.Sprintf("%d/%s window pace %d", r.n, windowText(r.per), r.pace)
	}
	for _, p := range periods {
		if p.every == r.every {
			return fmt.Sprintf("%d/%s reset %s", r.n, p.name, r.zone)
		}
	}
	return fmt.Sprintf("%d reset %s", r.n, r.zone) // no period that parseKind reads
}
