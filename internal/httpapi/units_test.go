package httpapi

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/choked/choked/bucket"
)

// A level is encoded without the units that are not limited.
func TestALevelIsReadAsItIsWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := bucket.Limits{}.Burst()
		limited := 0
		for u := range bucket.NumUnits {
			if rapid.Bool().Draw(t, "limited") {
				c = c.With(u, rapid.Int64Range(-bucket.MaxUnits, bucket.MaxUnits).Draw(t, u.String()))
				limited++
			}
		}
		b, err := json.Marshal(Level(c))
		if err != nil || strings.Count(string(b), ":") != limited {
			t.Fatalf("%v is %s, %v", c, b, err)
		}
		var l Level
		if err := json.Unmarshal(b, &l); err != nil || bucket.Cost(l) != c {
			t.Fatalf("%v was read as %v, %v", c, l, err)
		}
	})
}

func TestMalformedUnitsAreErrors(t *testing.T) {
	for _, c := range []struct {
		into         any
		body, reason string
	}{
		{new(Level), `{"bytes":1}`, `unit "bytes": want one of ["requests" "tokens" "input" "output" "spend_microdollars"]`},
		{new(Level), `{"spend":1}`, `unit "spend": want one of`},
		{new(LeaseRequest), `{"need":{"spend":1}}`, `unknown field "spend"`},
		{new(LeaseRequest), `{"need":{"spend_microdollars":0.05}}`, `cannot unmarshal number 0.05`},
		{new(Level), `7`, `level "7": want an object`},
		{new(Limits), `7`, `limits "7": want a string such as "requests 50/s; tokens 100000/m"`},
		{new(Limits), `"bytes 5/s"`, `unit "bytes": want requests`},
		{new(Limits), `"spend 5/s"`, `want dollars`},
		{new(LeaseRequest), `{"need":{"bytes":1}}`, `unknown field "bytes"`},
	} {
		if err := Decode([]byte(c.body), c.into); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%T from %s: %v, want %q", c.into, c.body, err, c.reason)
		}
	}
	drip := Lease{Drips: []Drip{{Unit: "bytes", N: 1, Per: 1}}}
	if _, err := drip.Value(); err == nil || !strings.Contains(err.Error(), `unit "bytes"`) {
		t.Errorf("a drip of an unknown unit: %v", err)
	}
}
