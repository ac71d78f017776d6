package redisstore

import (
	"context"
	"fmt"
	"math/big"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
	"github.com/choked/choked/internal/testkit/redisserver"
)

// bare is the bucket in Lua without queue, fairness and clock: it does what a
// ledger.Table does, in nanoseconds, at the given instant.
var bare = redis.NewScript(settings(1) + bucketLua + `
local now, op = number(), word()
takeUnits()
local b = load()
local answer = 'ok'
local function settlements()
  for _ = 1, number() do
    local id, spent = word(), cost()
    if b then settle(b, now, id, spent) end
  end
end
if op == 'ask' then
  local id, need, want, _, _ = word(), cost(), cost(), word(), word()
  local defined, limits = word(), word()
  settlements()
  b = open(b, now, limits, defined)
  answer = grant(b, now, id, need, want, ttl)
elseif op == 'settle' then
  settlements()
else
  word(); word(); word()
  local a = {returned = cost(), since = number(), charge = cost(), empty = number()}
  local defined, limits = word(), word()
  b = open(b, now, limits, defined)
  adjust(b, now, a)
end
if b then save(b) end
return answer
`)

func mini(t *testing.T) redis.UniversalClient {
	t.Helper()
	client := redis.NewClient(&redis.Options{Addr: miniredis.RunT(t).Addr()})
	t.Cleanup(func() { client.Close() })
	return client
}

// real returns the server at CHOKED_REDIS, or starts one for the test.
func real(t *testing.T) redis.UniversalClient {
	t.Helper()
	url := os.Getenv("CHOKED_REDIS")
	if url == "" {
		s, err := redisserver.Start()
		if err != nil && os.Getenv("CHOKED_REQUIRE_ALL") == "" {
			t.Skip(err)
		}
		require.NoError(t, err)
		t.Cleanup(func() { s.Stop() })
		url = s.URL()
	}
	opt, err := redis.ParseURL(url)
	require.NoError(t, err)
	client := redis.NewClient(opt)
	t.Cleanup(func() { client.Close() })
	return client
}

// For any history of operations, Redis answers as package bucket does, to the
// nanosecond and the unit.
func TestScriptMatchesTheBucket(t *testing.T) {
	t.Parallel()
	matchesTheBucket(t, mini(t), 0, 40, rapid.Custom(drawLimits))
}

// The same with the largest numbers in use: today's instants in the tick of a store,
// and costs of up to a million units.
func TestScriptMatchesTheBucketInLargeNumbers(t *testing.T) {
	t.Parallel()
	today := int64(1_800_000_000 * time.Second / tick)
	for name, server := range map[string]func(*testing.T) redis.UniversalClient{"miniredis": mini, "redis": real} {
		t.Run(name, func(t *testing.T) { matchesTheBucket(t, server(t), today, 1_000_000, rapid.Custom(drawLargeLimits)) })
	}
}

// matchesTheBucket compares histories that begin at the instant begin and whose costs
// are at most most.
func matchesTheBucket(t *testing.T, client redis.UniversalClient, begin, most int64, limits *rapid.Generator[bucket.Limits]) {
	run := 0
	name := fmt.Sprintf("choked:test:%x:", rand.Uint64())
	rapid.Check(t, func(t *rapid.T) {
		run++
		key := fmt.Sprint(name, run)
		defer client.Del(context.Background(), key)
		table := ledger.NewTable()
		now, seq := begin, uint64(0)
		definitions := rapid.SliceOfN(limits, 1, 3).Draw(t, "limits")
		var asked []bucket.LeaseID

		drawUnits := rapid.OneOf(rapid.Int64Range(0, 20), rapid.Int64Range(0, most))
		drawCost := func(label string) (c bucket.Cost) { // of units that are limited and of others
			for _, u := range drawSomeUnits(t, label) {
				c = c.With(u, drawUnits.Draw(t, label))
			}
			return c
		}
		drawID := func() bucket.LeaseID {
			if len(asked) == 0 || rapid.IntRange(0, 9).Draw(t, "new id") < 5 {
				seq++
				asked = append(asked, bucket.LeaseID{Holder: seq % 3, Seq: seq})
				return asked[len(asked)-1]
			}
			return rapid.SampledFrom(asked).Draw(t, "id")
		}
		drawSettlement := func() bucket.Settlement {
			return bucket.Settlement{Key: key, ID: drawID(), Spent: drawCost("spent")}
		}
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now += rapid.OneOf(rapid.Int64Range(0, 3), rapid.Int64Range(0, 1e9), rapid.Int64Range(0, 30e9)).Draw(t, "passes")
			i := rapid.IntRange(0, len(definitions)-1).Draw(t, "definition")
			limits, defined := definitions[i], rapid.Int64Range(-1, 3).Draw(t, "defined")
			var op ledger.Op
			var args words
			switch rapid.IntRange(0, 5).Draw(t, "op") {
			case 0:
				s := drawSettlement()
				op, args = &s, settleWords([]bucket.Settlement{s})
			case 1:
				a := &bucket.Adjustment{
					Key: key, Limits: limits, Defined: defined, Return: drawCost("return"),
					Since: rapid.Int64Range(max(now-5e9, 0), now+1e9).Draw(t, "since"), Charge: drawCost("charge"),
				}
				if rapid.IntRange(0, 4).Draw(t, "emptied") == 0 {
					a.Empty = time.Duration(rapid.Int64Range(1, 5e9).Draw(t, "empty"))
				}
				op, args = a, adjustWords("", 1, 0, a, 1)
			default:
				a := &bucket.Ask{Key: key, Limits: limits, Defined: defined, ID: drawID(), Want: drawCost("want")}
				if rapid.Bool().Draw(t, "needs") {
					a.Need = drawCost("need")
				}
				for range rapid.IntRange(0, 2).Draw(t, "done") {
					a.Done = append(a.Done, drawSettlement())
				}
				op, args = a, askWords(a, a.Done, 0, 0, 1)
			}
			want := table.Apply(now, op)
			answer, err := bare.Run(context.Background(), client, []string{key}, append(words{now}, args...)...).Text()
			require.NoError(t, err)
			if debtsReach(table.Get(key), 1<<51) {
				return // another cost may reach END, 2⁵², where Redis counts no further
			}
			if _, ok := op.(*bucket.Ask); !ok {
				continue
			}
			got, err := parse(answer, 1)
			require.NoError(t, err)
			if want.Err != nil {
				require.ErrorIs(t, want.Err, bucket.ErrCostExceedsBurst)
				require.Equal(t, want.Err.Error(), exceeds(got.exceed, op.(*bucket.Ask).Need).Error())
				continue
			}
			lowest(want.Grant.Drips)
			require.Equal(t, want.Grant, got.Grant, "at %d: %+v\nanswer %q", now, op, answer)
		}
	})
}

// debtsReach reports whether a rate of b is not full before an instant.
func debtsReach(b *bucket.Bucket, instant int64) bool {
	return b != nil && slices.Max(b.State().TATs) >= instant
}

// drawLimits draws slow and fast rates, with units that take a whole number of
// nanoseconds and with others.
func drawLimits(t *rapid.T) bucket.Limits {
	rates := func(label string) (rs bucket.Rates) {
		for _, per := range rapid.SliceOfNDistinct(rapid.SampledFrom([]time.Duration{
			time.Millisecond, 7 * time.Millisecond, time.Second, 13 * time.Second, time.Minute, time.Hour,
		}), 0, 2, rapid.ID).Draw(t, label) {
			rs = append(rs, bucket.Rate{N: rapid.Int64Range(1, 1000).Draw(t, "n"), Per: per, Burst: rapid.Int64Range(1, 60).Draw(t, "burst")})
		}
		return rs
	}
	return limitSomeUnits(t, rates)
}

// drawSomeUnits draws the units of a cost or of limits, one or two as a rule.
func drawSomeUnits(t *rapid.T, label string) []bucket.Unit {
	unit := rapid.Custom(func(t *rapid.T) bucket.Unit {
		return bucket.Unit(rapid.IntRange(0, int(bucket.NumUnits)-1).Draw(t, "unit"))
	})
	most := rapid.SampledFrom([]int{1, 2, 2, int(bucket.NumUnits)}).Draw(t, "most units")
	return rapid.SliceOfNDistinct(unit, 0, most, rapid.ID).Draw(t, label)
}

// limitSomeUnits draws limits on some units.
func limitSomeUnits(t *rapid.T, rates func(label string) bucket.Rates) (l bucket.Limits) {
	for _, u := range drawSomeUnits(t, "limited") {
		l.Set(u, rates(u.String()))
	}
	if l.Check() != nil {
		l.Tokens = bucket.Rates{{N: 3, Per: time.Second, Burst: 20}}
	}
	return l
}

// drawLargeLimits draws rates of up to a billion units a second, whose bursts refill
// within half a day if a tick is a microsecond.
func drawLargeLimits(t *rapid.T) bucket.Limits {
	const halfADay = 43_200 * time.Second / tick
	rates := func(label string) (rs bucket.Rates) {
		for _, per := range rapid.SliceOfNDistinct(rapid.SampledFrom([]time.Duration{time.Millisecond, 7 * time.Millisecond, time.Second}), 0, 2, rapid.ID).Draw(t, label) {
			r := bucket.Rate{N: rapid.OneOf(rapid.Int64Range(1, 1000), rapid.Int64Range(1, 1_000_000)).Draw(t, "n"), Per: per}
			r.Burst = rapid.Int64Range(1, min(10_000_000, max(1, r.In(halfADay)))).Draw(t, "burst")
			if r.Check() == nil {
				rs = append(rs, r)
			}
		}
		return rs
	}
	return limitSomeUnits(t, rates)
}

// lowest reduces the rates of drips to lowest terms, as Redis keeps them.
func lowest(drips []bucket.Drip) {
	for i := range drips {
		d := &drips[i]
		g := gcd(d.N, int64(d.Per))
		d.N, d.Per = d.N/g, d.Per/time.Duration(g)
	}
}

// Products of more than 53 bits are exact, too.
func TestMulDivIsExact(t *testing.T) {
	t.Parallel()
	client := mini(t)
	muldiv := redis.NewScript(settings(1) + bucketLua + `return text(muldiv(tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == 'up'))`)
	for range 2000 {
		a, b, c := rand.Int64N(1<<rand.IntN(53)+1), rand.Int64N(1<<rand.IntN(46)+1), rand.Int64N(1<<rand.IntN(46))+1
		up := rand.IntN(2)
		q, rem := new(big.Int).QuoRem(new(big.Int).Mul(big.NewInt(a), big.NewInt(b)), big.NewInt(c), new(big.Int))
		if up == 1 && rem.Sign() > 0 {
			q.Add(q, big.NewInt(1))
		}
		want := "9007199254740992"
		if q.BitLen() <= 53 {
			want = q.String()
		}
		got, err := muldiv.Run(context.Background(), client, []string{"k"}, a, b, c, []string{"down", "up"}[up]).Text()
		require.NoError(t, err)
		require.Equal(t, want, got, "%d·%d/%d rounded %v", a, b, c, []string{"down", "up"}[up])
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"grant 1795456826247670 12 3 -4 1960000 1 7 1 250000 1 100000", "wait 5 5 -3 100 105", "wait 5 1 -3 100", "refuse 5 34 0 0 1",
		"refuse 5 6 0 1", "burst requests 50/s", "", "grant", "grant 1 2 3 4 5 6 7",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := parse(s, tick)
		if err == nil && r.exceed != "" {
			err = exceeds(r.exceed, bucket.Cost{Requests: bucket.MaxUnits})
			require.Error(t, err)
		}
	})
}
