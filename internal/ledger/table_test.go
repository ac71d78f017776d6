package ledger

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/choked/choked/bucket"
)

const (
	s       = time.Second
	longest = 366 * 24 * time.Hour // Per of a rate
	ms      = time.Millisecond
)

// Two tables that apply the same log give the same answers and have the same buckets,
// even if one of them drops its idle buckets after each entry.
func TestTablesAreAFunctionOfTheLog(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, two := NewTable(), NewTable()
		for i, e := range anyLog(t) {
			a, b := e.apply(one), e.apply(two)
			two.Sweep(math.MaxInt)
			if !reflect.DeepEqual(a.Grant, b.Grant) || fmt.Sprint(a.Err) != fmt.Sprint(b.Err) {
				t.Fatalf("entry %d, %T: %+v, %v in one table and %+v, %v in the other", i, e.op, a.Grant, a.Err, b.Grant, b.Err)
			}
			if a, b := one.List(), two.List(); !reflect.DeepEqual(a, b) {
				t.Fatalf("after entry %d, %T: %+v in one table and %+v in the other", i, e.op, a, b)
			}
		}
	})
}

func TestTable(t *testing.T) {
	limits := bucket.Limits{Requests: bucket.Rates{{N: 10, Per: s, Burst: 10}}}
	ask := func(key string, seq uint64, need int64) *bucket.Ask {
		return &bucket.Ask{Key: key, ID: bucket.LeaseID{Holder: 1, Seq: seq}, Limits: limits, Defined: 1, Need: bucket.Cost{Requests: need, Tokens: 0}}
	}
	tab := NewTable()
	if r := tab.Apply(0, ask("k", 1, 8)); r.Err != nil || !r.Grant.OK {
		t.Fatalf("the first ask: %+v", r)
	}
	if r := tab.Apply(0, ask("other", 1, 10)); !r.Grant.OK {
		t.Errorf("a full bucket beside one of 2: %+v", r)
	}
	// The settlements of an ask are applied before it is decided.
	next := ask("k", 2, 7)
	next.Done = []bucket.Settlement{{Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: 1}, Spent: bucket.Cost{Requests: 3, Tokens: 0}}}
	if r := tab.Apply(0, next); !r.Grant.OK || r.Grant.Level.Requests != 0 {
		t.Errorf("7 of 2 + 5 settled: %+v", r)
	}
	// They are applied even if the ask is refused with an error.
	last := ask("k", 3, 11)
	last.Done = []bucket.Settlement{{Key: "k", ID: bucket.LeaseID{Holder: 1, Seq: 2}, Spent: bucket.Cost{}}}
	if r := tab.Apply(0, last); !errors.Is(r.Err, bucket.ErrCostExceedsBurst) {
		t.Errorf("11 of a burst of 10: %+v", r)
	}
	if level := tab.Get("k").Level(0).Requests; level != 7 {
		t.Errorf("after the settlement the level is %d, want 7", level)
	}
	// An instant in the past counts as the latest one.
	tab.Apply(int64(100*ms), ask("k", 4, 1))
	if r := tab.Apply(0, ask("k", 5, 1)); tab.Now() != int64(100*ms) || r.Grant.Level.Requests != 6 {
		t.Errorf("an ask from the past: now %v, %+v", tab.Now(), r)
	}
	if list := tab.List(); len(list) != 2 || list[0].Key != "k" || list[1].Key != "other" || list[0].Leases != 2 ||
		list[0].Leased.Requests != 2 || list[0].Level.Requests != 6 || list[0].Full != 400*ms {
		t.Errorf("List: %+v", list)
	} else if some := tab.Describe([]string{"other", "unknown"}); !reflect.DeepEqual(some, list[1:]) {
		t.Errorf("of these keys: %+v, want %+v", some, list[1:])
	}
	tab.Sweep(math.MaxInt)
	if tab.Len() != 2 {
		t.Errorf("a sweep leaves %d buckets of 2 in use", tab.Len())
	}
	tab.Apply(int64(time.Hour), ask("third", 1, 1))
	tab.Sweep(math.MaxInt)
	if tab.Len() != 1 || tab.Get("k") != nil {
		t.Errorf("a sweep leaves %d buckets of 1 in use", tab.Len())
	}
}

// After a cold start an unknown bucket has the refill since then, up to its burst.
// Buckets that the table had before are unchanged.
func TestColdStart(t *testing.T) {
	limits := bucket.Limits{Requests: bucket.Rates{{N: 10, Per: s, Burst: 20}}}
	need := func(key string, n int64) *bucket.Ask {
		return &bucket.Ask{Key: key, ID: bucket.LeaseID{Holder: uint64(n), Seq: 1}, Limits: limits, Defined: 1, Need: bucket.Cost{Requests: n, Tokens: 0}, Want: bucket.Cost{Requests: n, Tokens: 0}}
	}
	start := int64(time.Hour)
	tab := NewTable()
	tab.Apply(start, &bucket.Adjustment{Key: "known", Limits: limits, Defined: 1, Charge: bucket.Cost{Requests: 5, Tokens: 0}})
	tab.Apply(start, new(ColdStart))
	for _, at := range []struct {
		key   string
		after time.Duration
		level int64
	}{{"known", 0, 15}, {"a", 0, 0}, {"b", s / 2, 5}, {"c", 3 * s / 2, 15}, {"d", 2 * s, 20}, {"e", time.Hour, 20}} {
		now := start + int64(at.after)
		tab.Sweep(math.MaxInt)
		if level := tab.Find(need(at.key, 1)).Level(now).Requests; level != at.level {
			t.Errorf("%q, %v after the cold start: level %d, want %d", at.key, at.after, level, at.level)
		}
		if r := tab.Apply(now, need(at.key, at.level)); at.level > 0 && (!r.Grant.OK || r.Grant.Level.Requests != 0 || len(r.Grant.Drips) > 0) {
			t.Errorf("%q, %v after the cold start: %+v of %d", at.key, at.after, r, at.level)
		}
	}
}

// A settlement of an unknown key has no effect, and more sets of limits than are
// shared are decided by like others.
func TestUnknownKeysAndManyLimits(t *testing.T) {
	tab := NewTable()
	if r := tab.Apply(0, &bucket.Settlement{Key: "k", Spent: bucket.Cost{Requests: 5, Tokens: 5}}); r.Err != nil || tab.Len() != 0 {
		t.Errorf("a settlement for no bucket: %+v, and %d buckets", r, tab.Len())
	}
	for i := range int64(maxShared + 10) {
		l := bucket.Limits{Requests: bucket.Rates{{N: i + 1, Per: s, Burst: 1}}}
		a := &bucket.Ask{Key: fmt.Sprint(i), ID: bucket.LeaseID{Holder: 1, Seq: 1}, Limits: l, Need: bucket.Cost{Requests: 1, Tokens: 0}}
		if r := tab.Apply(0, a); !r.Grant.OK || !tab.Get(a.Key).Limits().Equal(l) {
			t.Fatalf("key %d: %+v, limits %v", i, r, tab.Get(a.Key).Limits())
		}
	}
	if len(tab.shared) > maxShared {
		t.Errorf("%d sets of limits are shared, want at most %d", len(tab.shared), maxShared)
	}
}

// A table answers any operation, and grants at most the want and at most the burst.
func FuzzTable(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed, int64(5), int64(1000), int64(3), int64(50), int64(1e9))
	}
	f.Add(uint64(1), int64(bucket.MaxUnits), int64(math.MaxInt64), int64(-1), int64(math.MinInt64), int64(math.MaxInt64))
	f.Add(uint64(2), int64(1), int64(longest), int64(bucket.MaxUnits), int64(bucket.MaxUnits), int64(10*longest))
	f.Fuzz(func(t *testing.T, seed uint64, n, per, burst, units, step int64) {
		r := rand.New(rand.NewPCG(seed, 2))
		values := []int64{0, 1, n, burst, units, step, bucket.MaxUnits, r.Int64N(1000)}
		pick := func() int64 { return values[r.IntN(len(values))] }
		l := bucket.Limits{Requests: bucket.Rates{{N: n, Per: time.Duration(per), Burst: burst}}, Tokens: bucket.Rates{{N: 5, Per: s, Burst: 7}}}
		tab, now := NewTable(), int64(0)
		for range 50 {
			now += min(max(step, 0), int64(longest)) / int64(1+r.IntN(5)) // some decades in all
			id := bucket.LeaseID{Holder: 1, Seq: r.Uint64N(8)}
			switch r.IntN(3) {
			case 0:
				a := &bucket.Ask{Key: "k", ID: id, Limits: l, Defined: pick(), Need: bucket.Cost{Requests: pick(), Tokens: pick()}, Want: bucket.Cost{Requests: pick(), Tokens: pick()}}
				b := tab.Get("k") // a known id may be granted again
				known := b != nil && b.Info("k", now).Leases > 0
				g := tab.Apply(now, a).Grant
				if g.OK && !known && (!l.Burst().Covers(g.Granted) || !a.Want.Max(a.Need).Covers(g.Granted) || !g.Granted.Covers(a.Need)) {
					t.Fatalf("%v, need %v, want %v: granted %v", l, a.Need, a.Want, g.Granted)
				}
			case 1:
				tab.Apply(now, &bucket.Settlement{Key: "k", ID: id, Spent: bucket.Cost{Requests: pick(), Tokens: pick()}})
			case 2:
				tab.Apply(now, &bucket.Adjustment{Key: "k", Limits: l, Return: bucket.Cost{Requests: pick(), Tokens: pick()}, Charge: bucket.Cost{Requests: pick(), Tokens: pick()}, Empty: time.Duration(pick())})
			}
			if b := tab.Get("k"); b != nil && b.Leased(now).Requests > burst {
				t.Fatalf("%v: %v leased, above the burst", l, b.Leased(now))
			}
			tab.List()
			tab.Sweep(1)
		}
	})
}

// After a flood of keys, the memory of their buckets is freed once they are full
// again, and Sweep takes as few steps as before.
func TestMemoryIsFreedAfterAFloodOfKeys(t *testing.T) {
	const keys = 100_000
	heap := func() int64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	before := heap()
	table := NewTable()
	limits := bucket.Limits{Requests: bucket.Rates{{N: 10, Per: time.Second, Burst: 10}}}
	for i := range keys {
		table.Apply(0, &bucket.Ask{Key: strconv.Itoa(i), ID: bucket.LeaseID{Holder: 1, Seq: uint64(i)}, Limits: limits, Need: bucket.Cost{Requests: 1}, Want: bucket.Cost{Requests: 1}})
	}
	for now := int64(time.Minute); table.Len() > 1; {
		table.Apply(now, &bucket.Adjustment{Key: "last", Limits: limits, Charge: bucket.Cost{Requests: 1}})
		table.Sweep(1000)
	}
	if left := heap() - before; left > 8*keys {
		t.Errorf("%d bytes left for each of %d keys", left/keys, keys)
	}
	runtime.KeepAlive(table)
}
