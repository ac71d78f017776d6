package bucket

import (
	"archive/zip"
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// zoneinfo is the IANA time zone database 2025c, in the public domain: a copy of
// $GOROOT/lib/time/zoneinfo.zip of Go 1.26.8.
//
// It is embedded, since all members of a cluster must compute the same resets.
// [time.LoadLocation] would read $ZONEINFO or the zone files of the machine first, which
// differ from machine to machine and from one update to the next, and uses the data of
// time/tzdata only where it finds neither. That data changes with the version of Go.
// This copy changes with the version of choked.
//
//go:embed zoneinfo.zip
var zoneinfo string

// zoneFiles returns the files of zoneinfo by the name of their zone.
var zoneFiles = sync.OnceValue(func() map[string]*zip.File {
	files := make(map[string]*zip.File)
	if z, err := zip.NewReader(strings.NewReader(zoneinfo), int64(len(zoneinfo))); err == nil {
		for _, f := range z.File {
			files[f.Name] = f
		}
	}
	return files
})

// loadedZones are the zones that were loaded before: *time.Location by name.
var loadedZones sync.Map

// loadZone returns the zone with a name of the IANA database, such as
// America/Los_Angeles. The error quotes the name and says what to write.
func loadZone(name string) (*time.Location, error) {
	if loc, ok := loadedZones.Load(name); ok {
		return loc.(*time.Location), nil
	}
	f := zoneFiles()[name]
	if f == nil {
		return nil, unknownZone(name)
	}
	r, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("time zone %s: %w", name, err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("time zone %s: %w", name, err)
	}
	loc, err := time.LoadLocationFromTZData(name, data)
	if err != nil {
		return nil, fmt.Errorf("time zone %s: %w", name, err)
	}
	loadedZones.Store(name, loc)
	return loc, nil
}

// unknownZone returns the error for a name that no zone has. It suggests the zone with
// the same name or city in another spelling; of several, the one with the shortest name.
func unknownZone(name string) error {
	plain := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, " ", "_")) }
	match := ""
	for zone := range zoneFiles() {
		city := zone[strings.LastIndexByte(zone, '/')+1:]
		if n := plain(name); n == plain(zone) || n == plain(city) {
			if match == "" || cmp.Or(cmp.Compare(len(zone), len(match)), cmp.Compare(zone, match)) < 0 {
				match = zone
			}
		}
	}
	if match != "" {
		return fmt.Errorf("unknown time zone %.64q: did you mean %s?", name, match)
	}
	return fmt.Errorf("unknown time zone %.64q: want a name of the IANA database, such as America/Los_Angeles or UTC", name)
}

// Period is the time from one reset of a calendar to the next.
type Period uint8

const (
	Daily   Period = iota // from one midnight to the next
	Weekly                // from Monday to Monday
	Monthly               // from the first day of a month to the next
)

// String returns the form that [ParseRate] reads, such as "week".
func (p Period) String() string {
	for _, q := range periods {
		if q.every == p {
			return q.name
		}
	}
	return fmt.Sprintf("period %d", uint8(p))
}

// nominal returns the length of most days, of a week of such days, or of 30 of them.
func (p Period) nominal() time.Duration {
	switch p {
	case Weekly:
		return 7 * day
	case Monthly:
		return 30 * day
	}
	return day
}

// first returns the first date of the period that date lies in. Dates are midnights in
// UTC, whatever zone they are meant for.
func (p Period) first(date time.Time) time.Time {
	switch p {
	case Weekly:
		return date.AddDate(0, 0, -(int(date.Weekday())+6)%7)
	case Monthly:
		return date.AddDate(0, 0, 1-date.Day())
	}
	return date
}

// after returns the first date of the next period, given the first date of one.
func (p Period) after(first time.Time) time.Time {
	switch p {
	case Weekly:
		return first.AddDate(0, 0, 7)
	case Monthly:
		return first.AddDate(0, 1, 0)
	}
	return first.AddDate(0, 0, 1)
}

// resets returns the last reset of a calendar at or before the instant wall, and the
// first after it, in Unix nanoseconds.
func (p Period) resets(loc *time.Location, wall int64) (before, next int64) {
	y, m, d := time.Unix(0, wall).In(loc).Date()
	first := p.first(time.Date(y, m, d, 0, 0, 0, 0, time.UTC))
	before = dateBegins(loc, first)
	for {
		first = p.after(first)
		if next = dateBegins(loc, first); next > wall {
			return before, next
		}
		before = next
	}
}

// dateBegins returns the first instant at which the clocks of a zone show the date or a
// later one, in Unix nanoseconds. That is midnight, but for zones that change their
// offset then. Where clocks skip midnight, the date begins with the change; where they
// show midnight twice, it begins with the first. [time.Date] leaves both open.
func dateBegins(loc *time.Location, date time.Time) int64 {
	t := date.Add(-36 * time.Hour).In(loc) // before the date in any zone
	for {
		_, end := t.ZoneBounds() // of the time with one offset
		_, offset := t.Zone()
		midnight := date.Add(-time.Duration(offset) * time.Second)
		switch {
		case !end.IsZero() && !midnight.Before(end):
			t = end
		case midnight.Before(t):
			return t.UnixNano()
		default:
			return midnight.UnixNano()
		}
	}
}
