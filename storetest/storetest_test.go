package storetest_test

import (
	"context"
	"flag"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/choked/choked/bucket"
	"github.com/choked/choked/storetest"
)

// The rules of the law mostly wait, so that more of them can be judged at a time
// than there are CPUs.
func TestMain(m *testing.M) {
	flag.Set("test.parallel", "4") // unless the command line says otherwise
	os.Exit(m.Run())
}

func harness(d defect) storetest.Harness {
	return storetest.Harness{
		Open: func(*testing.T) storetest.Store { return newMemory(d) },
		In:   synctest.Test,
	}
}

func TestMemory(t *testing.T) { storetest.Test(t, harness(none)) }

// The same on a real clock, as a store over a network would be tested.
func TestMemoryOnRealClock(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 15s of real time")
	}
	h := harness(none)
	h.In, h.Slack = nil, 200*time.Millisecond
	storetest.Test(t, h)
}

// A store is not to blame for a machine that had something else to do.
func TestALateAnswerIsNoDefect(t *testing.T) {
	h := harness(none)
	for _, lates := range []int{0, 1, 1000} {
		var left int
		h.In = func(t *testing.T, rule func(*testing.T)) {
			left = lates
			synctest.Test(t, rule)
		}
		h.Advance = func(d time.Duration) {
			if d >= 100*time.Millisecond && left > 0 {
				left--
				d += 2 * time.Second
			}
			time.Sleep(d)
		}
		verdicts := storetest.Verdicts(t, h)
		if lates < 1000 {
			for rule, verdict := range verdicts {
				t.Errorf("late %d times: %q: %s", lates, rule, verdict)
			}
		} else if verdict := verdicts["empty"]; !strings.Contains(verdict, "late by 2s") {
			t.Errorf("late each time: %q, want that told", verdict)
		}
	}
}

// Nor for one that was busy while an answer was awaited.
func TestLateWhileWaiting(t *testing.T) {
	var paused time.Duration
	h := harness(overtaking)
	h.Open = func(*testing.T) storetest.Store {
		paused = 0
		return newMemory(overtaking)
	}
	h.Advance = func(d time.Duration) {
		if paused += d; paused > 500*time.Millisecond {
			paused = -time.Hour
			d += 300 * time.Millisecond
		}
		time.Sleep(d)
	}
	if verdict := storetest.Verdicts(t, h)["in order"]; !strings.Contains(verdict, "late by 30") {
		t.Errorf("late by 300ms while it waits: %q, want that told", verdict)
	}
}

// heldUp is a store to which the first ask that may wait is a long time on its
// way.
type heldUp struct {
	*memory
	held atomic.Bool
}

func (h *heldUp) Lease(ctx context.Context, a bucket.Ask) (bucket.Lease, error) {
	if a.MaxWait > 0 && !h.held.Swap(true) {
		time.Sleep(400 * time.Millisecond)
	}
	return h.memory.Lease(ctx, a)
}

// Who comes first is known when it stands in line, if the store can tell.
func TestWhoIsHeldUpIsWaitedFor(t *testing.T) {
	var m *memory
	h := storetest.Harness{
		Open: func(*testing.T) storetest.Store {
			m = newMemory(none)
			return &heldUp{memory: m}
		},
		In:    synctest.Test,
		Slack: 250 * time.Millisecond,
	}
	if storetest.Verdicts(t, h)["in order"] == "" {
		t.Error("held up by 400ms, an ask is taken to stand in line first: that shows nothing")
	}
	h.InLine = func(key string, id bucket.LeaseID) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return slices.ContainsFunc(m.lines[key], func(w *waiter) bool { return w.ask.ID == id })
	}
	verdicts := storetest.Verdicts(t, h)
	for _, rule := range []string{"in order", "cancel", "done past the line"} {
		if verdict := verdicts[rule]; verdict != "" {
			t.Errorf("%q: %s", rule, verdict)
		}
	}
}

// Each defect breaks the rules that speak of it. A rule that no defect breaks
// would say nothing.
func TestDefects(t *testing.T) {
	breaks := map[defect][]string{
		overtaking: {"in order"},
		hoping:     {"hopeless"},
		impatient:  {"turn", "patience", "in order"},
		ghosts:     {"cancel"},
		careless:   {"cancelled before"},
		stubborn:   {"settled past the line"},
		doneLate:   {"done past the line"},
		crediting:  {"expiry"},
		forgiving:  {"debt"},
		doubling:   {"settle twice"},
		forgetful:  {"same id", "settle"},
		unripe:     {"turn", "bound"},
		generous:   {"expiry"},
		spoiling:   {"whole"},
		partial:    {"whole"},
		blind:      {"together"},
		stale:      {"redefine"},
		amnesic:    {"redefine"},
		muddled:    {"any key"},
		splitBrain: {"full", "bound"},
		leaking:    {"settle", "use"},
		lenient:    {"bad input"},
		undead:     {"close"},
		abandoning: {"close ends waits"},
		greedy:     {"between need and want"},
		keyless:    {"independent keys", "no head of line"},
		lopsided:   {"several rates"},
	}
	spared := storetest.RuleNames()
	for d := none + 1; d < defects; d++ {
		want := breaks[d]
		got := storetest.Verdicts(t, harness(d))
		var names []string
		for name, verdict := range got {
			names = append(names, name)
			if strings.HasPrefix(verdict, "panic") {
				t.Errorf("defect %d: rule %q panics: %s", d, name, verdict)
			}
		}
		slices.Sort(names)
		spared = slices.DeleteFunc(spared, func(name string) bool { return slices.Contains(names, name) })
		if len(want) == 0 {
			t.Errorf("defect %d is not expected to break anything", d)
		}
		for _, name := range want {
			if got[name] == "" {
				t.Errorf("defect %d does not break the rule %q, only %q", d, name, names)
			}
		}
	}
	if len(spared) > 0 {
		t.Errorf("no defect breaks the rules %q", spared)
	}
}
