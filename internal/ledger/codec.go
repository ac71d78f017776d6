package ledger

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"github.com/choked/choked/bucket"
)

// The encoding of operations, results and tables, for logs, snapshots and
// wires. It consists of varints and has no version of its own: the frame around it
// has one. Decoding terminates on any input, allocates in proportion to it at most,
// and reports malformed input as an error.

// Bounds of the decoder.
const (
	maxDrips      = 2 * bucket.MaxRates
	maxShortfalls = 1 << 7
	maxError      = 1 << 10
	maxLeases     = 1 << 20
	maxRoom       = 1 << 20 // buckets allocated before they are read
)

// Kinds of operation.
const (
	kindAsk = iota + 1
	kindSettlement
	kindAdjustment
	kindColdStart
)

// AppendOp appends the encoding of op to b.
func AppendOp(b []byte, op Op) []byte {
	switch op := op.(type) {
	case *bucket.Ask:
		b = append(b, kindAsk)
		b = appendString(b, op.Key)
		b = appendID(b, op.ID)
		b = appendLimits(b, op.Limits)
		b = binary.AppendVarint(b, op.Defined)
		b = appendCost(b, op.Need)
		b = appendCost(b, op.Want)
		b = binary.AppendVarint(b, int64(op.MaxWait))
		b = binary.AppendUvarint(b, uint64(len(op.Done)))
		for i := range op.Done {
			b = appendSettlement(b, &op.Done[i])
		}
	case *bucket.Settlement:
		b = append(b, kindSettlement)
		b = appendSettlement(b, op)
	case *bucket.Adjustment:
		b = append(b, kindAdjustment)
		b = appendString(b, op.Key)
		b = appendLimits(b, op.Limits)
		b = binary.AppendVarint(b, op.Defined)
		b = appendCost(b, op.Return)
		b = binary.AppendVarint(b, op.Since)
		b = appendCost(b, op.Charge)
		b = binary.AppendVarint(b, int64(op.Empty))
	case *ColdStart:
		b = append(b, kindColdStart)
	}
	return b
}

// ParseOp reads an operation from the front of b and returns what follows it.
// It does not check the operation.
func ParseOp(b []byte) (Op, []byte, error) {
	d := decoder{b: b}
	var op Op
	switch kind := d.byte(); kind {
	case kindAsk:
		a := &bucket.Ask{Key: d.string(bucket.MaxKey), ID: d.id(), Limits: d.limits(), Defined: d.varint(), Need: d.cost(), Want: d.cost(),
			MaxWait: time.Duration(d.varint())}
		if n := d.count(bucket.MaxDone, 5); n > 0 {
			a.Done = make([]bucket.Settlement, n)
			for i := range a.Done {
				a.Done[i] = d.settlement()
			}
		}
		op = a
	case kindSettlement:
		s := d.settlement()
		op = &s
	case kindAdjustment:
		op = &bucket.Adjustment{Key: d.string(bucket.MaxKey), Limits: d.limits(), Defined: d.varint(), Return: d.cost(), Since: d.varint(), Charge: d.cost(),
			Empty: time.Duration(d.varint())}
	case kindColdStart:
		op = new(ColdStart)
	default:
		d.fail("operation of kind %d", kind)
	}
	return op, d.b, d.err
}

// Outcomes of an operation.
const (
	outcomeDone = iota
	outcomeRefused
	outcomeGranted
	outcomeError
	outcomeExceedsBurst
	outcomeNoQuorum
	outcomeClosed
	outcomeUnavailable
)

// AppendResult appends the encoding of r to b. An error is encoded as its text and
// the error of package bucket that it wraps, if any.
func AppendResult(b []byte, r Result) []byte {
	g := &r.Grant
	switch {
	case r.Err != nil:
		kind := byte(outcomeError)
		for _, s := range sentinels {
			if errors.Is(r.Err, s.err) {
				kind = s.kind
			}
		}
		text := r.Err.Error()
		return appendString(append(b, kind), text[:min(len(text), maxError)])
	case g.OK:
		b = append(b, outcomeGranted)
		b = appendCost(b, g.Granted)
		b = binary.AppendVarint(b, int64(g.TTL))
		b = binary.AppendUvarint(b, uint64(len(g.Drips)))
		for _, drip := range g.Drips {
			b = appendDrip(b, drip)
		}
	case g.RetryAfter > 0:
		b = append(b, outcomeRefused)
		b = binary.AppendVarint(b, int64(g.RetryAfter))
	default:
		return append(b, outcomeDone)
	}
	return binary.AppendVarint(appendCost(b, g.Level), g.At)
}

// ParseResult reads a result from the front of b and returns what follows it.
func ParseResult(b []byte) (Result, []byte, error) {
	d := decoder{b: b}
	var r Result
	switch kind := d.byte(); kind {
	case outcomeDone:
	case outcomeRefused:
		r.Grant = bucket.Grant{RetryAfter: time.Duration(d.varint()), Level: d.cost(), At: d.varint()}
	case outcomeGranted:
		r.Grant = bucket.Grant{OK: true, Granted: d.cost(), TTL: time.Duration(d.varint()), Drips: d.drips(), Level: d.cost(), At: d.varint()}
	case outcomeError:
		r.Err = errors.New(d.string(maxError))
	default:
		i := slices.IndexFunc(sentinels[:], func(s sentinel) bool { return s.kind == kind })
		if i < 0 {
			d.fail("result of kind %d", kind)
			break
		}
		r.Err = &remoteError{d.string(maxError), sentinels[i].err}
	}
	return r, d.b, d.err
}

type sentinel struct {
	kind byte
	err  error
}

// sentinels are the errors that callers branch on, in such an order that an error
// follows the errors that it wraps.
var sentinels = [...]sentinel{
	{outcomeUnavailable, bucket.ErrUnavailable}, {outcomeNoQuorum, bucket.ErrNoQuorum},
	{outcomeExceedsBurst, bucket.ErrCostExceedsBurst}, {outcomeClosed, bucket.ErrClosed},
}

// remoteError is a decoded error.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }

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
	b = appendLimits(b, *s.Limits)
	b = binary.AppendVarint(b, s.Defined)
	if s.Former == nil {
		b = append(b, 0, 0)
	} else {
		b = appendLimits(b, *s.Former)
	}
	for _, tat := range s.TATs {
		b = binary.AppendVarint(b, tat)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Shortfalls)))
	for _, l := range s.Shortfalls {
		b = binary.AppendVarint(binary.AppendVarint(append(b, l.Rate), l.At), l.Least)
	}
	b = binary.AppendUvarint(b, uint64(len(s.Leases)))
	for i := range s.Leases {
		l := &s.Leases[i]
		b = appendID(b, l.ID)
		b = appendCost(b, l.Granted)
		b = binary.AppendVarint(b, l.Expiry)
		b = binary.AppendUvarint(b, uint64(len(l.Drips)))
		for _, drip := range l.Drips {
			b = appendDrip(b, drip)
		}
	}
	return b
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
	s := bucket.State{Limits: d.sharedLimits(t, seen), Defined: d.varint()}
	rates := len(s.Limits.Requests) + len(s.Limits.Tokens)
	if f := d.limits(); len(f.Requests)+len(f.Tokens) > 0 {
		s.Former = &bucket.Limits{Requests: f.Requests, Tokens: f.Tokens} // not &f, which would put each f on the heap
		rates += len(f.Requests) + len(f.Tokens)
	}
	s.TATs = d.tats[:0]
	for range rates {
		s.TATs = append(s.TATs, d.varint())
	}
	s.Shortfalls = d.shortfalls[:0]
	for range d.count(maxShortfalls, 3) {
		s.Shortfalls = append(s.Shortfalls, bucket.Shortfall{Rate: d.byte(), At: d.varint(), Least: d.varint()})
	}
	if n := d.count(maxLeases, 6); n > 0 {
		s.Leases = make([]bucket.HeldLease, n)
	}
	for i := range s.Leases {
		s.Leases[i] = bucket.HeldLease{ID: d.id(), Granted: d.cost(), Expiry: d.varint(), Drips: d.drips()}
	}
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

// sharedLimits reads limits that many buckets have, and decodes each set once.
func (d *decoder) sharedLimits(t *Table, seen map[string]*bucket.Limits) *bucket.Limits {
	from := d.b
	for range bucket.NumUnits {
		for range 3 * int(d.byte()) {
			d.varint()
		}
	}
	if d.err != nil {
		return new(bucket.Limits)
	}
	name := from[:len(from)-len(d.b)]
	if l := seen[string(name)]; l != nil {
		return l
	}
	d.b = from
	limits := d.limits()
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

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendID(b []byte, id bucket.LeaseID) []byte {
	return binary.AppendUvarint(binary.BigEndian.AppendUint64(b, id.Holder), id.Seq)
}

func appendCost(b []byte, c bucket.Cost) []byte {
	return binary.AppendVarint(binary.AppendVarint(b, c.Requests), c.Tokens)
}

func appendSettlement(b []byte, s *bucket.Settlement) []byte {
	return appendCost(appendID(appendString(b, s.Key), s.ID), s.Spent)
}

func appendDrip(b []byte, d bucket.Drip) []byte {
	b = append(b, byte(d.Unit))
	b = binary.AppendVarint(b, int64(d.Ready))
	b = binary.AppendVarint(b, d.N)
	return binary.AppendVarint(b, int64(d.Per))
}

func appendLimits(b []byte, l bucket.Limits) []byte {
	for u := range bucket.NumUnits {
		rs := l.Of(u)
		b = append(b, byte(len(rs)))
		for _, r := range rs {
			b = binary.AppendVarint(b, r.N)
			b = binary.AppendVarint(b, int64(r.Per))
			b = binary.AppendVarint(b, r.Burst)
		}
	}
	return b
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

func (d *decoder) cost() bucket.Cost { return bucket.Cost{Requests: d.varint(), Tokens: d.varint()} }

func (d *decoder) settlement() bucket.Settlement {
	return bucket.Settlement{Key: d.string(bucket.MaxKey), ID: d.id(), Spent: d.cost()}
}

func (d *decoder) drips() []bucket.Drip {
	n := d.count(maxDrips, 4)
	if n == 0 {
		return nil
	}
	drips := make([]bucket.Drip, n)
	for i := range drips {
		drip := bucket.Drip{Unit: bucket.Unit(d.byte()), Ready: time.Duration(d.varint()), N: d.varint(), Per: time.Duration(d.varint())}
		if drip.Unit > bucket.Tokens || drip.N < 1 || drip.Per < 1 || drip.Ready < 0 {
			d.fail("drip %v", drip)
		}
		drips[i] = drip
	}
	return drips
}

func (d *decoder) limits() bucket.Limits {
	var l bucket.Limits
	for _, rs := range []*bucket.Rates{&l.Requests, &l.Tokens} {
		n := int(d.byte())
		if n > bucket.MaxRates {
			d.fail("%d rates: want at most %d", n, bucket.MaxRates)
		}
		for i := 0; i < n && d.err == nil; i++ {
			*rs = append(*rs, bucket.Rate{N: d.varint(), Per: time.Duration(d.varint()), Burst: d.varint()})
		}
	}
	return l
}
