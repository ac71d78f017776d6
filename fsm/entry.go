package fsm

import (
	"encoding/binary"
	"fmt"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// version is the first byte of entries and snapshots. Those of another version are
// refused with an error.
const version = 2

// maxOps bounds the operations in one entry.
const maxOps = 1 << 16

// Entry is one log entry: operations and the instant at which they are applied. The
// leader sets the instant before it proposes the entry. A clock read by Apply would
// give every replica a different level.
type Entry struct {
	At  int64 // nanoseconds of the store's time
	Ops []ledger.Op

	// Stamps is the leader's wall clock, with the resets around it of the calendars of
	// these keys; nil: they have none. Replicas know no time zones.
	Stamps *bucket.Stamps
}

// Encode returns e as bytes for the log.
func (e *Entry) Encode() []byte {
	b := make([]byte, 0, 16+96*len(e.Ops))
	b = append(b, version)
	b = binary.AppendVarint(b, e.At)
	b = binary.AppendUvarint(b, uint64(len(e.Ops)))
	for _, op := range e.Ops {
		b = ledger.AppendOp(b, op)
	}
	return ledger.AppendStamps(b, e.Stamps)
}

// Decode reads what [Entry.Encode] returned.
func Decode(b []byte) (Entry, error) {
	fail := func(what string) (Entry, error) {
		return Entry{}, fmt.Errorf("log entry of %d bytes: %s", len(b), what)
	}
	if len(b) == 0 {
		return fail("empty")
	}
	if b[0] != version {
		return fail(fmt.Sprintf("version %d: this release reads %d", b[0], version))
	}
	rest := b[1:]
	at, n := binary.Varint(rest)
	if n <= 0 || at < 0 {
		return fail("no time")
	}
	rest = rest[n:]
	count, n := binary.Uvarint(rest)
	if n <= 0 || count > maxOps || count > uint64(len(rest)) {
		return fail("no count of operations")
	}
	rest = rest[n:]
	e := Entry{At: at, Ops: make([]ledger.Op, count)}
	for i := range e.Ops {
		var err error
		if e.Ops[i], rest, err = ledger.ParseOp(rest); err != nil {
			return fail(err.Error())
		}
	}
	var err error
	if e.Stamps, rest, err = ledger.ParseStamps(rest); err != nil {
		return fail(err.Error())
	}
	if len(rest) > 0 {
		return fail(fmt.Sprintf("%d bytes too many", len(rest)))
	}
	return e, nil
}
