package bucket

import "slices"

// Stamps is the wall clock of a store at one operation, with the resets around it. A
// bucket with calendars counts by them, so that it knows no time zone: all replicas of
// a log count by the stamps of its entries.
type Stamps struct {
	Wall  int64 // Unix nanoseconds
	Zones []ZoneStamp
}

// ZoneStamp is the resets of one calendar around [Stamps.Wall].
type ZoneStamp struct {
	Zone   string // a name of the IANA time zone database
	Every  Period
	Before int64 // the last reset at or before the wall clock, in Unix nanoseconds
	Next   int64 // the first reset after it, in Unix nanoseconds
}

// HasCalendar reports whether a rate of l is a calendar.
func (l *Limits) HasCalendar() (has bool) {
	l.each(0, func(_ int, _ Unit, r *Rate) { has = has || r.Kind == Calendar })
	return has
}

// Calendars returns the limits by which b counts that have calendars: those in force, and
// those of earlier definitions.
func (b *Bucket) Calendars() (with []*Limits) {
	if b.counters == nil {
		return nil
	}
	for _, l := range []*Limits{b.limits, b.former} {
		if l != nil && l.HasCalendar() {
			with = append(with, l)
		}
	}
	return with
}

// StampsAt returns the stamps that a bucket under any of these limits needs when the
// wall clock shows wall, in Unix nanoseconds. It returns nil if they have no calendar.
// Nil limits have none.
func StampsAt(wall int64, limits ...*Limits) *Stamps {
	var s *Stamps
	for _, l := range limits {
		if l == nil {
			continue
		}
		l.each(0, func(_ int, _ Unit, r *Rate) {
			if r.Kind != Calendar || s != nil && s.of(r) != nil {
				return
			}
			loc, err := loadZone(r.Zone)
			if err != nil {
				return // no limits that pass their check
			}
			if s == nil {
				s = &Stamps{Wall: wall}
			}
			before, next := r.Every.resets(loc, wall)
			s.Zones = append(s.Zones, ZoneStamp{r.Zone, r.Every, before, next})
		})
	}
	return s
}

// of returns the stamp of the calendar of r, or nil.
func (s *Stamps) of(r *Rate) *ZoneStamp {
	i := slices.IndexFunc(s.Zones, func(z ZoneStamp) bool { return z.Every == r.Every && z.Zone == r.Zone })
	if i < 0 {
		return nil
	}
	return &s.Zones[i]
}

// usable reports whether z are resets around wall.
func (z *ZoneStamp) usable(wall int64) bool {
	return z != nil && z.Before >= 0 && z.Before <= wall && wall < z.Next && z.Next <= end
}

// Stamp tells the calendars of b the wall clock at now, before an operation at the same
// instant. Without a stamp a calendar stays in its day, and units that are spent
// meanwhile count in the days of the next stamp, too. Stamps of other calendars are ignored; s
// may be nil.
func (b *Bucket) Stamp(now int64, s *Stamps) {
	if b.counters == nil || s == nil || s.Wall <= 0 || s.Wall > end {
		return
	}
	b.allOthers(func(i int, _ Unit, r *Rate) {
		c := b.counters.of[i].calendar
		if c == nil {
			return
		}
		if z := s.of(r); z.usable(s.Wall) {
			c.advance(r.calendarRate(), now, stamp{s.Wall, z.Before, z.Next})
		}
	})
}

// predict brings the calendars of a copy of a bucket to now, as a stamp would. Store time
// is never faster than the wall clock, so no day begins too early. The length of a day
// that has begun since the last stamp is not known: it counts as the longest.
func (b *Bucket) predict(now int64) {
	b.allOthers(func(i int, _ Unit, r *Rate) {
		c := b.counters.of[i].calendar
		if c == nil || c.wall == 0 || c.stamped >= now {
			return
		}
		s := stamp{c.wallAt(now), c.from, c.reset}
		if s.wall >= c.reset {
			s.before, s.next = c.reset, later(c.reset, int64(r.Every.nominal()+2*day))
		}
		c.advance(r.calendarRate(), now, s)
	})
}
