package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestInvalidFlags(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"-requests abc", `-requests: rate "abc": want "50/s"`},
		{"-tokens 0/s", `-tokens: rate "0/s": rate of 0 units`},
		{"-requests= -tokens=", "want a limit on at least one of them"},
		{"-workers 0", `invalid value "0" for flag -workers: want a whole number from 1 to 100`},
		{"-callers many", `invalid value "many" for flag -callers: want a whole number from 1 to 10000`},
		{"-for soon", `invalid value "soon" for flag -for: want 0, or at least a second`},
		{"-for -1s", `invalid value "-1s" for flag -for`},
		{"-store foo", `-store "foo": want cluster, http, redis, local or none`},
		{"-workers 2", "-workers 2 -kill: want 3 or more workers, or -kill=false"},
		{"-store local -requests 2/s", "-store local: a limit cannot be divided among 3 workers"},
		{"-prompts missing.txt", "-prompts: open missing.txt"},
		{"-prompts .", "-prompts: read .: is a directory"},
		{"-tokens 10/m", "can never be sent: cost exceeds burst"},
		{"-tokens 40/s -bias 0.25", "can never be sent: cost exceeds burst"}, // the provider counts the true number of tokens
		{"-latency 60ms-20ms", `invalid value "60ms-20ms" for flag -latency: want a time or a range up to 5s`},
		{"-bias NaN", `invalid value "NaN" for flag -bias: want a factor from 0.25 to 4`},
		{"-nope", "flag provided but not defined: -nope"},
		{"more", `argument "more": want flags only`},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			assert.Equal(t, 2, run(t.Context(), strings.Fields(tt.args), &stdout, &stderr), "exit status")
			assert.Contains(t, stderr.String(), tt.want)
			assert.Equal(t, 1, strings.Count(stderr.String(), "\n"), "one line")
			assert.Empty(t, stdout.String())
		})
	}
}

func TestHelpListsAllFlags(t *testing.T) {
	var stdout, stderr bytes.Buffer
	assert.Zero(t, run(t.Context(), []string{"-h"}, &stdout, &stderr))
	for _, name := range []string{"workers", "callers", "requests", "tokens", "for", "kill", "store", "json", "prompts", "latency", "bias"} {
		assert.Contains(t, stdout.String(), "  -"+name)
	}
}
