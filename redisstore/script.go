package redisstore

import (
	_ "embed"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/choked/choked/bucket"
)

// tick is the unit of time in Redis. Instants in microseconds since 1970 are exact
// in Lua's numbers, and lie before END, 2⁵², until the year 2112.
const tick = time.Microsecond

// Constants of the script.
const (
	queueCap   = 128                    // entries in the queue of a key; each call reads all of it
	queueGrace = 500 * time.Millisecond // an entry lapses this long after its retry
	minRetry   = 10 * time.Millisecond  // between asks that wait for leased units
	maxRetry   = 250 * time.Millisecond
	maxStep    = 2 * time.Second // a server's clock may be back by this much before the bucket's time goes on
	retention  = time.Minute     // how long a bucket that is full again, or the record of an adjustment, is kept
)

//go:embed bucket.lua
var bucketLua string

//go:embed store.lua
var storeLua string

// script reads the server's clock, so that all workers share one.
var script = redis.NewScript(settings(tick) + bucketLua + `
local t = redis.call('TIME')
local clock = tonumber(t[1]) * 1e6 + tonumber(t[2])
` + storeLua)

// settings defines the constants that the script shares with Go, in ticks.
func settings(tick time.Duration) string {
	ticks := func(d time.Duration) int64 { return int64(d / tick) }
	var b strings.Builder
	for _, c := range []struct {
		name  string
		value int64
	}{
		{"tick", int64(tick)}, {"ttl", ticks(bucket.TTL)}, {"MAX_RATES", bucket.MaxRates}, {"QUEUE_CAP", queueCap}, {"GRACE", ticks(queueGrace)},
		{"MIN_RETRY", ticks(minRetry)}, {"MAX_RETRY", ticks(maxRetry)}, {"MAX_STEP", ticks(maxStep)}, {"RETENTION", ticks(retention)},
	} {
		fmt.Fprintf(&b, "local %s = %d\n", c.name, c.value)
	}
	return b.String()
}

// words are the arguments of the script, which store.lua describes.
type words []any

func (w words) cost(c bucket.Cost) words { return append(w, c.Requests, c.Tokens) }

// limits appends a definition of limits: its time as twenty digits, which sort as
// the numbers do, and the limits, with a line of numbers for each rate.
func (w words) limits(defined int64, l bucket.Limits, tick time.Duration) words {
	text := l.String()
	for u := range bucket.NumUnits {
		for _, r := range l.Of(u) {
			per := int64(r.Per / tick)
			g := gcd(r.N, per)
			lowest := bucket.Rate{N: r.N / g, Per: time.Duration(per / g)}
			text += fmt.Sprintf("\n%d %d %d %d %d %d %d", u+1, lowest.N, lowest.Per, r.Burst, fill(lowest, r.Burst), r.Horizon()/tick, per)
		}
	}
	return append(w, fmt.Sprintf("%020d", uint64(defined)^1<<63), text)
}

// fill returns the time in which burst units refill, rounded up.
func fill(r bucket.Rate, burst int64) int64 { return int64(r.Span(burst)) }

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// askWords returns the arguments of an ask that may wait for maxWait. slot is the
// one in the answer to the ask before, or zero.
func askWords(a *bucket.Ask, done []bucket.Settlement, maxWait time.Duration, slot int64, tick time.Duration) words {
	w := words{"ask", a.ID.String()}.cost(a.Need).cost(a.Want)
	w = append(w, int64((maxWait+tick-1)/tick), slot).limits(a.Defined, a.Limits, tick)
	return w.settlements(done)
}

// leaveWords returns the arguments that withdraw a.
func leaveWords(a *bucket.Ask, slot int64) words {
	return append(words{"leave", a.ID.String()}.cost(a.Need), slot)
}

func (w words) settlements(done []bucket.Settlement) words {
	w = append(w, len(done))
	for i := range done {
		w = append(w, done[i].ID.String()).cost(done[i].Spent)
	}
	return w
}

// adjustWords returns the arguments of adjustment number seq of a client, which may
// send it again until its timeout.
func adjustWords(client string, seq int64, timeout time.Duration, a *bucket.Adjustment, tick time.Duration) words {
	w := append(words{"adjust", client, seq, int64(timeout / tick)}.cost(a.Return), a.Since/int64(tick)).cost(a.Charge)
	return append(w, int64((a.Empty+tick-1)/tick)).limits(a.Defined, a.Limits, tick)
}

// reply is the script's answer to an ask.
type reply struct {
	bucket.Grant
	wait   time.Duration // positive: ask again after this time
	slot   int64         // and pass this instant of the script's clock then
	exceed string        // not empty: the limits in force, whose burst the need exceeds
}

// parse reads an answer, whose words store.lua describes.
func parse(answer string, tick time.Duration) (reply, error) {
	kind, rest, _ := strings.Cut(answer, " ")
	if kind == "burst" {
		return reply{exceed: rest}, nil
	}
	var f []int64
	for word := range strings.FieldsSeq(rest) {
		n, err := parseNumber(word)
		if err != nil {
			return reply{}, fmt.Errorf("answer %.200q: %w", answer, err)
		}
		f = append(f, n)
	}
	if len(f) < 4 || kind == "wait" && len(f) != 5 || kind == "grant" && (len(f) < 6 || len(f)%4 != 2) {
		return reply{}, fmt.Errorf("answer %.200q: want grant, wait, refuse or burst, and its numbers", answer)
	}
	t := int64(tick)
	r := reply{Grant: bucket.Grant{At: f[0] * t, Level: bucket.Cost{Requests: f[1], Tokens: f[2]}}}
	switch kind {
	case "grant":
		r.OK, r.TTL, r.Granted = true, time.Duration(f[3]*t), bucket.Cost{Requests: f[4], Tokens: f[5]}
		for d := f[6:]; len(d) > 0; d = d[4:] {
			r.Drips = append(r.Drips, bucket.Drip{Unit: bucket.Unit(d[0] - 1), Ready: time.Duration(d[1] * t), N: d[2], Per: time.Duration(d[3] * t)})
		}
	case "wait":
		r.wait, r.slot = time.Duration(f[3]*t), f[4]
	case "refuse":
		r.RetryAfter = time.Duration(f[3] * t)
	default:
		return reply{}, fmt.Errorf("answer %.200q: want grant, wait, refuse or burst", answer)
	}
	return r, nil
}

// parseNumber reads a whole number, or "inf", the level of a unit without limit.
func parseNumber(word string) (int64, error) {
	if word == "inf" {
		return math.MaxInt64 / 4, nil
	}
	return strconv.ParseInt(word, 10, 64)
}
