package waitqueue

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// fixture is a store that decides by itself: a Queue in front of a Table, on a
// clock that the test advances.
type fixture struct {
	testing.TB
	queue *Queue
	table *ledger.Table
	now   int64
	takes int      // calls of Take that returned entries
	empty int      // calls of Take that returned none
	order []string // names of the granted asks, in order
}

func newFixture(t testing.TB) *fixture {
	s := &fixture{TB: t, table: ledger.NewTable()}
	s.queue = New(s.table.Find)
	return s
}

// caller is one ask and its answers.
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

// ask queues a, for key "k" unless it names one. order holds name once it is granted.
func (s *fixture) ask(name string, a bucket.Ask) *caller {
	if a.Key == "" {
		a.Key = "k"
	}
	c := &caller{id: a.ID, key: a.Key}
	c.Entry = s.queue.Add(s.now, &a, func(ans Answer) {
		c.answers = append(c.answers, ans)
		if ans.Grant.OK {
			s.order = append(s.order, name)
		}
	})
	return c
}

func (s *fixture) settle(c *caller, spent bucket.Cost) {
	s.queue.Add(s.now, &bucket.Settlement{Key: c.key, ID: c.id, Spent: spent}, func(Answer) {})
}

// run decides and resolves until Take returns no entries.
func (s *fixture) run() {
	s.Helper()
	for range 10_000 {
		batch := s.queue.Take(s.now, math.MaxInt)
		if len(batch) == 0 {
			s.empty++
			require.Greater(s, s.queue.Next(), s.now, "Next is later than a Take that returned no entries")
			return
		}
		s.takes++
		for _, e := range batch {
			s.queue.Resolve(s.now, e, s.table.Apply(s.now, e.Op))
		}
	}
	s.Fatal("Take returned entries 10,000 times at one instant")
}

// until runs to the instant at, and wakes at the instants of Next only.
func (s *fixture) until(at time.Duration) {
	s.Helper()
	for s.run(); s.queue.Next() <= int64(at); s.run() {
		s.now = max(s.now, s.queue.Next())
	}
	s.now = int64(at)
}

func limits(t testing.TB, requests, tokens string) bucket.Limits {
	l, err := bucket.ParseShortLimits(requests, tokens)
	require.NoError(t, err)
	return l
}

func requests(n int64) bucket.Cost { return bucket.Cost{Requests: n} }

func id(holder, seq uint64) bucket.LeaseID { return bucket.LeaseID{Holder: holder, Seq: seq} }

const s = time.Second
