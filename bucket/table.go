package bucket

import (
	"fmt"
	"maps"
	"slices"
	"time"
)

// Op is what changes a [Table]: an *[Ask], a *[Settlement], an *[Adjustment] or
// a *[ColdStart].
type Op interface {
	// Check reports why the operation cannot be applied, or nil.
	Check() error
}

// Result is a table's answer to an [Op]. Grant is zero but for an ask. Err
// means that nothing was decided, or that the op was refused as it stands.
type Result struct {
	Grant Grant
	Err   error
}

// Table is the buckets of many keys. Two tables that were given the same
// operations at the same instants are equal. A full bucket without leases takes
// no part in that: it is the same as no bucket.
//
// A Table is not safe for concurrent use.
type Table struct {
	now     int64
	cold    int64 // buckets that are not here were empty then; 0: they are full
	buckets map[string]*Bucket
	most    int                // in buckets since it was made
	shared  map[string]*Limits // one copy of each set of limits, for all its keys

	round    uint64    // of snapshots
	snapshot *Snapshot // open; nil: none
}

// ColdStart has all buckets that a table does not know begin empty, as of now:
// what was known of them is lost. By themselves, they begin full.
type ColdStart struct{}

// Check implements [Op].
func (*ColdStart) Check() error { return nil }

// NewTable returns a table in which every bucket is full.
func NewTable() *Table {
	return &Table{buckets: make(map[string]*Bucket), shared: make(map[string]*Limits)}
}

// Now is the table's time: the latest instant that it was given.
func (t *Table) Now() int64 { return t.now }

// Len is how many buckets are kept.
func (t *Table) Len() int { return len(t.buckets) }

// Apply carries out op at the instant now. Time does not run backwards: an
// earlier instant counts as the latest one.
func (t *Table) Apply(now int64, op Op) Result {
	t.now = max(t.now, now)
	if err := op.Check(); err != nil {
		return Result{Err: err}
	}
	switch op := op.(type) {
	case *Ask:
		for i := range op.Done {
			t.settle(&op.Done[i])
		}
		g, err := t.open(op.Key, op.Limits, op.Defined).Lease(t.now, op)
		return Result{g, err}
	case *Settlement:
		t.settle(op)
		return Result{}
	case *Adjustment:
		t.open(op.Key, op.Limits, op.Defined).Adjust(t.now, op)
		return Result{}
	case *ColdStart:
		t.cold = max(t.now, 1)
		return Result{}
	}
	return Result{Err: fmt.Errorf("operation %T: want *Ask, *Settlement, *Adjustment or *ColdStart", op)}
}

func (t *Table) settle(s *Settlement) {
	if b := t.buckets[s.Key]; b != nil {
		t.save(s.Key, b)
		b.Settle(t.now, s.ID, s.Spent)
	}
}

// open returns the bucket of key under the later of its limits and these.
func (t *Table) open(key string, limits Limits, defined int64) *Bucket {
	b := t.buckets[key]
	if b != nil {
		t.save(key, b)
	}
	if b != nil && !b.Idle(t.now) {
		if !limits.Equal(*b.limits) || defined > b.defined {
			b.Redefine(t.now, t.share(limits), defined)
		}
		return b
	}
	// One that is idle counts as absent, whether it was swept here or not.
	b = t.fresh(t.share(limits), defined)
	b.round = t.round
	t.buckets[key] = b
	return b
}

// fresh returns a bucket that the table does not know.
func (t *Table) fresh(limits *Limits, defined int64) *Bucket {
	b := New(limits, defined)
	if t.cold > 0 {
		b.rates(func(i int, _ Unit, r Rate) { b.tats[i] = later(t.cold, r.fill()) })
	}
	return b
}

// Find returns the bucket that a would find, for reading.
func (t *Table) Find(a *Ask) *Bucket {
	if b := t.buckets[a.Key]; b != nil && !b.Idle(t.now) {
		return b
	}
	return t.fresh(&a.Limits, a.Defined)
}

// maxShared bounds the sets of limits that are remembered for sharing; beyond
// it sharing begins anew, and costs memory, not correctness.
const maxShared = 4096

func (t *Table) share(l Limits) *Limits {
	name := l.String()
	if s := t.shared[name]; s != nil {
		return s
	}
	if len(t.shared) >= maxShared {
		clear(t.shared)
	}
	s := &Limits{l.Requests, l.Tokens} // not &l, which would put each l on the heap
	t.shared[name] = s
	return s
}

// Get returns the bucket of key for reading, or nil when it is as good as new.
func (t *Table) Get(key string) *Bucket { return t.buckets[key] }

// Sweep looks at some n buckets and forgets those that are idle by the table's
// time. It changes nothing that an operation could tell.
func (t *Table) Sweep(n int) {
	t.most = max(t.most, len(t.buckets))
	if t.most > 1024 && len(t.buckets) < t.most/8 {
		// A map does not shrink, and to walk a few steps of one that is nearly
		// empty takes as long as when it was full.
		t.buckets = maps.Collect(maps.All(t.buckets))
		t.most = len(t.buckets)
	}
	for key, b := range t.buckets { // a map is walked from a random place
		if n--; n < 0 {
			return
		}
		if b.Idle(t.now) {
			t.save(key, b)
			delete(t.buckets, key)
		}
	}
}

// Info is a bucket as [Table.List] shows it.
type Info struct {
	Key    string
	Limits Limits
	Level  Cost // below zero when quota is promised ahead or owed
	Leased Cost
	Leases int
	Full   time.Duration // until it is full, if all that is leased is spent
}

// List describes the buckets that are not idle, in the order of their keys.
func (t *Table) List() []Info {
	keys := t.Keys()
	slices.Sort(keys)
	return t.Describe(keys)
}

// Keys returns the keys of all buckets, idle or not, in no order.
func (t *Table) Keys() []string {
	return slices.AppendSeq(make([]string, 0, len(t.buckets)), maps.Keys(t.buckets))
}

// Describe describes those of the buckets with these keys that are not idle, in
// the same order.
func (t *Table) Describe(keys []string) []Info {
	var list []Info
	for _, key := range keys {
		b := t.buckets[key]
		if b == nil || b.Idle(t.now) {
			continue
		}
		c := b.at(t.now)
		list = append(list, Info{
			Key: key, Limits: *c.limits, Level: c.level(t.now), Leased: c.out, Leases: len(c.leases),
			Full: time.Duration(slices.Max(c.tats[:c.limits.len()]) - t.now),
		})
	}
	return list
}
