package bucket

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// The resets around an instant, in all the ways in which zones change their offset.
func TestResetsFollowTheZone(t *testing.T) {
	for _, tt := range []struct {
		zone               string
		period             Period
		wall, before, next string // UTC
		hours              float64
		why                string
	}{
		{"UTC", Daily, "2026-05-05 12:00", "2026-05-05 00:00", "2026-05-06 00:00", 24, "a day"},
		{"UTC", Daily, "2026-05-05 00:00", "2026-05-05 00:00", "2026-05-06 00:00", 24, "a reset begins its day"},
		{"UTC", Weekly, "2026-05-10 23:59", "2026-05-04 00:00", "2026-05-11 00:00", 168, "Sunday is the last day of a week"},
		{"UTC", Weekly, "2026-05-11 00:00", "2026-05-11 00:00", "2026-05-18 00:00", 168, "Monday is the first"},
		{"UTC", Monthly, "2028-02-29 12:00", "2028-02-01 00:00", "2028-03-01 00:00", 29 * 24, "a leap year"},
		{"UTC", Monthly, "2026-12-31 12:00", "2026-12-01 00:00", "2027-01-01 00:00", 31 * 24, "the end of a year"},
		{"Asia/Kathmandu", Daily, "2026-05-05 12:00", "2026-05-04 18:15", "2026-05-05 18:15", 24, "an offset of 5 h 45 min"},
		{"America/Los_Angeles", Daily, "2026-03-08 12:00", "2026-03-08 08:00", "2026-03-09 07:00", 23, "clocks go forward at 2:00"},
		{"America/Los_Angeles", Daily, "2026-11-01 12:00", "2026-11-01 07:00", "2026-11-02 08:00", 25, "clocks go back at 2:00"},
		{"Europe/Berlin", Weekly, "2026-03-27 12:00", "2026-03-22 23:00", "2026-03-29 22:00", 167, "clocks go forward on Sunday"},
		{"Europe/Berlin", Weekly, "2026-10-20 12:00", "2026-10-18 22:00", "2026-10-25 23:00", 169, "clocks go back on Sunday"},
		{"Europe/Berlin", Monthly, "2026-03-15 12:00", "2026-02-28 23:00", "2026-03-31 22:00", 31*24 - 1, "a month with a change"},
		{"America/Santiago", Daily, "2025-09-07 12:00", "2025-09-07 04:00", "2025-09-08 03:00", 23, "clocks skip midnight: the date begins at 1:00"},
		{"America/Santiago", Daily, "2025-04-06 03:30", "2025-04-05 03:00", "2025-04-06 04:00", 25, "23:00 to 24:00 comes twice"},
		{"America/Havana", Daily, "2025-11-02 05:30", "2025-11-02 04:00", "2025-11-03 05:00", 25, "midnight comes twice: the first begins the date"},
		{"America/St_Johns", Daily, "2006-10-29 03:00", "2006-10-29 02:30", "2006-10-30 03:30", 25, "at 0:01 clocks go back to the day before: the date has begun"},
		{"Pacific/Apia", Daily, "2011-12-30 12:00", "2011-12-30 10:00", "2011-12-31 10:00", 24, "the 30th was left out: the 31st follows the 29th"},
		{"Pacific/Apia", Daily, "2011-12-30 09:59", "2011-12-29 10:00", "2011-12-30 10:00", 24, "the 29th"},
	} {
		loc, err := loadZone(tt.zone)
		require.NoError(t, err)
		before, next := tt.period.resets(loc, utc(t, tt.wall))
		assert.Equal(t, tt.before, text(before), "%s: reset before %s: %s", tt.zone, tt.wall, tt.why)
		assert.Equal(t, tt.next, text(next), "%s: reset after %s: %s", tt.zone, tt.wall, tt.why)
		assert.Equal(t, tt.hours, time.Duration(next-before).Hours(), "%s: hours", tt.zone)
	}
}

const minutes = "2006-01-02 15:04"

func utc(t *testing.T, s string) int64 {
	at, err := time.Parse(minutes, s)
	require.NoError(t, err)
	return at.UnixNano()
}

func text(at int64) string { return time.Unix(0, at).UTC().Format(minutes) }

// In every zone the resets divide time into periods: an instant lies in one, its date
// is older than the date of the next, and a reset is where the clocks first show the
// first date of a period.
func TestResetsDivideTime(t *testing.T) {
	zones := slices.Sorted(maps.Keys(zoneFiles()))
	rapid.Check(t, func(t *rapid.T) {
		loc, err := loadZone(rapid.SampledFrom(zones).Draw(t, "zone"))
		if err != nil {
			t.Fatal(err)
		}
		p := rapid.SampledFrom([]Period{Daily, Weekly, Monthly}).Draw(t, "period")
		wall := rapid.Int64Range(0, int64(200*maxPer)).Draw(t, "wall")
		before, next := p.resets(loc, wall)
		if wall < before || wall >= next {
			t.Fatalf("%v to %v does not hold %v", text(before), text(next), text(wall))
		}
		for _, at := range []int64{before, next - 1, rapid.Int64Range(before, next-1).Draw(t, "inside")} {
			if b, n := p.resets(loc, at); b != before || n != next {
				t.Fatalf("%v lies in %v to %v, not in %v to %v", text(at), text(b), text(n), text(before), text(next))
			}
			if first := p.first(dateOf(loc, next)); !dateOf(loc, at).Before(first) {
				t.Fatalf("%v has the date of the next period, which begins at %v", text(at), text(next))
			}
		}
		if b, _ := p.resets(loc, next); b != next {
			t.Fatalf("the period after %v begins at %v", text(next), text(b))
		}
	})
}

func dateOf(loc *time.Location, at int64) time.Time {
	y, m, d := time.Unix(0, at).In(loc).Date()
	return time.Date(y, m, d, 0, 0, 0, 0, time.UTC)
}

// Every zone of the embedded database loads, and only these: names that a machine's
// own database has, or that the time package understands, are unknown.
func TestOnlyTheEmbeddedZonesLoad(t *testing.T) {
	zones := slices.Collect(maps.Keys(zoneFiles()))
	require.Greater(t, len(zones), 500)
	for _, name := range zones {
		loc, err := loadZone(name)
		require.NoError(t, err)
		assert.Equal(t, name, loc.String())
	}
	for name, want := range map[string]string{
		"":                    `unknown time zone "": want a name of the IANA database, such as America/Los_Angeles or UTC`,
		"Local":               `unknown time zone "Local": want a name of the IANA database, such as America/Los_Angeles or UTC`,
		"posix/UTC":           `unknown time zone "posix/UTC": want a name of the IANA database, such as America/Los_Angeles or UTC`,
		"../UTC":              `unknown time zone "../UTC": want a name of the IANA database, such as America/Los_Angeles or UTC`,
		"america/los angeles": `unknown time zone "america/los angeles": did you mean America/Los_Angeles?`,
		"Los Angeles":         `unknown time zone "Los Angeles": did you mean America/Los_Angeles?`,
		"utc":                 `unknown time zone "utc": did you mean UTC?`,
		"PST":                 `unknown time zone "PST": want a name of the IANA database, such as America/Los_Angeles or UTC`,
	} {
		_, err := loadZone(name)
		assert.EqualError(t, err, want)
	}
}
