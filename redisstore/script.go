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

// tick is the unit of time in Redis. In microseconds, instants since 1970 are
// exact in Lua's numbers, and before END, 2⁵², until the year 2112.
const tick = time.Microsecond

//go:embed bucket.lua
var bucketLua string

//go:embed store.lua
var storeLua string

// The script reads the server's clock, so all workers share one.
var script = redis.NewScript(bucketLua + settings(tick) + `
local t = redis.call('TIME')
local clock = tonumber(t[1]) * 1e6 + tonumber(t[2])
` + storeLua)

func settings(tick time.Duration) string {
	return fmt.Sprintf("\nlocal tick, ttl = %d, %d\n", tick, bucket.TTL/tick)
}

// words are the arguments of a script.
type words []any

func (w words) cost(c bucket.Cost) words { return append(w, c.Requests, c.Tokens) }

// limits adds a definition: when, in twenty digits, which order as numbers do,
// and of what.
func (w words) limits(defined int64, l bucket.Limits, tick time.Duration) words {
	text := l.String()
	for u := range bucket.Tokens + 1 {
		for _, r := range l.Of(u) {
			per := int64(r.Per / tick)
			g := gcd(r.N, per)
			lowest := bucket.Rate{N: r.N / g, Per: time.Duration(per / g)}
			text += fmt.Sprintf("\n%d %d %d %d %d %d %d", u+1, lowest.N, lowest.Per, r.Burst, fill(lowest, r.Burst), r.Horizon()/tick, per)
		}
	}
	return append(w, fmt.Sprintf("%020d", uint64(defined)^1<<63), text)
}

// fill is the time in which burst units are restored, rounded up.
func fill(r bucket.Rate, burst int64) int64 { return int64(r.Span(burst)) }

func gcd(a, b int64) int64 {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// askWords asks for a. turn is that of the answer before this ask, if there is one.
func askWords(a *bucket.Ask, done []bucket.Settlement, patience time.Duration, turn int64, tick time.Duration) words {
	w := words{"ask", a.ID.String()}.cost(a.Need).cost(a.Want)
	w = append(w, int64((patience+tick-1)/tick), turn).limits(a.Defined, a.Limits, tick)
	return w.settlements(done)
}

// leaveWords give a up.
func leaveWords(a *bucket.Ask, turn int64) words {
	return append(words{"leave", a.ID.String()}.cost(a.Need), turn)
}

func (w words) settlements(done []bucket.Settlement) words {
	w = append(w, len(done))
	for i := range done {
		w = append(w, done[i].ID.String()).cost(done[i].Spent)
	}
	return w
}

// adjustWords are the adjustment number seq of client, which may send it again
// for as long as its patience lasts.
func adjustWords(client string, seq int64, patience time.Duration, a *bucket.Adjustment, tick time.Duration) words {
	w := append(words{"adjust", client, seq, int64(patience / tick)}.cost(a.Return), a.Since/int64(tick)).cost(a.Charge)
	return append(w, int64((a.Empty+tick-1)/tick)).limits(a.Defined, a.Limits, tick)
}

// reply is what a script answers to an ask.
type reply struct {
	bucket.Grant
	wait   time.Duration // when positive: come again after so long
	turn   int64         // and say then that this was to be your turn, an instant of the script's
	exceed string        // the limits in force, when the ask needs more than their burst
}

// parse reads the words of an answer:
//
//	grant  <now> <level> <level> <ttl> <granted> <granted> [<unit> <ready> <n> <per>]…
//	wait   <now> <level> <level> <for how long> <turn>
//	refuse <now> <level> <level> <retry after>
//	burst  <limits>
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
		r.wait, r.turn = time.Duration(f[3]*t), f[4]
	case "refuse":
		r.RetryAfter = time.Duration(f[3] * t)
	default:
		return reply{}, fmt.Errorf("answer %.200q: want grant, wait, refuse or burst", answer)
	}
	return r, nil
}

// parseNumber reads a whole number, or the level of a unit without limit.
func parseNumber(word string) (int64, error) {
	if word == "inf" {
		return math.MaxInt64 / 4, nil
	}
	return strconv.ParseInt(word, 10, 64)
}
