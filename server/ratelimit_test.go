package server

import (
	"fmt"
	"math/big"
	"net/http"
	"regexp"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/choked/choked"
	"github.com/choked/choked/bucket"
)

func TestRateLimitPolicy(t *testing.T) {
	for _, c := range []struct{ requests, tokens, want string }{
		{"50/s", "", `"requests";q=50;w=1`},
		{"500/m", "", `"requests";q=500;w=60`},
		{"10000/d", "", `"requests";q=10000;w=86400`},
		{"10/5m", "", `"requests";q=10;w=300`},
		{"1/366d", "", `"requests";q=1;w=31622400`},

		// The burst is not the rate: q=10 would be a fifth of it, and q=20 a fiftieth.
		{"50/s burst 10", "", `"requests";q=50;w=1;choked-burst=10`},
		{"1000/s burst 20", "", `"requests";q=1000;w=1;choked-burst=20`},
		{"60/m burst 1", "", `"requests";q=60;w=60;choked-burst=1`},
		{"60/m burst 600", "", `"requests";q=60;w=60;choked-burst=600`},
		{"1/h burst 3", "", `"requests";q=1;w=3600;choked-burst=3`},

		// A window is the shortest number of whole seconds that holds whole periods.
		{"5/100ms", "", `"requests";q=50;w=1;choked-burst=5`},
		{"5/100ms burst 50", "", `"requests";q=50;w=1`},
		{"7/300ms", "", `"requests";q=70;w=3;choked-burst=7`},
		{"1/1500ms", "", `"requests";q=2;w=3;choked-burst=1`},
		{"1/ms", "", `"requests";q=1000;w=1;choked-burst=1`},
		{"1/1001ms", "", `"requests";q=1000;w=1001;choked-burst=1`},
		{"3/1000001us", "", `"requests";q=10802;w=3601;choked-burst=3`}, // the exact window would be 1000001 s
		{"1/7200001ms", "", `"requests";q=1;w=7201`},

		{"500/m,10000/d burst 700", "", `"requests";q=500;w=60, "requests-2";q=10000;w=86400;choked-burst=700`},
		{"50/s burst 10", "100000/m,7/300ms", `"requests";q=50;w=1;choked-burst=10, "tokens";q=100000;w=60, "tokens-2";q=70;w=3;choked-burst=7`},
		{"", "1000000000000/h", `"tokens";q=1000000000000;w=3600`},
	} {
		h := make(http.Header)
		setRateLimit(h, shortLimits(t, c.requests, c.tokens), bucket.Cost{}, bucket.Lease{})
		assert.Equal(t, c.want, h.Get("RateLimit-Policy"), "%q, %q", c.requests, c.tokens)
	}
}

func TestRateLimitOfAllUnits(t *testing.T) {
	limits, err := bucket.ParseLimits("requests 500/m; tokens 9/s; input 40000/m burst 5000; output 8000/m; spend $50/d,$300/30d burst $60")
	require.NoError(t, err)
	h := make(http.Header)
	level := bucket.Cost{Requests: 500, Tokens: 8, Input: -3, Output: 10, Spend: 49_950_000}
	setRateLimit(h, limits, bucket.Cost{}, bucket.Lease{OK: true, Level: level})
	assert.Equal(t, `"requests";q=500;w=60, "tokens";q=9;w=1, "input";q=40000;w=60;choked-burst=5000, "output";q=8000;w=60, `+
		`"spend-microdollars";q=50000000;w=86400, "spend-microdollars-2";q=300000000;w=2592000;choked-burst=60000000`, h.Get("RateLimit-Policy"))
	assert.Equal(t, `"requests";r=500, "tokens";r=8;t=0, "input";r=0;t=0, "output";r=10;t=0, "spend-microdollars";r=49950000;t=0`, h.Get("RateLimit"))
}

// For every period, a policy is at most the rate, and less than 1/3600 below it.
func TestRateLimitPolicyIsAtMostTheRate(t *testing.T) {
	form := regexp.MustCompile(`^"requests";q=(\d{1,15});w=(\d{1,15})(;choked-burst=\d{1,15})?$`) // structured fields have integers of up to 15 digits
	for _, per := range []time.Duration{
		time.Millisecond, time.Millisecond + 1, 3 * time.Millisecond, 999_999_999, time.Second, time.Second + 1, 1100 * time.Millisecond,
		59_999_999_999, time.Hour - 1, time.Hour, time.Hour + 1, 8_100_000_729, 12*time.Hour + 7*time.Millisecond, 366*24*time.Hour - 1,
	} {
		for _, n := range []int64{1, 7, 1000, 999_999, int64(per), bucket.MaxUnits} {
			r := bucket.Rate{N: n, Per: per, Burst: 1}
			if r.Check() != nil {
				continue
			}
			m := form.FindStringSubmatch(policy("requests", r))
			require.NotNil(t, m, "%v: %s", r, policy("requests", r))
			q, _ := strconv.ParseInt(m[1], 10, 64)
			w, _ := strconv.ParseInt(m[2], 10, 64)
			said := new(big.Rat).SetFrac64(q, w)
			is := new(big.Rat).Mul(new(big.Rat).SetFrac64(n, int64(per)), big.NewRat(1e9, 1))
			ratio, _ := new(big.Rat).Quo(said, is).Float64()
			assert.LessOrEqual(t, said.Cmp(is), 0, "%v: %s is above it", r, m[0])
			assert.Greater(t, ratio, 1-1.0/3600, "%v: %s", r, m[0])
		}
	}
}

func TestRateLimitRemainingAndReset(t *testing.T) {
	granted := func(requests, tokens int64) bucket.Lease {
		return bucket.Lease{OK: true, Level: bucket.Cost{Requests: requests, Tokens: tokens}}
	}
	refused := func(requests, tokens int64, retry time.Duration) bucket.Lease {
		return bucket.Lease{RetryAfter: retry, Level: bucket.Cost{Requests: requests, Tokens: tokens}}
	}
	one := bucket.Cost{Requests: 1}
	for _, c := range []struct {
		requests, tokens string
		need             bucket.Cost
		lease            bucket.Lease
		want             string
	}{
		{"50/s burst 10", "", one, granted(9, 0), `"requests";r=9;t=0`},
		{"50/s burst 10", "", one, granted(0, 0), `"requests";r=0;t=0`}, // the next unit is available in 20 ms
		{"2/2s", "", one, granted(0, 0), `"requests";r=0;t=1`},
		{"1/m", "", one, granted(0, 0), `"requests";r=0;t=60`},
		{"7/m", "", one, granted(3, 0), `"requests";r=3;t=9`}, // 8.6 s, not the 34 s until it is full
		{"7/m", "", one, granted(7, 0), `"requests";r=7`},     // full: no unit is missing
		{"60/m", "", one, granted(-5, 0), `"requests";r=0;t=6`},
		{"60/m", "600/m", one, granted(59, -5), `"requests";r=59;t=1, "tokens";r=0;t=0`},
		{"500/m,10000/d", "", one, granted(0, 0), `"requests";r=0;t=0`}, // the first rate restores a unit in 120 ms
		{"1/h", "", one, refused(0, 0, 30*time.Minute), `"requests";r=0;t=1800`},
		{"1/h", "1/h", one, refused(0, 0, 30*time.Minute), `"requests";r=0;t=1800, "tokens";r=0;t=3600`}, // no tokens were asked for
		{"1/m burst 5", "", bucket.Cost{Requests: 5}, refused(2, 0, 3*time.Minute), `"requests";r=2;t=60`},
	} {
		h := make(http.Header)
		setRateLimit(h, shortLimits(t, c.requests, c.tokens), c.need, c.lease)
		assert.Equal(t, c.want, h.Get("RateLimit"), "%q, %q: %+v", c.requests, c.tokens, c.lease)
	}
}

// The client spends no more than r before t, and sleeps for t when r is 0. If t were
// rounded up to a second, it would get 10 of 50 units a second, and 20 of 1,000.
func TestClientThatObeysRateLimitReachesTheRate(t *testing.T) {
	field := regexp.MustCompile(`^"requests";r=(\d+)(?:;t=(\d+))?`)
	for _, c := range []struct {
		limit string
		in    time.Duration
	}{
		{"50/s burst 10", 10 * time.Second}, {"1000/s burst 20", 2 * time.Second}, {"5/100ms", 10 * time.Second}, {"3/s", 10 * time.Second},
		{"2/7s", 10 * time.Minute}, {"100/h burst 10", 3 * time.Hour}, {"120/m burst 30,5000/d", 10 * time.Minute},
	} {
		t.Run(c.limit, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := open(t, nil)
				defer d.close()
				r := choked.MustLimits("requests " + c.limit).Requests[0]
				calls, began := int64(0), time.Now()
				for time.Since(began) < c.in {
					a := d.do(get("/v2/acquire", "key", "k", "request_limit", c.limit, "wait", "10m"))
					require.Equal(t, 200, a.Code, a.Body)
					calls++
					m := field.FindStringSubmatch(a.Header().Get("RateLimit"))
					require.NotNil(t, m, a.Header())
					if m[1] == "0" {
						reset, _ := strconv.Atoi(m[2])
						time.Sleep(time.Duration(reset) * time.Second)
					}
				}
				took := time.Since(began)
				assert.LessOrEqual(t, calls, r.Burst+r.In(took), "more than the promised bound")
				assert.Greater(t, float64(calls), 0.9*float64(r.In(took)), fmt.Sprintf("%d calls in %v", calls, took))
			})
		})
	}
}

// shortLimits reads limits on requests and on tokens, of which either may be empty.
func shortLimits(t *testing.T, requests, tokens string) bucket.Limits {
	l, err := bucket.ParseShortLimits(requests, tokens)
	require.NoError(t, err)
	return l
}
