package ledger

import (
	"encoding/binary"

	"github.com/choked/choked/bucket"
)

// Fields of stamps.
const (
	stampsWall = iota + 1
	stampsZones
)

// maxZones bounds the calendars of one entry.
const maxZones = 1 << 12

// AppendStamps appends the encoding of s to b. s may be nil.
func AppendStamps(b []byte, s *bucket.Stamps) []byte {
	if s == nil {
		return append(b, 0)
	}
	b = intField(b, stampsWall, s.Wall)
	b = listField(b, stampsZones, s.Zones, func(b []byte, z *bucket.ZoneStamp) []byte {
		b = append(appendString(b, z.Zone), byte(z.Every))
		return binary.AppendVarint(binary.AppendVarint(b, z.Before), z.Next)
	})
	return append(b, 0)
}

// ParseStamps reads stamps from the front of b and returns what follows them. It does not
// check them: a bucket ignores those that are not usable.
func ParseStamps(b []byte) (*bucket.Stamps, []byte, error) {
	d := decoder{b: b}
	var s *bucket.Stamps
	d.fields("stamps", func(field int) bool {
		if s == nil {
			s = new(bucket.Stamps)
		}
		switch field {
		case stampsWall:
			s.Wall = d.varint()
		case stampsZones:
			s.Zones = list(&d, maxZones, 4, func(d *decoder, z *bucket.ZoneStamp) {
				*z = bucket.ZoneStamp{Zone: d.string(maxZone), Every: bucket.Period(d.byte()), Before: d.varint(), Next: d.varint()}
			})
		default:
			return false
		}
		return true
	})
	return s, d.b, d.err
}
