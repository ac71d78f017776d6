package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestAcquireSpendsOrSaysWhenToRetry(t *testing.T) {
	p := startAlone(t)
	acquire := func(args ...string) (int, string, string) {
		return runCommand(t, nil, append([]string{"acquire", "-url", "http://" + p.addr, "-wait", "0"}, args...)...)
	}
	const limits = "requests 10/h; input 1000/h; spend $1/h"
	status, out, errs := acquire("-key", "k", "-limits", limits, "-cost", "input 600; spend $0.25")
	assert.Zero(t, status, errs)
	assert.Regexp(t, `^spent after \d+m?s; left: 9 requests, 400 input tokens, \$0.75\n$`, out)

	status, out, errs = acquire("-key", "k", "-limits", limits, "-cost", "input 600")
	assert.Equal(t, 5, status, errs)
	assert.Regexp(t, `^not spent: retry after 1[12]m\S+; left: 9 requests, 40[0-9] input tokens, \$0.75[0-9]*\n$`, out)

	for _, c := range []struct {
		args   []string
		status int
		why    string
	}{
		{[]string{"-key", "k"}, 2, "-limits: no limits: want a rate on a unit"},
		{[]string{"-key", "k", "-limits", "bytes 5/s"}, 2, `unit "bytes": want requests`},
		{[]string{"-key", "k", "-limits", limits, "-cost", "spend 5"}, 2, `spend of "5": want dollars`},
		{[]string{"-limits", limits}, 1, "400 Bad Request: key is empty"},
		{[]string{"-key", "k", "-limits", limits, "-cost", "tokens 5"}, 1, "5 tokens without input, which is limited"},
		{[]string{"-key", "k", "-limits", limits, "-cost", "input 1001"}, 1, "1001 input tokens asked, at most 1000"},
	} {
		status, _, errs := acquire(c.args...)
		assert.Equal(t, c.status, status, c.args)
		assert.Contains(t, errs, c.why, c.args)
	}
}
