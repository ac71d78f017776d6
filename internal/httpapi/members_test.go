package httpapi

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestMembersThatStandTwiceAreRefused(t *testing.T) {
	for body, twice := range map[string]string{
		`{}`: "", `[]`: "", `1`: "", `"a"`: "", `null`: "",
		`{"a":1,"b":1}`:                         "",
		`{"a":"a","b":"a"}`:                     "",
		`{"a":{"a":{"a":1}}}`:                   "",
		`[{"a":1},{"a":1}]`:                     "",
		`{"a":["a","a",{"a":1}],"b":"\"a\":1"}`: "",
		`{"a\\":1,"a":"\\","b":1}`:              "",
		` { "a" : 1 , "a" : 2 } `:               "a",
		`{"a":1,"\u0061":2}`:                    "a",
		`{"limits":{},"LIMITS":{}}`:             "LIMITS",
		"{\"k\":1,\"\u212a\":2}":                "\u212a",
		"{\"s\":1,\"\u017f\":2}":                "\u017f",
		`[0,{"b":[{"a":1,"c":{},"a":1}]}]`:      "a",
		`{"a":[1,2],"b":"]","a":3}`:             "a",
	} {
		require.True(t, json.Valid([]byte(body)), body)
		err := checkMembers([]byte(body))
		if twice == "" {
			assert.NoError(t, err, body)
			continue
		}
		if assert.Error(t, err, body) {
			assert.Contains(t, err.Error(), `is there twice`, body)
		}
	}
	long := strings.Repeat("x", 1000)
	assert.Less(t, len(checkMembers([]byte(`{"`+long+`":1,"`+long+`":2}`)).Error()), 100)
}

// FuzzMembers compares checkMembers with a decoder of package json that keeps all
// members.
func FuzzMembers(f *testing.F) {
	for _, s := range []string{`{"a":{"a":[{"b":1},"c"]},"b":"\"}"}`, `{"a":1,"A":2}`, `[[],{}]`, `{"\\":"\\\"","":""}`, `{"a":1E1000}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if !json.Valid(b) {
			return
		}
		d := json.NewDecoder(strings.NewReader(string(b)))
		d.UseNumber() // of any size: they are not the matter here
		assert.Equal(t, twiceByDecoder(t, d), checkMembers(b) != nil, "%s", b)
	})
}

// twiceByDecoder reports whether an object in the next value has a name twice.
func twiceByDecoder(t *testing.T, d *json.Decoder) (twice bool) {
	token, err := d.Token()
	require.NoError(t, err)
	open, _ := token.(json.Delim)
	names := make(map[string]bool)
	for open != 0 && d.More() {
		if open == '{' {
			name, err := d.Token()
			require.NoError(t, err)
			folded := strings.ToUpper(strings.ToLower(name.(string)))
			twice = twice || names[folded]
			names[folded] = true
		}
		twice = twiceByDecoder(t, d) || twice
	}
	if open != 0 {
		_, err := d.Token()
		require.NoError(t, err)
	}
	return twice
}
