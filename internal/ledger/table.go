// Package ledger keeps the buckets of many keys: the table, the operations that
// change it, its encoding and its snapshots. Like package bucket it is pure: no
// clock, no goroutines. Replicas that apply the same operations at the same
// instants are equal.
package ledger

import (
	"fmt"
	"maps"
	"slices"

	"github.com/choked/choked/bucket"
)

// Op changes a [Table]: it is a *[bucket.Ask], a *[bucket.Settlement], a
// *[bucket.Adjustment] or a *[ColdStart].
type Op interface {
	// Check reports why the operation cannot be applied, or nil.
	Check() error
}

// Result is a table's answer to an [Op]. Grant is zero except for an ask. Err
// means that the operation was refused as malformed, or that its cost exceeds the
// burst.
type Result struct {
	Grant bucket.Grant
	Err   error
}

// Table holds the buckets of many keys. Two tables that were given the same
// operations at the same instants are equal. A bucket that is full and has no
// leases is equal to an absent one.
//
// A Table is not safe for concurrent use.
type Table struct {
	now     int64 // nanoseconds of the store's time
	cold    int64 // absent buckets were empty at this instant; 0: they are full
	stamps  *bucket.Stamps
	buckets map[string]entry
	most    int                       // largest len(buckets) since the map was made
	shared  map[string]*bucket.Limits // one copy of each set of limits, for all its keys

	round    uint64    // number of the latest snapshot
	snapshot *Snapshot // open; nil: none
}

// entry is a bucket and the number of the last snapshot that has it, or that was
// taken before the bucket was made.
type entry struct {
	*bucket.Bucket
	round uint64
}

// ColdStart makes all buckets that a table does not have begin empty at its
// instant, because their state has been lost. Without it they begin full.
type ColdStart struct{}

// Check implements [Op].
func (*ColdStart) Check() error { return nil }

// NewTable returns a table in which every bucket is full.
func NewTable() *Table {
	return &Table{buckets: make(map[string]entry), shared: make(map[string]*bucket.Limits)}
}

// Now returns the table's time: the latest instant that it was given.
func (t *Table) Now() int64 { return t.now }

// Len returns the number of buckets that the table keeps.
func (t *Table) Len() int { return len(t.buckets) }

// Stamp tells the calendars the wall clock of the operations that follow, up to the next
// Stamp. [Table.StampsFor] returns the stamps that they need; nil: none.
func (t *Table) Stamp(s *bucket.Stamps) { t.stamps = s }

// StampsFor returns the stamps that these operations need when the wall clock shows
// wall, in Unix nanoseconds, or nil if no limits of their keys have a calendar.
func (t *Table) StampsFor(wall int64, ops ...Op) *bucket.Stamps {
	var with []*bucket.Limits
	add := func(key string, l *bucket.Limits) {
		if l != nil && l.HasCalendar() {
			with = append(with, l)
		}
		if b := t.Get(key); b != nil {
			with = append(with, b.Calendars()...)
		}
	}
	for _, op := range ops {
		switch op := op.(type) {
		case *bucket.Ask:
			add(op.Key, &op.Limits)
			for i := range op.Done {
				add(op.Done[i].Key, nil)
			}
		case *bucket.Settlement:
			add(op.Key, nil)
		case *bucket.Adjustment:
			add(op.Key, &op.Limits)
		}
	}
	return bucket.StampsAt(wall, with...)
}

// Apply carries out op at the instant now. Time does not run backwards: an
// earlier instant counts as the latest one.
func (t *Table) Apply(now int64, op Op) Result {
	t.now = max(t.now, now)
	if err := op.Check(); err != nil {
		return Result{Err: err}
	}
	switch op := op.(type) {
	case *bucket.Ask:
		for i := range op.Done {
			t.settle(&op.Done[i])
		}
		g, err := t.open(op.Key, op.Limits, op.Defined).Lease(t.now, op)
		return Result{g, err}
	case *bucket.Settlement:
		t.settle(op)
		return Result{}
	case *bucket.Adjustment:
		t.open(op.Key, op.Limits, op.Defined).Adjust(t.now, op)
		return Result{}
	case *ColdStart:
		t.cold = max(t.now, 1)
		return Result{}
	}
	return Result{Err: fmt.Errorf("operation %T: want *bucket.Ask, *bucket.Settlement, *bucket.Adjustment or *ledger.ColdStart", op)}
}

func (t *Table) settle(s *bucket.Settlement) {
	if e, ok := t.buckets[s.Key]; ok {
		t.save(s.Key, e)
		e.Stamp(t.now, t.stamps)
		e.Settle(t.now, s.ID, s.Spent, s.Parts...)
	}
}

// open returns the bucket of key under the later of its limits and these. An
// idle bucket counts as absent, even if Sweep has not removed it yet.
func (t *Table) open(key string, limits bucket.Limits, defined int64) *bucket.Bucket {
	e, ok := t.buckets[key]
	if ok {
		t.save(key, e)
	}
	if ok && !e.Idle(t.now) {
		e.Stamp(t.now, t.stamps)
		if !limits.Equal(e.Limits()) || defined > e.Defined() {
			e.Redefine(t.now, t.share(limits), defined)
			e.Stamp(t.now, t.stamps)
		}
		return e.Bucket
	}
	b := t.fresh(t.share(limits), defined)
	b.Stamp(t.now, t.stamps)
	t.buckets[key] = entry{b, t.round}
	return b
}

// fresh returns a bucket that the table does not have.
func (t *Table) fresh(limits *bucket.Limits, defined int64) *bucket.Bucket {
	if t.cold > 0 {
		return bucket.NewEmpty(limits, defined, t.cold)
	}
	return bucket.New(limits, defined)
}

// Find returns the bucket that decides a, for reading.
func (t *Table) Find(a *bucket.Ask) *bucket.Bucket {
	if e, ok := t.buckets[a.Key]; ok && !e.Idle(t.now) {
		return e.Bucket
	}
	return t.fresh(&a.Limits, a.Defined)
}

// maxShared bounds the sets of limits kept for sharing. Beyond it they are dropped and
// collected anew, which costs memory and changes no decision.
const maxShared = 4096

func (t *Table) share(l bucket.Limits) *bucket.Limits {
	name := l.String()
	if s := t.shared[name]; s != nil {
		return s
	}
	if len(t.shared) >= maxShared {
		clear(t.shared)
	}
	s := new(bucket.Limits) // not &l, which would put each l on the heap
	*s = l
	t.shared[name] = s
	return s
}

// Get returns the bucket of key for reading, or nil if the table has none, which
// means that it is full.
func (t *Table) Get(key string) *bucket.Bucket { return t.buckets[key].Bucket }

// Sweep examines n buckets and removes the idle ones. It changes no later decision.
func (t *Table) Sweep(n int) {
	t.most = max(t.most, len(t.buckets))
	if t.most > 1024 && len(t.buckets) < t.most/8 {
		// A map does not shrink, and a few steps through a nearly empty map take
		// as long as through the full one.
		t.buckets = maps.Collect(maps.All(t.buckets))
		t.most = len(t.buckets)
	}
	for key, e := range t.buckets { // iteration begins at a random place
		if n--; n < 0 {
			return
		}
		if e.Idle(t.now) {
			t.save(key, e)
			delete(t.buckets, key)
		}
	}
}

// List describes the buckets that are not idle, sorted by key.
func (t *Table) List() []bucket.Info {
	keys := t.Keys()
	slices.Sort(keys)
	return t.Describe(keys)
}

// Keys returns the keys of all buckets, idle or not, in no order.
func (t *Table) Keys() []string {
	return slices.AppendSeq(make([]string, 0, len(t.buckets)), maps.Keys(t.buckets))
}

// Describe describes the buckets of these keys that are not idle, in the order
// of keys.
func (t *Table) Describe(keys []string) []bucket.Info {
	var list []bucket.Info
	for _, key := range keys {
		if e, ok := t.buckets[key]; ok && !e.Idle(t.now) {
			list = append(list, e.Info(key, t.now))
		}
	}
	return list
}
