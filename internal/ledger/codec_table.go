package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/choked/choked/bucket"
)

// Bounds of the decoder.
const (
	maxShortfalls = int(bucket.NumUnits) << 6
	maxLeases     = 1 << 20
	maxRoom       = 1 << 20 // buckets allocated before they are read
	maxSlots      = 1 << 6  // of a window
)

// Fields of a bucket. Arrival times come after all limits, which say how many they
// are.
const (
	bucketLimits = iota + 1
	bucketDefined
	bucketFormer
	bucketTATs
	bucketShortfalls
	bucketLeases
	bucketCounters
)

// Fields of a lease.
const (
	leaseID = iota + 1
	leaseGranted
	leaseExpiry
	leaseDrips
	leaseAt
)

// Fields of the counters of a bucket.
const (
	countersRates = iota + 1
	countersShut
	countersSince
)

// Fields of the counter of a rate.
const (
	counterSlots = iota + 1
	counterDay
)

// AppendTable appends the encoding of t to b: its time and the buckets that are
// not idle, in the order of their keys and as of its time. Tables that are equal
// have equal encodings.
func AppendTable(b []byte, t *Table) []byte {
	b = appendHead(b, t.now, t.cold, 0)
	for _, key := range slices.Sorted(maps.Keys(t.buckets)) {
		if e := t.buckets[key]; !e.Idle(t.now) {
			b = appendBucket(appendString(b, key), e.StateAt(t.now))
		}
	}
	return appendString(b, "")
}

// appendHead appends the head of a table: its time, and the number of its buckets, or
// 0 if it is not known.
func appendHead(b []byte, now, cold int64, buckets int) []byte {
	return binary.AppendUvarint(binary.AppendVarint(binary.AppendVarint(b, now), cold), uint64(buckets))
}

func appendBucket(b []byte, s bucket.State) []byte {
	b = limitsField(b, bucketLimits, s.Limits)
	b = intField(b, bucketDefined, s.Defined)
	if s.Former != nil {
		b = limitsField(b, bucketFormer, s.Former)
	}
	b = append(b, bucketTATs)
	for _, tat := range s.TATs {
		b = binary.AppendVarint(b, tat)
	}
	b = listField(b, bucketShortfalls, s.Shortfalls, appendShortfall)
	b = listField(b, bucketLeases, s.Leases, appendLease)
	if s.Counters != nil {
		b = appendCounters(append(b, bucketCounters), s.Counters)
	}
	return append(b, 0)
}

func appendCounters(b []byte, c *bucket.Counters) []byte {
	b = listField(b, countersRates, c.Rates, appendCounter)
	var shut bucket.Cost // instants, in the form of units
	for u, t := range c.Shut {
		shut = shut.With(bucket.Unit(u), t)
	}
	b = costField(b, countersShut, shut)
	b = intField(b, countersSince, c.Since)
	return append(b, 0)
}

func appendCounter(b []byte, c *bucket.Counter) []byte {
	last := int64(0)
	b = listField(b, counterSlots, c.Slots, func(b []byte, x *bucket.Slot) []byte {
		b = binary.AppendVarint(b, x.Index-last)
		last = x.Index
		return binary.AppendVarint(b, x.N)
	})
	if c.Day != (bucket.Day{}) {
		b = append(b, counterDay)
		for _, v := range dayFields(&c.Day) {
			b = binary.AppendVarint(b, *v)
		}
	}
	return append(b, 0)
}

// dayFields returns the fields of d in the order of their encoding.
func dayFields(d *bucket.Day) []*int64 {
	return []*int64{&d.From, &d.Reset, &d.Today, &d.Tomorrow, &d.TodaySince, &d.TomorrowSince, &d.Pending, &d.Wall, &d.Stamped}
}

func appendShortfall(b []byte, x *bucket.Shortfall) []byte {
	return binary.AppendVarint(binary.AppendVarint(append(b, x.Rate), x.At), x.Least)
}

func appendLease(b []byte, l *bucket.HeldLease) []byte {
	b = idField(b, leaseID, l.ID)
	b = costField(b, leaseGranted, l.Granted)
	b = intField(b, leaseExpiry, l.Expiry)
	b = listField(b, leaseDrips, l.Drips, appendDrip)
	b = intField(b, leaseAt, l.At)
	return append(b, 0)
}

// ReadTable reads a table, as [AppendTable] or a [Snapshot] encodes it, up to the
// end of r. It holds the encoding of only some buckets at a time in memory.
func ReadTable(r io.Reader) (*Table, error) { return readTable(&input{r: r, piece: 64 << 10}) }

func readTable(in *input) (*Table, error) {
	t := NewTable()
	if err := in.decode(func(d *decoder) {
		if t.now = d.varint(); t.now < 0 {
			d.fail("time %d of a table: want at least 0", t.now)
		}
		t.cold = d.instant()
		t.buckets = make(map[string]entry, min(d.uvarint(), maxRoom)) // as many as there were, or a guess
	}); err != nil {
		return nil, err
	}
	seen := make(map[string]*bucket.Limits) // by their encoding
	for {
		var key string
		var b *bucket.Bucket
		if err := in.decode(func(d *decoder) {
			if key = d.string(bucket.MaxKey); key != "" {
				b = d.bucket(t, seen)
			}
		}); err != nil {
			return nil, err
		}
		if key == "" {
			return t, in.end()
		}
		before := len(t.buckets)
		if t.buckets[key] = (entry{Bucket: b}); len(t.buckets) == before {
			return nil, fmt.Errorf("decode: key %q twice", key)
		}
	}
}

// input is a stream that is decoded item by item.
type input struct {
	r     io.Reader
	piece int // bytes read at a time, at first

	d    decoder
	buf  []byte
	rest []byte // part of buf that is not decoded yet
	err  error  // of reading r
}

// decode calls f to decode the next item. If f fails, the item may be cut off, so f
// is called again with more of the stream until its end.
func (in *input) decode(f func(*decoder)) error {
	for {
		in.d.b, in.d.err = in.rest, nil
		f(&in.d)
		switch {
		case in.d.err == nil:
			in.rest = in.d.b
			return nil
		case in.err == io.EOF:
			return in.d.err
		case in.err != nil:
			return in.err
		}
		in.more()
	}
}

// more reads at least as many bytes as are not decoded yet.
func (in *input) more() {
	if 2*len(in.rest) >= len(in.buf) {
		in.buf = slices.Concat(in.rest, make([]byte, max(len(in.rest), in.piece)))
	} else {
		copy(in.buf, in.rest)
	}
	n := len(in.rest)
	for n < len(in.buf) && in.err == nil {
		var m int
		m, in.err = in.r.Read(in.buf[n:])
		n += m
	}
	in.rest = in.buf[:n]
}

// end returns an error if anything follows the last item, or if reading fails.
func (in *input) end() error {
	switch in.more(); {
	case len(in.rest) > 0:
		return errors.New("decode: bytes follow the end of the table")
	case in.err != io.EOF:
		return in.err
	}
	return nil
}

// bucket reads one bucket. A state that no operations can lead to is an error.
func (d *decoder) bucket(t *Table, seen map[string]*bucket.Limits) *bucket.Bucket {
	s := bucket.State{Limits: new(bucket.Limits), TATs: d.tats[:0], Shortfalls: d.shortfalls[:0]}
	d.fields("a bucket", func(field int) bool {
		switch field {
		case bucketLimits:
			s.Limits = d.sharedLimits(t, seen)
		case bucketDefined:
			s.Defined = d.varint()
		case bucketFormer:
			s.Former = new(bucket.Limits)
			d.limits(s.Former)
		case bucketTATs:
			rates := s.Limits.Len()
			if s.Former != nil {
				rates += s.Former.Len()
			}
			for range rates {
				s.TATs = append(s.TATs, d.varint())
			}
		case bucketShortfalls:
			for range d.count(maxShortfalls, 3) {
				s.Shortfalls = append(s.Shortfalls, bucket.Shortfall{Rate: d.byte(), At: d.varint(), Least: d.varint()})
			}
		case bucketLeases:
			s.Leases = list(d, maxLeases, 8, (*decoder).lease)
		case bucketCounters:
			s.Counters = d.counters()
		default:
			return false
		}
		return true
	})
	d.tats, d.shortfalls = s.TATs, s.Shortfalls
	if d.err != nil {
		return nil
	}
	b, err := bucket.Restore(s)
	if err != nil {
		d.fail("%v", err)
	}
	return b
}

func (d *decoder) counters() *bucket.Counters {
	c := new(bucket.Counters)
	d.fields("counters", func(field int) bool {
		switch field {
		case countersRates:
			c.Rates = list(d, 2*maxDrips, 1, (*decoder).counter)
		case countersShut:
			shut := d.cost()
			for u := range c.Shut {
				c.Shut[u] = shut.Of(bucket.Unit(u))
			}
		case countersSince:
			c.Since = d.varint()
		default:
			return false
		}
		return true
	})
	return c
}

func (d *decoder) counter(c *bucket.Counter) {
	d.fields("a counter", func(field int) bool {
		switch field {
		case counterSlots:
			last := int64(0)
			c.Slots = list(d, maxSlots, 2, func(d *decoder, x *bucket.Slot) {
				last += d.varint()
				*x = bucket.Slot{Index: last, N: d.varint()}
			})
		case counterDay:
			for _, v := range dayFields(&c.Day) {
				*v = d.varint()
			}
		default:
			return false
		}
		return true
	})
}

func (d *decoder) lease(l *bucket.HeldLease) {
	d.fields("a lease", func(field int) bool {
		switch field {
		case leaseID:
			l.ID = d.id()
		case leaseGranted:
			l.Granted = d.cost()
		case leaseExpiry:
			l.Expiry = d.varint()
		case leaseDrips:
			l.Drips = list(d, maxDrips, 4, (*decoder).drip)
		case leaseAt:
			l.At = d.varint()
		default:
			return false
		}
		return true
	})
}

// sharedLimits reads limits that many buckets have, and decodes each set once.
func (d *decoder) sharedLimits(t *Table, seen map[string]*bucket.Limits) *bucket.Limits {
	from := d.b
	d.skipLimits()
	if d.err != nil {
		return new(bucket.Limits)
	}
	name := from[:len(from)-len(d.b)]
	if l := seen[string(name)]; l != nil {
		return l
	}
	d.b = from
	var limits bucket.Limits
	d.limits(&limits)
	if err := limits.Check(); err != nil {
		d.fail("%v", err)
	}
	if d.err != nil {
		return new(bucket.Limits)
	}
	l := t.share(limits)
	if len(seen) < maxShared {
		seen[string(name)] = l
	}
	return l
}

// skipLimits passes over limits without keeping them. All fields of a rate are numbers,
// but for the time zone.
func (d *decoder) skipLimits() {
	for d.byte() != 0 {
		for range d.count(bucket.MaxRates, 1) {
			for field := d.byte(); field != 0; field = d.byte() {
				if field == rateZone {
					d.string(maxZone)
				} else {
					d.varint()
				}
			}
		}
	}
}
