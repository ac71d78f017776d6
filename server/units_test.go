package server

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/internal/httpapi"
)

// One text names the limits of all units, another the cost.
func TestAcquireOfAllUnits(t *testing.T) {
	d := open(t, nil)
	const limits = "requests 10/h; input 1000/h; output 500/h; spend $1/h"
	first := d.do(get("/v2/acquire", "key", "k", "limits", limits, "cost", "input 600; output 100; spend $0.25", "wait", "0"))
	require.Equal(t, 200, first.Code, first.Body)
	assert.Contains(t, first.Body.String(), `"level":{"input":400,"output":400,"requests":9,"spend_microdollars":750000}`)
	assert.Equal(t, `"requests";r=9;t=360, "input";r=400;t=4, "output";r=400;t=8, "spend-microdollars";r=750000;t=0`, first.Header().Get("RateLimit"))
	assert.Equal(t, `"requests";q=10;w=3600, "input";q=1000;w=3600, "output";q=500;w=3600, "spend-microdollars";q=1000000;w=3600`, first.Header().Get("RateLimit-Policy"))

	again := d.do(post("/v2/acquire", `{"key":"k","limits":"`+limits+`","cost":{"input":600},"wait_ns":0}`))
	assert.Equal(t, 429, again.Code, "600 of 400 input tokens: %s", again.Body)
}

func TestAcquireErrorsNameTheUnit(t *testing.T) {
	for _, c := range []struct {
		name string
		r    *http.Request
		why  string
	}{
		{"tokens alone", get("/v2/acquire", "key", "k", "limits", "input 5/s", "tokens", "7"), "cost of 1 requests, 7 tokens without input, which is limited"},
		{"two forms of limits", get("/v2/acquire", "key", "k", "limits", "input 5/s", "token_limit", "5/s"), "beside request_limit or token_limit: want either"},
		{"two forms of a cost", get("/v2/acquire", "key", "k", "limits", "input 5/s", "cost", "input 1", "requests", "1"), "beside requests: want either"},
		{"an unknown unit", get("/v2/acquire", "key", "k", "limits", "bytes 5/s"), `unit "bytes": want requests, tokens, input, output or spend`},
		{"an unknown unit of a cost", get("/v2/acquire", "key", "k", "limits", "input 5/s", "cost", "bytes 5"), `unit "bytes": want`},
		{"no dollars", get("/v2/acquire", "key", "k", "limits", "spend $5/d", "cost", "spend 5"), `spend of "5": want dollars`},
		{"a number without its unit of money", post("/v2/acquire", `{"key":"k","limits":"spend $5/d","cost":{"spend":5}}`), `unknown field "spend"`},
		{"negative money", post("/v2/acquire", `{"key":"k","limits":"spend $5/d","cost":{"spend_microdollars":-50000}}`), "-$0.05: want 0 or more"},
		{"too much money", post("/v2/acquire", `{"key":"k","limits":"spend $5/d","cost":{"spend_microdollars":5000001}}`), "$5.000001 asked, at most $5"},
		{"negative", post("/v2/acquire", `{"key":"k","limits":"output 5/s","cost":{"output":-3}}`), "-3 output tokens: want 0 or more"},
		{"too many", post("/v2/acquire", `{"key":"k","limits":"output 5/s","cost":{"output":6}}`), "6 output tokens asked, at most 5"},
	} {
		answer := open(t, nil).do(c.r)
		assert.Equal(t, 400, answer.Code, c.name)
		assert.Contains(t, []string{httpapi.BadRequest, httpapi.ExceedsBurst}, answer.code(), c.name)
		assert.Contains(t, answer.message(), c.why, c.name)
	}
}
