package redisstore

import (
	"cmp"
	_ "embed"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/choked/choked/bucket"
)

// tick is the unit of time in Redis. Instants in microseconds since 1970 are exact
// in Lua's numbers, and lie before END, 2⁵², until the year 2112.
const tick = time.Microsecond

// format is the version of the hash of a bucket. The script refuses a hash of another
// version, whose numbers mean something else.
const format = 2

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

// settings defines the constants that the script shares with Go, times in ticks, and
// the function uniform, which returns a cost with the same number of each unit.
func settings(tick time.Duration) string {
	ticks := func(d time.Duration) int64 { return int64(d / tick) }
	var b strings.Builder
	for _, c := range []struct {
		name  string
		value int64
	}{
		{"FORMAT", format}, {"NUM_UNITS", int64(bucket.NumUnits)}, {"tick", int64(tick)}, {"ttl", ticks(bucket.TTL)}, {"MAX_RATES", bucket.MaxRates}, {"QUEUE_CAP", queueCap}, {"GRACE", ticks(queueGrace)},
		{"MIN_RETRY", ticks(minRetry)}, {"MAX_RETRY", ticks(maxRetry)}, {"MAX_STEP", ticks(maxStep)}, {"RETENTION", ticks(retention)},
	} {
		fmt.Fprintf(&b, "local %s = %d\n", c.name, c.value)
	}
	fmt.Fprintf(&b, "local function uniform(x) return {x%s} end\n", strings.Repeat(", x", int(bucket.NumUnits)-1))
	return b.String()
}

// words are the arguments of the script, which store.lua describes.
type words []any

// units is a set of units: bit 1<<u for unit u.
type units uint

// used returns the units that are not zero in a cost.
func used(c bucket.Cost) (us units) {
	for u := range bucket.NumUnits {
		if c.Of(u) != 0 {
			us |= 1 << u
		}
	}
	return us
}

// String returns us as the script writes it: the digit u+1 of each unit u in ascending
// order, or "-".
func (us units) String() string {
	if us == 0 {
		return "-"
	}
	var digits []byte
	for u := range bucket.NumUnits {
		if us&(1<<u) != 0 {
			digits = append(digits, byte('1'+u))
		}
	}
	return string(digits)
}

// cost appends the units us of c, which has no others.
func (w words) cost(us units, c bucket.Cost) words {
	for u := range bucket.NumUnits {
		if us&(1<<u) != 0 {
			w = append(w, c.Of(u))
		}
	}
	return w
}

// limits appends a definition of limits: its time as twenty digits, which sort as
// the numbers do, and the limits: a line with their units and their text, then a line
// of numbers for each rate.
func (w words) limits(defined int64, l bucket.Limits, tick time.Duration) words {
	var us units
	rates := ""
	for u := range bucket.NumUnits {
		for _, r := range l.Of(u) {
			us |= 1 << u
			per := int64(r.Per / tick)
			g := gcd(r.N, per)
			lowest := bucket.Rate{N: r.N / g, Per: time.Duration(per / g)}
			rates += fmt.Sprintf("\n%d %d %d %d %d %d %d", u+1, lowest.N, lowest.Per, r.Burst, fill(lowest, r.Burst), r.Horizon()/tick, per)
		}
	}
	return append(w, fmt.Sprintf("%020d", uint64(defined)^1<<63), us.String()+" "+l.String()+rates)
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
	us := used(a.Need) | used(a.Want) | spent(done)
	w := words{"ask", us.String(), a.ID.String()}.cost(us, a.Need).cost(us, a.Want)
	w = append(w, int64((maxWait+tick-1)/tick), slot).limits(a.Defined, a.Limits, tick)
	return w.settlements(us, done)
}

// leaveWords returns the arguments that withdraw a.
func leaveWords(a *bucket.Ask, slot int64) words {
	us := used(a.Need)
	return append(words{"leave", us.String(), a.ID.String()}.cost(us, a.Need), slot)
}

// settleWords returns the arguments that settle leases.
func settleWords(done []bucket.Settlement) words {
	us := spent(done)
	return words{"settle", us.String()}.settlements(us, done)
}

// spent returns the units that are not zero in any settlement.
func spent(done []bucket.Settlement) (us units) {
	for i := range done {
		us |= used(done[i].Spent)
	}
	return us
}

func (w words) settlements(us units, done []bucket.Settlement) words {
	w = append(w, len(done))
	for i := range done {
		w = append(w, done[i].ID.String()).cost(us, done[i].Spent)
	}
	return w
}

// adjustWords returns the arguments of adjustment number seq of a client, which may
// send it again until its timeout.
func adjustWords(client string, seq int64, timeout time.Duration, a *bucket.Adjustment, tick time.Duration) words {
	us := used(a.Return) | used(a.Charge)
	w := words{"adjust", us.String(), client, seq, int64(timeout / tick)}.cost(us, a.Return)
	w = append(w, a.Since/int64(tick)).cost(us, a.Charge)
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
	t := int64(tick)
	a := answerWords{left: strings.Fields(rest)}
	r := reply{Grant: bucket.Grant{At: a.number() * t, Level: a.cost(unlimited)}}
	switch kind {
	case "grant":
		r.OK, r.TTL, r.Granted = true, time.Duration(a.number()*t), a.cost(bucket.Cost{})
		for len(a.left) > 0 && a.err == nil {
			r.Drips = append(r.Drips, bucket.Drip{Unit: a.unit(a.next()), Ready: time.Duration(a.number() * t), N: a.number(), Per: time.Duration(a.number() * t)})
		}
	case "wait":
		r.wait, r.slot = time.Duration(a.number()*t), a.number()
	case "refuse":
		r.RetryAfter = time.Duration(a.number() * t)
	default:
		return reply{}, fmt.Errorf("answer %.200q: want grant, wait, refuse or burst", answer)
	}
	if len(a.left) > 0 && a.err == nil {
		a.err = fmt.Errorf("%d words too many", len(a.left))
	}
	if a.err != nil {
		return reply{}, fmt.Errorf("answer %.200q: %w", answer, a.err)
	}
	return r, nil
}

// unlimited is the level of units that a key does not limit.
var unlimited = bucket.Limits{}.Burst()

// answerWords are the words of an answer that are not read yet, and the first error.
type answerWords struct {
	left []string
	err  error
}

func (a *answerWords) next() string {
	if len(a.left) == 0 {
		a.err = cmp.Or(a.err, errors.New("want more words"))
		return ""
	}
	word := a.left[0]
	a.left = a.left[1:]
	return word
}

func (a *answerWords) number() int64 {
	n, err := strconv.ParseInt(a.next(), 10, 64)
	a.err = cmp.Or(a.err, err)
	return n
}

// unit returns the unit of a digit.
func (a *answerWords) unit(digit string) bucket.Unit {
	if len(digit) != 1 || digit[0] < '1' || digit[0] > '0'+byte(bucket.NumUnits) {
		a.err = cmp.Or(a.err, fmt.Errorf("unit %.20q: want 1 to %d", digit, bucket.NumUnits))
		return 0
	}
	return bucket.Unit(digit[0] - '1')
}

// cost returns c with those units replaced that are listed.
func (a *answerWords) cost(c bucket.Cost) bucket.Cost {
	for _, digit := range strings.Split(a.next(), "") {
		c = c.With(a.unit(digit), a.number())
	}
	return c
}
