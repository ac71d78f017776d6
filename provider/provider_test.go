package provider

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
)

// A minute with δ = 250 ms, stretched by 500 ppm, is 60.280125 s.
func TestLimitsOfProviders(t *testing.T) {
	fast := Generic
	fast.Delay, fast.Burst = 50*time.Millisecond, -1
	for _, c := range []struct {
		p      Profile
		stated []string
		want   string
	}{
		{OpenAI, []string{"500/m", "200000/m"}, "requests 500/60280125us window pace 50; tokens 200000/60280125us window pace 20000"},
		{OpenAI, []string{"", "200000/m"}, "tokens 200000/60280125us window pace 20000"},
		{OpenAI, []string{"3/m,200/d"}, "requests 3/60280125us window pace 1,200/86443450125us window"},
		{Azure, []string{"600/m", "100000/m"}, "requests 600/60280125us window pace 60,100/10255125us window pace 10; tokens 100000/60280125us window pace 10000"},
		{Azure, []string{"5/m"}, "requests 5/60280125us window pace 1"}, // less than one in 10 s
		{Gemini, []string{"150/m,10000/d", "1000000/m"}, "requests 150/60280125us window pace 15,10000/d reset America/Los_Angeles; input 1000000/60280125us window pace 100000"},
		{Anthropic, []string{"60/m", "40000/m", "8000/m burst 200"}, "requests 60/60030ms burst 59; input 40000/60030ms burst 39833; output 8000/60030ms burst 166"},
		{Anthropic, []string{"60/m burst 1"}, "requests 1/1250625us"},
		{fast, []string{"50/s"}, "requests 50/1050525us window"},
	} {
		l, err := c.p.Limits(c.stated...)
		require.NoError(t, err, "%s %q", c.p.Name, c.stated)
		assert.Equal(t, c.want, l.String(), "%s %q", c.p.Name, c.stated)
	}
}

func TestLimitsErrorsNameTheRate(t *testing.T) {
	for _, c := range []struct {
		p      Profile
		stated []string
		want   string
	}{
		{OpenAI, nil, "provider openai: no limits: want a rate"},
		{OpenAI, []string{"", ""}, "provider openai: no limits"},
		{OpenAI, []string{"500/m", "1/m", "1/m"}, "provider openai: 3 rates: want at most 2, on [requests tokens]"},
		{OpenAI, []string{"500 a minute"}, `provider openai: limit on requests: rate "500 a minute"`},
		{OpenAI, []string{"500/m burst 5"}, `rate "500/m burst 5": want the count and the time as the provider states them`},
		{Anthropic, []string{"", "500/m window"}, `limit on input: rate "500/m window": want the count`},
	} {
		_, err := c.p.Limits(c.stated...)
		require.Error(t, err, "%s %q", c.p.Name, c.stated)
		assert.Contains(t, err.Error(), c.want)
	}
}

func TestByName(t *testing.T) {
	for _, p := range Profiles() {
		found, err := ByName(p.Name)
		require.NoError(t, err)
		assert.Equal(t, p, found)
		assert.Equal(t, strings.ToLower(p.Name), p.Name)
		assert.Equal(t, bucket.Requests, p.Units[0], p.Name)
	}
	_, err := ByName("nobody")
	assert.EqualError(t, err, `provider "nobody": want openai, azure, anthropic, gemini, voyage, groq, generic`)
}
