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

// TestAnyHistory drives a queue and its buckets through random operations, with
// decisions that take time, as a leader's do, and checks what must hold in every
// history.
func TestAnyHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// A unit of each rate takes a whole number of nanoseconds. For other rates the
		// estimate of a pass may be 1 ns too early for one entry and exact for the next,
		// which is then served first: once, since the other keeps its position.
		h := &history{T: t, table: ledger.NewTable()}
		for range rapid.IntRange(1, 2).Draw(t, "definitions") {
			lim := rapid.SampledFrom([]string{"10/s", "1/s burst 4", "5/m", "20/s burst 1", "4/s,60/m burst 10"}).Draw(t, "limits")
			l, err := bucket.ParseShortLimits(lim, rapid.SampledFrom([]string{"", "100/s", "50/m"}).Draw(t, "tokens"))
			if err != nil {
				t.Fatal(err)
			}
			h.definitions = append(h.definitions, l)
		}
		h.queue = New(h.table.Find)
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
	queue       *Queue
	table       *ledger.Table
	now         int64
	asks        []*asked
	seq         uint64
	batch       []*Entry
	served      map[string]uint64 // by key: the position of the last ask that waited and was granted
}

type asked struct {
	*Entry
	ask       bucket.Ask
	answers   []Answer
	settled   bool
	cancelled bool // no answer is required
	again     bool // a later ask replaced it
	repeated  bool // another ask has the same id
}

func (h *history) ask(t *rapid.T) {
	h.seq++
	defined := rapid.IntRange(0, len(h.definitions)-1).Draw(t, "defined")
	limits := h.definitions[defined]
	// Need may exceed the burst of the ask's own definition.
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
	a.Entry = h.queue.Add(h.now, &ask, func(ans Answer) { a.answers = append(a.answers, ans) })
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
	h.queue.Add(h.now, &bucket.Settlement{Key: a.ask.Key, ID: a.ask.ID, Spent: spent}, func(Answer) {})
}

func (h *history) charge(t *rapid.T) {
	limits := h.definitions[0]
	h.queue.Add(h.now, &bucket.Adjustment{
		Key: "k", Limits: limits,
		Charge: limits.Limited(bucket.Cost{Requests: rapid.Int64Range(0, 2).Draw(t, "charge")}),
		Return: limits.Limited(bucket.Cost{Requests: rapid.Int64Range(0, 2).Draw(t, "return")}),
	}, func(Answer) {})
}

func pending(a *asked) bool { return len(a.answers) == 0 && !a.cancelled && !a.again }

func (h *history) cancel(t *rapid.T) {
	a := h.pick(t, pending)
	h.queue.Cancel(a.Entry)
	a.cancelled = true
}

func (h *history) again(t *rapid.T) {
	a := h.pick(t, pending)
	a.again, a.repeated = true, true
	h.add(a.ask).repeated = true
}

// pass decides all that is due and advances the time.
func (h *history) pass(t *rapid.T) {
	for h.decide(); h.queue.Next() <= h.now; h.decide() {
		h.take()
	}
	h.now += int64(rapid.SampledFrom([]time.Duration{1, time.Millisecond, 300 * time.Millisecond, 5 * time.Second}).Draw(t, "pass"))
}

// take begins a decision unless one is under way. Operations between take and
// decide are those that arrive while the log is written.
func (h *history) take() {
	if h.batch != nil {
		return
	}
	h.batch = h.queue.Take(h.now, 3)
	if len(h.batch) > 3 {
		h.Fatalf("Take(3) returned %d", len(h.batch))
	}
	if len(h.batch) == 0 && h.queue.Next() <= h.now {
		h.Fatalf("Take returned nothing at %d, and Next is %d", h.now, h.queue.Next())
	}
}

func (h *history) decide() {
	if h.served == nil {
		h.served = make(map[string]uint64)
	}
	for _, e := range h.batch {
		r := h.table.Apply(h.now, e.Op)
		h.queue.Resolve(h.now, e, r)
		at := slices.IndexFunc(h.asks, func(a *asked) bool { return a.Entry == e })
		if at < 0 || !r.Grant.OK || h.asks[at].repeated || len(h.definitions) > 1 {
			continue
		}
		a := h.asks[at]
		if e.position < h.served[a.ask.Key] {
			h.Fatalf("position %d of %q is served after position %d", e.position, a.ask.Key, h.served[a.ask.Key])
		}
		h.served[a.ask.Key] = e.position
	}
	h.batch = nil
}

// finish settles the leases and runs until every ask has its answer.
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
		next := h.queue.Next()
		if next > end {
			break
		}
		h.now = max(h.now, next)
	}
	for _, a := range h.asks {
		if n := len(a.answers); n > 1 || n == 0 && !a.cancelled {
			h.Fatalf("ask %v, wait %v: %d answers", a.ask.ID, a.ask.MaxWait, n)
		}
		if pending := a.state == waiting || a.state == deciding; pending {
			h.Fatalf("ask %v is still queued", a.ask.ID)
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
				h.Fatalf("ask %v was refused after %v of %v: the quota of that time suffices for all", a.ask.ID, a.answers[0].Waited, a.ask.MaxWait)
			}
		}
	}
	assert.EqualValues(h, math.MaxInt64, h.queue.Next())
	if most := 20 * (len(h.asks) + 10); wakes > most {
		h.Fatalf("%d wake-ups for %d asks", wakes, len(h.asks))
	}
}
