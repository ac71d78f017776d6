package waitqueue

import (
	"errors"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"pgregory.net/rapid"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// TestAnyHistory drives a line and the buckets behind it through operations at
// random, with decisions that take their time, as a leader's do, and holds it
// to what every history must show.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// A unit of each takes whole nanoseconds. Where it does not, the look
		// ahead may be a nanosecond too hopeful for one and not for the next,
		// who is then served first: once, for the other keeps its place.
		h := &history{T: t, table: ledger.NewTable()}
		for range rapid.IntRange(1, 2).Draw(t, "definitions") {
			lim := rapid.SampledFrom([]string{"10/s", "1/s burst 4", "5/m", "20/s burst 1", "4/s,60/m burst 10"}).Draw(t, "limits")
			l, err := bucket.ParseLimits(lim, rapid.SampledFrom([]string{"", "100/s", "50/m"}).Draw(t, "tokens"))
			if err != nil {
				t.Fatal(err)
			}
			h.definitions = append(h.definitions, l)
		}
		h.line = New(h.table.Find)
		t.Repeat(map[string]func(*rapid.T){
			"ask":    h.ask,
			"settle": h.settle,
			"charge": h.charge,
			"cancel": h.cancel,
			"again":  h.again,
			"take":   func(*rapid.T) { h.take() },
			"decide": func(*rapid.T) { h.decide() },
			"pass":   h.pass,
		})
		h.finish()
	})
}

type history struct {
	*rapid.T
	definitions []bucket.Limits // of all keys, the earliest first
	line        *Queue
	table       *ledger.Table
	now         int64
	asks        []*asked
	seq         uint64
	batch       []*Entry
	served      map[string]uint64 // by key: the place of the last who waited and was granted
}

type asked struct {
	*Entry
	ask       bucket.Ask
	answers   []Answer
	settled   bool
	cancelled bool // need not be answered
	again     bool // another took its place
	repeated  bool // it, or another, asked for the same lease
}

func (h *history) ask(t *rapid.T) {
	h.seq++
	defined := rapid.IntRange(0, len(h.definitions)-1).Draw(t, "defined")
	limits := h.definitions[defined]
	// Need may be more than the asker's own definition allows.
	most := h.definitions[rapid.IntRange(0, len(h.definitions)-1).Draw(t, "of")]
	burst := most.Limited(most.Burst())
	a := bucket.Ask{
		Key: rapid.SampledFrom([]string{"k", "k2"}).Draw(t, "key"), Limits: limits, Defined: int64(defined),
		ID: bucket.LeaseID{Holder: rapid.Uint64Range(1, 4).Draw(t, "holder"), Seq: h.seq},
		Need: bucket.Cost{
			Requests: rapid.Int64Range(0, burst.Requests).Draw(t, "requests"),
			Tokens:   rapid.Int64Range(0, burst.Tokens).Draw(t, "tokens"),
		},
		MaxWait: rapid.SampledFrom([]time.Duration{0, time.Second, time.Hour, 100 * time.Hour}).Draw(t, "wait"),
	}
	a.Want = a.Need.Add(bucket.Cost{Requests: rapid.Int64Range(0, 5).Draw(t, "more")}).Min(burst)
	h.add(a)
}

func (h *history) add(ask bucket.Ask) *asked {
	a := &asked{ask: ask}
	a.Entry = h.line.Add(h.now, &ask, func(ans Answer) { a.answers = append(a.answers, ans) })
	h.asks = append(h.asks, a)
	return a
}

func (h *history) pick(t *rapid.T, ok func(*asked) bool) *asked {
	var some []*asked
	for _, a := range h.asks {
		if ok(a) {
			some = append(some, a)
		}
	}
	if len(some) == 0 {
		t.Skip("none")
	}
	return rapid.SampledFrom(some).Draw(t, "which")
}

func (h *history) settle(t *rapid.T) {
	a := h.pick(t, func(a *asked) bool { return !a.settled && len(a.answers) == 1 && a.answers[0].Grant.OK })
	h.settleNow(a, a.answers[0].Grant.Granted.Min(bucket.Cost{Requests: 1, Tokens: 1}))
}

func (h *history) settleNow(a *asked, spent bucket.Cost) {
	a.settled = true
	h.line.Add(h.now, &bucket.Settlement{Key: a.ask.Key, ID: a.ask.ID, Spent: spent}, func(Answer) {})
}

func (h *history) charge(t *rapid.T) {
	limits := h.definitions[0]
	h.line.Add(h.now, &bucket.Adjustment{
		Key: "k", Limits: limits,
		Charge: limits.Limited(bucket.Cost{Requests: rapid.Int64Range(0, 2).Draw(t, "charge")}),
		Return: limits.Limited(bucket.Cost{Requests: rapid.Int64Range(0, 2).Draw(t, "return")}),
	}, func(Answer) {})
}

func pending(a *asked) bool { return len(a.answers) == 0 && !a.cancelled && !a.again }

func (h *history) cancel(t *rapid.T) {
	a := h.pick(t, pending)
	h.line.Cancel(a.Entry)
	a.cancelled = true
}

func (h *history) again(t *rapid.T) {
	a := h.pick(t, pending)
	a.again, a.repeated = true, true
	h.add(a.ask).repeated = true
}

// pass lets time pass, for a store that has done what there was to do.
func (h *history) pass(t *rapid.T) {
	for h.decide(); h.line.Next() <= h.now; h.decide() {
		h.take()
	}
	h.now += int64(rapid.SampledFrom([]time.Duration{1, time.Millisecond, 300 * time.Millisecond, 5 * time.Second}).Draw(t, "pass"))
}

// take begins to decide, if nothing is being decided: what comes before decide
// comes while the log is being written.
func (h *history) take() {
	if h.batch != nil {
		return
	}
	h.batch = h.line.Take(h.now, 3)
	if len(h.batch) > 3 {
		h.Fatalf("Take(3) returned %d", len(h.batch))
	}
	if len(h.batch) == 0 && h.line.Next() <= h.now {
		h.Fatalf("Take returned nothing at %d, and Next is %d", h.now, h.line.Next())
	}
}

func (h *history) decide() {
	if h.served == nil {
		h.served = make(map[string]uint64)
	}
	for _, e := range h.batch {
		r := h.table.Apply(h.now, e.Op)
		h.line.Resolve(h.now, e, r)
		at := slices.IndexFunc(h.asks, func(a *asked) bool { return a.Entry == e })
		if at < 0 || !r.Grant.OK || h.asks[at].repeated || len(h.definitions) > 1 {
			continue
		}
		a := h.asks[at]
		if e.place < h.served[a.ask.Key] {
			h.Fatalf("place %d of %q is served after place %d", e.place, a.ask.Key, h.served[a.ask.Key])
		}
		h.served[a.ask.Key] = e.place
	}
	h.batch = nil
}

// finish lets those who hold leases settle them, and everyone's time come.
func (h *history) finish() {
	wakes := 0
	for end := h.now + int64(200*time.Hour); ; wakes++ {
		h.take()
		if len(h.batch) > 0 {
			h.decide()
			continue
		}
		h.batch = nil
		for _, a := range h.asks {
			if !a.settled && len(a.answers) == 1 && a.answers[0].Grant.OK {
				h.settleNow(a, a.answers[0].Grant.Granted)
			}
		}
		next := h.line.Next()
		if next > end {
			break
		}
		h.now = max(h.now, next)
	}
	for _, a := range h.asks {
		if n := len(a.answers); n > 1 || n == 0 && !a.cancelled {
			h.Fatalf("ask %v, wait %v: %d answers", a.ask.ID, a.ask.MaxWait, n)
		}
		if pending := a.state == waiting || a.state == taken; pending {
			h.Fatalf("ask %v is still in the line's hands", a.ask.ID)
		}
		if len(a.answers) == 1 {
			g := a.answers[0].Grant
			switch {
			case a.again && errors.Is(a.answers[0].Err, ErrAskedAgain):
			case len(h.definitions) > 1 && errors.Is(a.answers[0].Err, bucket.ErrCostExceedsBurst):
			case a.answers[0].Err != nil:
				h.Fatalf("ask %v: %v", a.ask.ID, a.answers[0].Err)
			case g.OK && !g.Granted.Covers(a.ask.Need):
				h.Fatalf("ask %v for %v got %v", a.ask.ID, a.ask.Need, g.Granted)
			case len(h.definitions) == 1 && !g.OK && a.ask.MaxWait == 100*time.Hour && !a.repeated && !a.ask.Need.IsZero():
				h.Fatalf("ask %v was refused after %v of %v: there is quota enough for all in that time", a.ask.ID, a.answers[0].Waited, a.ask.MaxWait)
			}
		}
	}
	assert.EqualValues(h, math.MaxInt64, h.line.Next())
	if most := 20 * (len(h.asks) + 10); wakes > most {
		h.Fatalf("%d wake-ups for %d asks", wakes, len(h.asks))
	}
}
