package storetest_test

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/internal/ledger"
)

// defect is a way to break the store.
type defect int

const (
	none       defect = iota
	overtaking        // serves any ask that can be served, as a store that polls does
	hoping            // queues asks that cannot be granted within MaxWait
	impatient         // refuses every ask that would wait
	ghosts            // leaves canceled asks in the queue
	careless          // grants asks whose context has ended
	stubborn          // queues settlements behind asks
	doneLate          // applies the settlements of an ask only when the ask is served
	crediting         // refunds leases that expire
	forgiving         // forgets debts
	doubling          // applies a repeated settlement again
	forgetful         // grants another lease to a repeated id
	undripped         // omits the drips of promised units
	generous          // reports a ValidFor that is too long
	spoiling          // spends units on refusals
	partial           // grants less than the need
	blind             // limits requests, but not tokens
	stale             // keeps the limits that it saw first
	amnesic           // forgets the debt when the limits change
	muddled           // ends keys at a zero byte
	splitBrain        // has two buckets for a key
	leaking           // loses a unit with each settlement
	lenient           // answers bad input with a refusal
	undead            // answers after Close
	abandoning        // leaves waiting asks without an answer on Close
	greedy            // grants more than the want
	keyless           // has one bucket for all keys
	lopsided          // applies only the first rate of a unit
	anonymous         // is unavailable without ErrUnavailable
	causeless         // is unavailable without the cause
	mistaken          // is unavailable with a deadline that reads as the caller's
	deaf              // ignores the end of the caller's context while unavailable
	repetitive        // names the key in its errors, as its caller does
	defects
)

// faults is the state of the defects.
type faults struct {
	seq    uint64
	loans  []bucket.Settlement
	ends   []int64
	limits map[string]bucket.Limits
	spent  map[bucket.LeaseID]bucket.Settlement
}

// applyLocked applies op to the table, or what the store's defect makes of it.
func (m *memory) applyLocked(op ledger.Op) ledger.Result {
	now := m.now()
	switch op := op.(type) {
	case *bucket.Ask:
		a := *op
		m.spoilAsk(&a)
		r := m.table.Apply(now, &a)
		switch {
		case m.defect == lenient && r.Err != nil && !errors.Is(r.Err, bucket.ErrCostExceedsBurst):
			r = ledger.Result{Grant: bucket.Grant{RetryAfter: time.Second}}
		case m.defect == spoiling && r.Err == nil && !r.Grant.OK && !a.Need.IsZero():
			m.table.Apply(now, &bucket.Adjustment{Key: a.Key, Limits: a.Limits, Defined: a.Defined, Charge: bucket.Cost{Requests: 1}})
		case m.defect == crediting && r.Grant.OK:
			m.faults.loans = append(m.faults.loans, bucket.Settlement{Key: a.Key, ID: a.ID})
			m.faults.ends = append(m.faults.ends, now+int64(r.Grant.TTL))
		}
		return r
	case *bucket.Settlement:
		s := *op
		m.spoilSettlement(&s)
		return m.table.Apply(now, &s)
	case *bucket.Adjustment:
		a := *op
		a.Key = m.spoilKey(a.Key)
		return m.table.Apply(now, &a)
	}
	panic("no such operation")
}

func (m *memory) spoilAsk(a *bucket.Ask) {
	a.Key = m.spoilKey(a.Key)
	switch m.defect {
	case forgetful:
		m.faults.seq++
		a.ID.Seq += m.faults.seq << 32
	case partial:
		a.Want = a.Want.Max(a.Need)
		if room := (bucket.Cost{Requests: 1}); !a.Need.IsZero() {
			a.Need = a.Need.Min(room)
		}
	case blind:
		a.Limits.Tokens = nil
	case greedy:
		a.Want.Requests += 2
	case lopsided:
		a.Limits.Requests = a.Limits.Requests[:min(1, len(a.Limits.Requests))]
	case stale:
		if m.faults.limits == nil {
			m.faults.limits = make(map[string]bucket.Limits)
		}
		if _, ok := m.faults.limits[a.Key]; !ok {
			m.faults.limits[a.Key] = a.Limits
		}
		a.Limits = m.faults.limits[a.Key]
	case amnesic:
		a.Key += a.Limits.String()
	case splitBrain:
		if a.ID.Holder%2 == 0 {
			a.Key = "other half of " + a.Key
		}
	}
}

func (m *memory) spoilSettlement(s *bucket.Settlement) {
	s.Key = m.spoilKey(s.Key)
	switch m.defect {
	case splitBrain:
		if s.ID.Holder%2 == 0 {
			s.Key = "other half of " + s.Key
		}
	case leaking:
		s.Spent.Requests++
	case forgiving:
		s.Spent = s.Spent.Min(bucket.Cost{Requests: 5, Tokens: 5})
	case doubling:
		if m.faults.spent == nil {
			m.faults.spent = make(map[bucket.LeaseID]bucket.Settlement)
		}
		if _, again := m.faults.spent[s.ID]; again {
			if b := m.table.Get(s.Key); b != nil {
				now := m.now()
				m.table.Apply(now, &bucket.Adjustment{Key: s.Key, Limits: b.Limits(), Return: bucket.Cost{Requests: 1}, Since: now})
			}
		}
		m.faults.spent[s.ID] = *s
	}
}

func (m *memory) spoilKey(key string) string {
	switch m.defect {
	case muddled:
		key, _, _ = strings.Cut(key, "\x00")
	case keyless:
		key = "one for all"
	}
	return key
}

// spoil changes an answer as the defect does.
func (m *memory) spoil(l bucket.Lease) bucket.Lease {
	switch m.defect {
	case undripped:
		l.Drips = nil
	case generous:
		l.ValidFor *= 2
	}
	return l
}

// refundExpiredLocked refunds expired leases, which is the defect of crediting.
func (m *memory) refundExpiredLocked() {
	for i := 0; i < len(m.faults.loans); i++ {
		if s := &m.faults.loans[i]; m.faults.ends[i]-1 <= m.now() {
			if b := m.table.Get(s.Key); b != nil {
				now := m.now()
				m.table.Apply(now, &bucket.Adjustment{Key: s.Key, Limits: b.Limits(), Return: bucket.Cost{Requests: 10}, Since: now})
			}
			m.faults.loans = append(m.faults.loans[:i], m.faults.loans[i+1:]...)
			m.faults.ends = append(m.faults.ends[:i], m.faults.ends[i+1:]...)
			i--
		}
	}
}

// awaitEmptyQueues waits until no ask waits.
func (m *memory) awaitEmptyQueues(ctx context.Context) {
	for ctx.Err() == nil {
		m.mu.Lock()
		n := 0
		for _, queue := range m.queues {
			n += len(queue)
		}
		m.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}
