package ledger

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/choked/choked/bucket"
)

// maxDrips bounds the drips of one lease.
const maxDrips = int(bucket.NumUnits) * bucket.MaxRates

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func stringField(b []byte, field byte, s string) []byte {
	if s == "" {
		return b
	}
	return appendString(append(b, field), s)
}

func intField(b []byte, field byte, v int64) []byte {
	if v == 0 {
		return b
	}
	return binary.AppendVarint(append(b, field), v)
}

func idField(b []byte, field byte, id bucket.LeaseID) []byte {
	if id == (bucket.LeaseID{}) {
		return b
	}
	b = binary.BigEndian.AppendUint64(append(b, field), id.Holder)
	return binary.AppendUvarint(b, id.Seq)
}

// listField appends the number of items and each of them.
func listField[T any](b []byte, field byte, items []T, appendItem func([]byte, *T) []byte) []byte {
	if len(items) == 0 {
		return b
	}
	b = binary.AppendUvarint(append(b, field), uint64(len(items)))
	for i := range items {
		b = appendItem(b, &items[i])
	}
	return b
}

// costField appends a bit for each unit of c that is not zero, and those units.
func costField(b []byte, field byte, c bucket.Cost) []byte {
	if c.IsZero() {
		return b
	}
	return appendUnits(append(b, field), c, 0)
}

// levelField is costField for a level, from which units that are not limited are left
// out.
func levelField(b []byte, field byte, c bucket.Cost) []byte {
	return appendUnits(append(b, field), c, bucket.Unlimited)
}

func appendUnits(b []byte, c bucket.Cost, without int64) []byte {
	var mask byte
	at := len(b)
	b = append(b, mask)
	for u := range bucket.NumUnits {
		if n := c.Of(u); n != without {
			mask |= 1 << u
			b = binary.AppendVarint(b, n)
		}
	}
	b[at] = mask
	return b
}

func appendDrip(b []byte, d *bucket.Drip) []byte {
	b = append(b, byte(d.Unit))
	b = binary.AppendVarint(b, int64(d.Ready))
	b = binary.AppendVarint(b, d.N)
	return binary.AppendVarint(b, int64(d.Per))
}

// Fields of a rate. The burst is left out if it is N in a token bucket, and zero in
// another kind.
const (
	rateN = iota + 1
	ratePer
	rateBurst
	rateKind
	ratePace
	rateZone
	rateEvery
)

// maxZone bounds the name of a time zone in bytes.
const maxZone = 64

func limitsField(b []byte, field byte, l *bucket.Limits) []byte {
	if l.Len() == 0 {
		return b
	}
	return appendLimits(append(b, field), l)
}

// appendLimits appends a record with a field for each unit, whose value are its rates.
func appendLimits(b []byte, l *bucket.Limits) []byte {
	for u := range bucket.NumUnits {
		b = listField(b, byte(u+1), l.Of(u), appendRate)
	}
	return append(b, 0)
}

func appendRate(b []byte, r *bucket.Rate) []byte {
	b = intField(b, rateN, r.N)
	b = intField(b, ratePer, int64(r.Per))
	if r.Burst != defaultBurst(r) {
		b = binary.AppendVarint(append(b, rateBurst), r.Burst)
	}
	b = intField(b, rateKind, int64(r.Kind))
	b = intField(b, ratePace, r.Pace)
	b = stringField(b, rateZone, r.Zone)
	b = intField(b, rateEvery, int64(r.Every))
	return append(b, 0)
}

// defaultBurst returns the burst of a rate whose encoding names none.
func defaultBurst(r *bucket.Rate) int64 {
	if r.Kind == bucket.TokenBucket {
		return r.N
	}
	return 0
}

// decoder reads from the front of b. After the first error it returns zeros.
type decoder struct {
	b   []byte
	err error

	tats       []int64            // room for those of the next bucket
	shortfalls []bucket.Shortfall // likewise
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("decode: "+format, args...)
	}
	d.b = nil
}

// fields reads a record: it calls read for each field, which reads the value or
// returns false if the number is unknown.
func (d *decoder) fields(of string, read func(field int) bool) {
	for last := byte(0); ; {
		field := d.byte()
		switch {
		case field == 0: // the end, or an error
			return
		case field <= last:
			d.fail("field %d of %s follows field %d", field, of, last)
		case !read(int(field)):
			d.fail("field %d of %s: unknown to this version", field, of)
		}
		last = field
	}
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("input ends early")
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.fail("not a number")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.fail("not a count")
		return 0
	}
	d.b = d.b[n:]
	return v
}

// count reads the number of items that follow, each of at least size bytes.
func (d *decoder) count(most, size int) int {
	n := d.uvarint()
	if n > uint64(most) || n > uint64(len(d.b)/size) {
		d.fail("%d items: more than the input holds", n)
		return 0
	}
	return int(n)
}

// list reads at most so many items, each of at least size bytes.
func list[T any](d *decoder, most, size int, read func(*decoder, *T)) []T {
	n := d.count(most, size)
	if n == 0 {
		return nil
	}
	items := make([]T, n)
	for i := range items {
		read(d, &items[i])
	}
	return items
}

func (d *decoder) string(most int) string {
	n := d.count(most, 1)
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

// instant reads an instant from 0 to [bucket.MaxInstant].
func (d *decoder) instant() int64 {
	t := d.varint()
	if t < 0 || t > bucket.MaxInstant {
		d.fail("instant %d: want 0 to %d", t, int64(bucket.MaxInstant))
		return 0
	}
	return t
}

func (d *decoder) id() bucket.LeaseID {
	if len(d.b) < 8 {
		d.fail("input ends early")
		return bucket.LeaseID{}
	}
	holder := binary.BigEndian.Uint64(d.b)
	d.b = d.b[8:]
	return bucket.LeaseID{Holder: holder, Seq: d.uvarint()}
}

func (d *decoder) cost() bucket.Cost { return d.units(bucket.Cost{}) }

func (d *decoder) level() bucket.Cost {
	var c bucket.Cost
	for u := range bucket.NumUnits {
		c = c.With(u, bucket.Unlimited)
	}
	return d.units(c)
}

// units reads what appendUnits appended. Units that are left out stay as they are in c.
func (d *decoder) units(c bucket.Cost) bucket.Cost {
	mask := d.byte()
	if mask >= 1<<bucket.NumUnits {
		d.fail("units %#b: want at most %d kinds", mask, bucket.NumUnits)
	}
	for u := range bucket.NumUnits {
		if mask&(1<<u) != 0 {
			c = c.With(u, d.varint())
		}
	}
	return c
}

func (d *decoder) drip(drip *bucket.Drip) {
	*drip = bucket.Drip{Unit: bucket.Unit(d.byte()), Ready: time.Duration(d.varint()), N: d.varint(), Per: time.Duration(d.varint())}
	if drip.Unit >= bucket.NumUnits || drip.N < 1 || drip.Per < 1 || drip.Ready < 0 {
		d.fail("drip %v", *drip)
	}
}

func (d *decoder) limits(l *bucket.Limits) {
	d.fields("limits", func(field int) bool {
		u := bucket.Unit(field - 1)
		if u >= bucket.NumUnits {
			return false
		}
		l.Set(u, list(d, bucket.MaxRates, 1, (*decoder).rate))
		return true
	})
}

func (d *decoder) rate(r *bucket.Rate) {
	r.Burst = -1
	d.fields("a rate", func(field int) bool {
		switch field {
		case rateN:
			r.N = d.varint()
		case ratePer:
			r.Per = time.Duration(d.varint())
		case rateBurst:
			r.Burst = d.varint()
		case rateKind:
			r.Kind = bucket.Kind(d.small())
		case ratePace:
			r.Pace = d.varint()
		case rateZone:
			r.Zone = d.string(maxZone)
		case rateEvery:
			r.Every = bucket.Period(d.small())
		default:
			return false
		}
		return true
	})
	if r.Burst == -1 {
		r.Burst = defaultBurst(r)
	}
}

// small reads a number of one byte.
func (d *decoder) small() byte {
	n := d.varint()
	if n < 0 || n > 255 {
		d.fail("number %d: want 0 to 255", n)
		return 0
	}
	return byte(n)
}
