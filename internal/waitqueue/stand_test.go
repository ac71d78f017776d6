package waitqueue

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// stand is a store that decides by itself: a Queue before a Table, on a clock
// that the test moves.
type stand struct {
	testing.TB
	line  *Queue
	table *ledger.Table
	now   int64
	takes int      // that returned something
	empty int      // that returned nothing
	order []string // names of the asks that were answered with a grant
}

func newStand(t testing.TB) *stand {
	s := &stand{TB: t, table: ledger.NewTable()}
	s.line = New(s.table.Find)
	return s
}

// caller is one ask and what became of it.
type caller struct {
	*Entry
	id      bucket.LeaseID
	key     string
	answers []Answer
}

func (c *caller) granted() bool { return len(c.answers) == 1 && c.answers[0].Grant.OK }

func (c *caller) refused() bool {
	return len(c.answers) == 1 && c.answers[0].Err == nil && !c.answers[0].Grant.OK
}

// ask has name ask for need, and at most want, of key "k" as holder.
func (s *stand) ask(name string, a bucket.Ask) *caller {
	if a.Key == "" {
		a.Key = "k"
	}
	c := &caller{id: a.ID, key: a.Key}
	c.Entry = s.line.Add(s.now, &a, func(ans Answer) {
		c.answers = append(c.answers, ans)
		if ans.Grant.OK {
			s.order = append(s.order, name)
		}
	})
	return c
}

func (s *stand) settle(c *caller, spent bucket.Cost) {
	s.line.Add(s.now, &bucket.Settlement{Key: c.key, ID: c.id, Spent: spent}, func(Answer) {})
}

// run decides all that is worth deciding now.
func (s *stand) run() {
	s.Helper()
	for range 10_000 {
		batch := s.line.Take(s.now, math.MaxInt)
		if len(batch) == 0 {
			s.empty++
			require.Greater(s, s.line.Next(), s.now, "after a Take that returned nothing, the next is later")
			return
		}
		s.takes++
		for _, e := range batch {
			s.line.Resolve(s.now, e, s.table.Apply(s.now, e.Op))
		}
	}
	s.Fatal("the line is busy without end")
}

// until runs to the instant at, waking only when the line asks for it.
func (s *stand) until(at time.Duration) {
	s.Helper()
	for s.run(); s.line.Next() <= int64(at); s.run() {
		s.now = max(s.now, s.line.Next())
	}
	s.now = int64(at)
}

func limits(t testing.TB, requests, tokens string) bucket.Limits {
	l, err := bucket.ParseLimits(requests, tokens)
	require.NoError(t, err)
	return l
}

func requests(n int64) bucket.Cost { return bucket.Cost{Requests: n} }

func id(holder, seq uint64) bucket.LeaseID { return bucket.LeaseID{Holder: holder, Seq: seq} }

const s = time.Second
