package ledger

import (
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"github.com/choked/choked/bucket"
)

// The encoding of operations, results and tables, for logs, snapshots and wires. It
// has no version of its own: the frame around it has one. Decoding terminates on any
// input, allocates in proportion to it at most, and reports malformed input as an
// error.
//
// A record is its fields in the order of their numbers, each its number and its
// value, and a 0. A field whose value is zero is left out, so a key costs nothing for
// what it does not limit. A field of an unknown number is an error: a store that
// passed over it would not decide as the others do.

// Kinds of operation.
const (
	kindAsk = iota + 1
	kindSettlement
	kindAdjustment
	kindColdStart
)

// Fields of an ask.
const (
	askKey = iota + 1
	askID
	askLimits
	askDefined
	askNeed
	askWant
	askMaxWait
	askDone
)

// Fields of a settlement.
const (
	settlementKey = iota + 1
	settlementID
	settlementSpent
	settlementParts
)

// Fields of an adjustment.
const (
	adjustmentKey = iota + 1
	adjustmentLimits
	adjustmentDefined
	adjustmentReturn
	adjustmentSince
	adjustmentCharge
	adjustmentEmpty
	adjustmentLease
)

// AppendOp appends the encoding of op to b.
func AppendOp(b []byte, op Op) []byte {
	switch op := op.(type) {
	case *bucket.Ask:
		return appendAsk(append(b, kindAsk), op)
	case *bucket.Settlement:
		return appendSettlement(append(b, kindSettlement), op)
	case *bucket.Adjustment:
		return appendAdjustment(append(b, kindAdjustment), op)
	case *ColdStart:
		return append(b, kindColdStart, 0)
	}
	return b
}

func appendAsk(b []byte, a *bucket.Ask) []byte {
	b = stringField(b, askKey, a.Key)
	b = idField(b, askID, a.ID)
	b = limitsField(b, askLimits, &a.Limits)
	b = intField(b, askDefined, a.Defined)
	b = costField(b, askNeed, a.Need)
	b = costField(b, askWant, a.Want)
	b = intField(b, askMaxWait, int64(a.MaxWait))
	b = listField(b, askDone, a.Done, appendSettlement)
	return append(b, 0)
}

func appendSettlement(b []byte, s *bucket.Settlement) []byte {
	b = stringField(b, settlementKey, s.Key)
	b = idField(b, settlementID, s.ID)
	b = costField(b, settlementSpent, s.Spent)
	b = listField(b, settlementParts, s.Parts, appendSpending)
	return append(b, 0)
}

// appendSpending appends the age of p, and its units without the number of a field.
func appendSpending(b []byte, p *bucket.Spending) []byte {
	return appendUnits(binary.AppendVarint(b, int64(p.Age)), p.Cost, 0)
}

func appendAdjustment(b []byte, a *bucket.Adjustment) []byte {
	b = stringField(b, adjustmentKey, a.Key)
	b = limitsField(b, adjustmentLimits, &a.Limits)
	b = intField(b, adjustmentDefined, a.Defined)
	b = costField(b, adjustmentReturn, a.Return)
	b = intField(b, adjustmentSince, a.Since)
	b = costField(b, adjustmentCharge, a.Charge)
	b = intField(b, adjustmentEmpty, int64(a.Empty))
	b = idField(b, adjustmentLease, a.Lease)
	return append(b, 0)
}

// ParseOp reads an operation from the front of b and returns what follows it.
// It does not check the operation.
func ParseOp(b []byte) (Op, []byte, error) {
	d := decoder{b: b}
	var op Op
	switch kind := d.byte(); kind {
	case kindAsk:
		op = d.ask()
	case kindSettlement:
		s := new(bucket.Settlement)
		d.settlement(s)
		op = s
	case kindAdjustment:
		op = d.adjustment()
	case kindColdStart:
		d.fields("a cold start", func(int) bool { return false })
		op = new(ColdStart)
	default:
		d.fail("operation of kind %d", kind)
	}
	return op, d.b, d.err
}

func (d *decoder) ask() *bucket.Ask {
	a := new(bucket.Ask)
	d.fields("an ask", func(field int) bool {
		switch field {
		case askKey:
			a.Key = d.string(bucket.MaxKey)
		case askID:
			a.ID = d.id()
		case askLimits:
			d.limits(&a.Limits)
		case askDefined:
			a.Defined = d.varint()
		case askNeed:
			a.Need = d.cost()
		case askWant:
			a.Want = d.cost()
		case askMaxWait:
			a.MaxWait = time.Duration(d.varint())
		case askDone:
			a.Done = list(d, bucket.MaxDone, 1, (*decoder).settlement)
		default:
			return false
		}
		return true
	})
	return a
}

func (d *decoder) settlement(s *bucket.Settlement) {
	d.fields("a settlement", func(field int) bool {
		switch field {
		case settlementKey:
			s.Key = d.string(bucket.MaxKey)
		case settlementID:
			s.ID = d.id()
		case settlementSpent:
			s.Spent = d.cost()
		case settlementParts:
			s.Parts = list(d, bucket.MaxParts, 2, func(d *decoder, p *bucket.Spending) {
				p.Age = time.Duration(d.varint())
				p.Cost = d.cost()
			})
		default:
			return false
		}
		return true
	})
}

func (d *decoder) adjustment() *bucket.Adjustment {
	a := new(bucket.Adjustment)
	d.fields("an adjustment", func(field int) bool {
		switch field {
		case adjustmentKey:
			a.Key = d.string(bucket.MaxKey)
		case adjustmentLimits:
			d.limits(&a.Limits)
		case adjustmentDefined:
			a.Defined = d.varint()
		case adjustmentReturn:
			a.Return = d.cost()
		case adjustmentSince:
			a.Since = d.varint()
		case adjustmentCharge:
			a.Charge = d.cost()
		case adjustmentEmpty:
			a.Empty = time.Duration(d.varint())
		case adjustmentLease:
			a.Lease = d.id()
		default:
			return false
		}
		return true
	})
	return a
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

// Fields of a result.
const (
	resultError = iota + 1
	resultGranted
	resultTTL
	resultDrips
	resultRetryAfter
	resultLevel
	resultAt
)

// maxError bounds the text of an error in bytes.
const maxError = 1 << 10

// AppendResult appends the encoding of r to b. An error is encoded as its text and
// the error of package bucket that it wraps, if any.
func AppendResult(b []byte, r Result) []byte {
	g := &r.Grant
	switch {
	case r.Err != nil:
		text := r.Err.Error()
		return append(stringField(append(b, outcomeOf(r.Err)), resultError, text[:min(len(text), maxError)]), 0)
	case g.OK:
		b = append(b, outcomeGranted)
	case g.RetryAfter > 0:
		b = append(b, outcomeRefused)
	default:
		return append(b, outcomeDone, 0)
	}
	b = costField(b, resultGranted, g.Granted)
	b = intField(b, resultTTL, int64(g.TTL))
	b = listField(b, resultDrips, g.Drips, appendDrip)
	b = intField(b, resultRetryAfter, int64(g.RetryAfter))
	b = levelField(b, resultLevel, g.Level)
	b = intField(b, resultAt, g.At)
	return append(b, 0)
}

// ParseResult reads a result from the front of b and returns what follows it.
func ParseResult(b []byte) (Result, []byte, error) {
	d := decoder{b: b}
	var r Result
	var text string
	outcome := d.byte()
	g := &r.Grant
	d.fields("a result", func(field int) bool {
		switch field {
		case resultError:
			text = d.string(maxError)
		case resultGranted:
			g.Granted = d.cost()
		case resultTTL:
			g.TTL = time.Duration(d.varint())
		case resultDrips:
			g.Drips = list(&d, maxDrips, 4, (*decoder).drip)
		case resultRetryAfter:
			g.RetryAfter = time.Duration(d.varint())
		case resultLevel:
			g.Level = d.level()
		case resultAt:
			g.At = d.varint()
		default:
			return false
		}
		return true
	})
	switch outcome {
	case outcomeDone, outcomeRefused:
	case outcomeGranted:
		g.OK = true
	case outcomeError:
		r.Err = errors.New(text)
	default:
		i := slices.IndexFunc(sentinels[:], func(s sentinel) bool { return s.outcome == outcome })
		if i < 0 {
			d.fail("result of kind %d", outcome)
			break
		}
		r.Err = &remoteError{text, sentinels[i].err}
	}
	return r, d.b, d.err
}

type sentinel struct {
	outcome byte
	err     error
}

// sentinels are the errors that callers branch on, in such an order that an error
// follows the errors that it wraps.
var sentinels = [...]sentinel{
	{outcomeUnavailable, bucket.ErrUnavailable}, {outcomeNoQuorum, bucket.ErrNoQuorum},
	{outcomeExceedsBurst, bucket.ErrCostExceedsBurst}, {outcomeClosed, bucket.ErrClosed},
}

func outcomeOf(err error) byte {
	outcome := byte(outcomeError)
	for _, s := range sentinels {
		if errors.Is(err, s.err) {
			outcome = s.outcome
		}
	}
	return outcome
}

// remoteError is a decoded error.
type remoteError struct {
	text string
	is   error
}

func (e *remoteError) Error() string { return e.text }
func (e *remoteError) Unwrap() error { return e.is }
