package ledger

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/choked/choked/bucket"
)

func TestOperationsAreReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		for _, e := range anyLog(t) {
			b := append(AppendOp(nil, e.op), "rest"...)
			op, rest, err := ParseOp(b)
			if err != nil || string(rest) != "rest" || fmt.Sprintf("%+v", op) != fmt.Sprintf("%+v", e.op) {
				t.Fatalf("%+v was read as %+v, before %q, %v", e.op, op, rest, err)
			}
		}
	})
}

func TestResultsAreReadAsTheyAreWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		tab := NewTable()
		for _, e := range anyLog(t) {
			r := e.apply(tab)
			got, rest, err := ParseResult(AppendResult(nil, r))
			if err != nil || len(rest) > 0 || !reflect.DeepEqual(got.Grant, r.Grant) || (got.Err == nil) != (r.Err == nil) {
				t.Fatalf("%+v was read as %+v, before %q, %v", r, got, rest, err)
			}
			if r.Err != nil && (got.Err.Error() != r.Err.Error() || errors.Is(got.Err, bucket.ErrCostExceedsBurst) != errors.Is(r.Err, bucket.ErrCostExceedsBurst)) {
				t.Fatalf("%v was read as %v", r.Err, got.Err)
			}
		}
	})
}

// What a key does not limit costs no bytes.
func TestUnitsThatAreNotLimitedTakeNoBytes(t *testing.T) {
	limits := bucket.Limits{Requests: bucket.Rates{{N: 10, Per: s, Burst: 10}}}
	ask := &bucket.Ask{Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: 1}, Limits: limits, Need: bucket.Cost{Requests: 1}, Want: bucket.Cost{Requests: 1}}
	if n := len(AppendOp(nil, ask)); n > 40 {
		t.Errorf("an ask for a request has %d bytes, want at most 40", n)
	}
	r := NewTable().Apply(0, ask)
	if r.Err != nil {
		t.Fatal(r.Err)
	}
	if n := len(AppendResult(nil, r)); n > 20 {
		t.Errorf("the grant of a request has %d bytes, want at most 20", n)
	}
}

func TestMalformedRecordsAreErrors(t *testing.T) {
	for _, c := range []struct{ name, op, want string }{
		{"a field of a later version", "\x02\x01\x01k\x09", "field 9 of a settlement: unknown to this version"},
		{"a field twice", "\x02\x01\x01k\x01\x01k\x00", "field 1 of a settlement follows field 1"},
		{"fields out of order", "\x02\x03\x01\x02\x01\x01k\x00", "field 1 of a settlement follows field 3"},
		{"a unit of a later version", "\x02\x03\x20\x02\x00", "units 0b100000: want at most 5 kinds"},
		{"limits on a unit of a later version", "\x01\x03\x06\x01\x01\x02\x00\x00\x00", "field 6 of limits: unknown"},
		{"a rate of a later version", "\x01\x03\x01\x01\x08\x02\x00\x00\x00", "field 8 of a rate: unknown"},
		{"a kind that does not fit", "\x01\x03\x01\x01\x07\x80\x04\x00\x00\x00", "number 256: want 0 to 255"},
		{"no end", "\x02\x01\x01k", "input ends early"},
		{"more settlements than bytes", "\x01\x08\xff\x07", "1023 items: more than the input holds"},
	} {
		if _, _, err := ParseOp([]byte(c.op)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestStampsAreReadAsTheyAreWritten(t *testing.T) {
	for _, s := range []*bucket.Stamps{nil, {Wall: 5}, {Wall: 1 << 60, Zones: []bucket.ZoneStamp{{Zone: "UTC", Every: bucket.Daily, Before: 1, Next: 2}, {Zone: "Europe/Berlin", Every: bucket.Weekly, Next: 7}}}} {
		got, rest, err := ParseStamps(append(AppendStamps(nil, s), "rest"...))
		if err != nil || string(rest) != "rest" || !reflect.DeepEqual(got, s) {
			t.Errorf("%+v was read as %+v, before %q, %v", s, got, rest, err)
		}
	}
	if _, _, err := ParseStamps([]byte("\x02\xff\xff\x03")); err == nil {
		t.Error("more zones than bytes are read")
	}
}

func FuzzParse(f *testing.F) {
	limits := bucket.Limits{Requests: bucket.Rates{{N: 10, Per: s, Burst: 3}}, Spend: bucket.Rates{{N: 7, Per: time.Hour, Burst: 7}}}
	f.Add(AppendOp(nil, &bucket.Ask{Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: 1}, Limits: limits, Need: bucket.Cost{Requests: 1, Spend: 2}}))
	f.Add(AppendOp(nil, &bucket.Adjustment{Key: "k", Limits: limits, Charge: bucket.Cost{Output: 1}, Empty: time.Second}))
	kinds := allKinds(f)
	f.Add(AppendOp(nil, &bucket.Adjustment{Key: "k", Limits: kinds, Return: bucket.Cost{Output: 1}, Lease: bucket.LeaseID{Holder: 1, Seq: 2}}))
	f.Add(AppendOp(nil, &bucket.Settlement{Key: "k", Spent: bucket.Cost{Output: 1}, Parts: []bucket.Spending{{Age: 5, Cost: bucket.Cost{Output: 1}}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if op, _, err := ParseOp(b); err == nil {
			again, rest, err := ParseOp(AppendOp(nil, op))
			if err != nil || len(rest) > 0 || !reflect.DeepEqual(again, op) {
				t.Errorf("%+v was read again as %+v, before %q, %v", op, again, rest, err)
			}
		}
		if r, _, err := ParseResult(b); err == nil {
			if _, rest, err := ParseResult(AppendResult(nil, r)); err != nil || len(rest) > 0 {
				t.Errorf("%+v cannot be read again: %v", r, err)
			}
		}
	})
}
