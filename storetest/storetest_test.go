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

// The rules mostly wait, so that more of them than there are CPUs can run at a time.
func TestMain(m *testing.M) {
	flag.Set("test.parallel", "4") // unless the command line says otherwise
	os.Exit(m.Run())
}

func harness(d defect) storetest.Harness {
	return storetest.Harness{
		Open: func(*testing.T) storetest.Store { return newMemory(d) },
		In:   synctest.Test,
		Unavailable: func(*testing.T) (storetest.Store, string) {
			m := newMemory(d)
			m.down = true
			return m, errDown.Error()
		},
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

// A rule that failed while the machine was busy is run again.
func TestLateAnswerIsNoDefect(t *testing.T) {
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
			t.Errorf("late each time: %q, want the delay in the verdict", verdict)
		}
	}
}

// The same for a machine that was busy while the rule waited for an answer.
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
		t.Errorf("late by 300ms while it waits: %q, want the delay in the verdict", verdict)
	}
}

// heldUp is a store that the first ask with a MaxWait reaches only after 400 ms.
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

// With Queued, a rule waits until an ask is in the queue before it starts the next.
func TestRulesWaitForQueuedAsks(t *testing.T) {
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
		t.Error("an ask that was held up by 400ms passes for the first in the queue: the test shows nothing")
	}
	h.Queued = func(key string, id bucket.LeaseID) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return slices.ContainsFunc(m.queues[key], func(w *waiter) bool { return w.ask.ID == id })
	}
	verdicts := storetest.Verdicts(t, h)
	for _, rule := range []string{"in order", "cancel", "done past the queue"} {
		if verdict := verdicts[rule]; verdict != "" {
			t.Errorf("%q: %s", rule, verdict)
		}
	}
}

// A rule about stores that cannot decide is skipped with the reason if the harness has
// none.
func TestRulesAboutUnavailableStoresAreOptional(t *testing.T) {
	h := harness(causeless)
	if skipped := storetest.Skipped(h); len(skipped) > 0 {
		t.Errorf("skipped: %q, want none", skipped)
	}
	h.Unavailable = nil
	const want = "the harness has no store that cannot decide"
	if skipped := storetest.Skipped(h); len(skipped) != 2 || skipped["unavailable"] != want {
		t.Errorf("skipped: %q, want %q for two rules", skipped, want)
	}
	if verdicts := storetest.Verdicts(t, h); len(verdicts) > 0 {
		t.Errorf("verdicts: %q, want none", verdicts)
	}
}

// Each defect breaks the rules about it. Each rule is broken by some defect.
func TestDefects(t *testing.T) {
	breaks := map[defect][]string{
		overtaking: {"in order"},
		hoping:     {"hopeless"},
		impatient:  {"queued ask is served", "max wait", "in order"},
		ghosts:     {"cancel"},
		careless:   {"canceled before"},
		stubborn:   {"settle past the queue"},
		doneLate:   {"done past the queue"},
		crediting:  {"expiry"},
		forgiving:  {"debt"},
		doubling:   {"settle twice"},
		forgetful:  {"same id", "settle"},
		undripped:  {"queued ask is served", "bound"},
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
		keyless:    {"independent keys", "no head-of-line blocking"},
		lopsided:   {"several rates"},
		anonymous:  {"unavailable"},
		causeless:  {"unavailable"},
		mistaken:   {"unavailable"},
		deaf:       {"canceled while unavailable"},
		repetitive: {"unavailable"},
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
